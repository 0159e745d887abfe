"""The `rankvol` command itself, and `rankvol ls`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
import yaml
from airflow.cli.cli_parser import _add_command

from airflow_rankvol._cli_commands import add_commands, get_cli_commands
from airflow_rankvol.cli import main
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import AuthDenied
from airflow_rankvol.provider_info import get_provider_info
from tests.unit.cli_kit import CONNECTION, Cloud, install, rows


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return install(monkeypatch)


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom airflow_rankvol.cli import main\n"
        "try:\n    main(['reap', '--help'])\nexcept SystemExit as exit_:\n    assert exit_.code == 0\n"
        "heavy = {'airflow', 'pydantic', 'sqlalchemy', 'yaml', 'tabulate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "exit codes: 0" in result.stdout


def test_ls_says_none_when_there_is_nothing(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == "none\n"


def test_ls_shows_volumes_and_nodes_with_the_verdict_on_each(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    names = cloud.volumes(size="20GB", reclaim="delete_always")
    cloud.node("node-0")
    cloud.runs["etl", "r1"] = RunState.ENDED
    assert main(["ls", "--output", "json"]) == 0
    found = {row["name"]: row for row in rows(capsys)}
    assert set(found) == {*names, "node-0"}
    volume = found[names[1]]
    assert volume.pop("id").startswith("vol")
    assert volume.pop("expiry").endswith("+00:00")
    assert volume == {
        "conn_id": "rankvol_default",
        "kind": "volume",
        "name": names[1],
        "dag": "etl",
        "run": "r1",
        "group": "ranks",
        "rank": 1,
        "state": "available",
        "size_gib": 20,
        "scope": "run",
        "reclaim": "delete_always",
        "run_state": "ended",
        "action": "remove",
        "reason": "its run has ended; reclaim policy delete_always",
    }
    assert (found["node-0"]["kind"], found["node-0"]["size_gib"]) == ("node", None)


def test_ls_tables_show_sizes_with_a_unit(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    name = cloud.volumes(nodes=1, size="1.5TB")[0]
    assert main(["ls"]) == 0
    header, _, line = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["kind", "name", "id", "dag"]
    assert name in line
    assert "1.5TB" in line.split()


def test_ls_yaml_is_the_same_as_json(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes()
    main(["ls", "-o", "json"])
    as_json = capsys.readouterr().out
    main(["ls", "-o", "yaml"])
    assert yaml.safe_load(capsys.readouterr().out) == json.loads(as_json)


def test_ls_selects_by_dag_run_and_owner(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes("etl", "r1", nodes=1)
    cloud.volumes("etl", "r2", nodes=1)
    cloud.volumes("train", "r1", nodes=1)
    for arguments, expected in (
        (["--dag", "etl"], {("etl", "r1"), ("etl", "r2")}),
        (["--dag", "etl", "--run", "r2"], {("etl", "r2")}),
        (["--run", "r1"], {("etl", "r1"), ("train", "r1")}),
        (["--owner", "someone-else"], set()),
    ):
        assert main(["ls", "-o", "json", *arguments]) == 0
        assert {(row["dag"], row["run"]) for row in rows(capsys)} == expected


def test_ls_covers_the_configured_connections(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.volumes(nodes=1)
    monkeypatch.setenv("AIRFLOW__RANKVOL__CONN_IDS", "rankvol_default, other_cloud")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER_CLOUD", CONNECTION)
    assert main(["ls", "-o", "json"]) == 0
    assert [row["conn_id"] for row in rows(capsys)] == ["rankvol_default", "other_cloud"]
    assert main(["ls", "-o", "json", "--conn-id", "other_cloud"]) == 0
    assert [row["conn_id"] for row in rows(capsys)] == ["other_cloud"]


def test_an_undefined_connection_is_a_usage_error_without_a_traceback(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", "--conn-id", "nowhere"]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "connection 'nowhere' is not defined" in answer.err
    assert "Traceback" not in answer.err


def test_a_backend_that_fails_is_named_and_nothing_is_claimed(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes(nodes=1)
    cloud.backend.faults.fail("list_owned", AuthDenied)
    assert main(["ls"]) == 1
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "rankvol_default: fake list_owned" in answer.err


def test_airflow_has_the_same_commands_with_the_same_arguments() -> None:
    (group,) = get_provider_info()["cli"]
    assert group == f"{get_cli_commands.__module__}.{get_cli_commands.__name__}"
    airflow = argparse.ArgumentParser()
    _add_command(airflow.add_subparsers(), get_cli_commands()[0])
    ours = argparse.ArgumentParser()
    add_commands(ours.add_subparsers(dest="command"))
    for argv in (
        ["plan", "job.yaml", "--nodes", "3", "--param", "a=1", "--param", "b=2"],
        ["ls", "-o", "yaml", "--conn-id", "a", "--conn-id", "b"],
        ["cost", "--by", "dag", "--run", "r"],
        [
            "reap",
            "--yes",
            "--older-than",
            "2h",
            "--dag",
            "d",
            "--run",
            "r",
            "--name",
            "n",
            "--owner",
            "o",
            "--without-airflow",
        ],
    ):
        theirs = vars(airflow.parse_args(["rankvol", *argv]))
        name = theirs.pop("func").args[0]
        del theirs["subcommand"]
        assert {"command": name, **theirs} == vars(ours.parse_args(argv))


def test_airflow_ends_with_the_commands_exit_code(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes(expiry="1s")
    cloud.backend.clock.sleep(60)
    parser = argparse.ArgumentParser()
    _add_command(parser.add_subparsers(), get_cli_commands()[0])
    args = parser.parse_args(["rankvol", "reap", "-o", "json"])
    with pytest.raises(SystemExit) as exit_:
        args.func(args)
    assert exit_.value.code == 3
    assert len(rows(capsys)) == 2

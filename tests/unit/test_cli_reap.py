"""`rankvol reap`: what goes, what stays, and what the exit code says."""

from __future__ import annotations

import pytest

from airflow_rankvol.cli import main
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import NotOurs
from tests.unit.cli_kit import Cloud, install, rows


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return install(monkeypatch)


def test_reap_only_lists_and_exits_3_without_yes(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    names = cloud.volumes(expiry="1h")
    kept = cloud.volumes("etl", "r2", nodes=1, expiry="3h")
    cloud.backend.clock.sleep(2 * 3600)
    assert main(["reap", "-o", "json"]) == 3
    assert {row["name"]: row["action"] for row in rows(capsys)} == {
        **dict.fromkeys(names, "remove"),
        kept[0]: "keep",
    }
    assert cloud.names == {*names, *kept}


def test_reap_yes_removes_and_then_nothing_is_left(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes(reclaim="delete_always")
    cloud.node("node-0")
    cloud.runs["etl", "r1"] = RunState.ENDED
    assert main(["reap", "--yes", "-o", "json"]) == 0
    assert {row["action"] for row in rows(capsys)} == {"removed"}
    assert cloud.backend.is_empty
    assert main(["reap"]) == 0
    assert capsys.readouterr().out == "none\n"


def test_reap_exits_0_when_all_that_is_there_stays(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes(scope="dag")
    assert main(["reap"]) == 0
    answer = capsys.readouterr()
    assert "goes only when named" in answer.out
    assert "0 to remove, 2 stay" in answer.err


def test_reap_names_what_could_not_be_removed(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    names = cloud.volumes(reclaim="delete_always")
    cloud.runs["etl", "r1"] = RunState.ENDED
    cloud.backend.faults.fail("delete_volume", NotOurs)
    assert main(["reap", "--yes", "-o", "json"]) == 1
    assert {row["name"]: row["action"] for row in rows(capsys)} == {names[0]: "failed", names[1]: "removed"}
    assert cloud.names == {names[0]}


def test_the_operators_word_ends_a_run_that_airflow_does_not_know(cloud: Cloud) -> None:
    names = cloud.volumes(reclaim="delete_always")
    other = cloud.volumes("etl", "r2", reclaim="delete_always")
    assert main(["reap", "--yes"]) == 0
    assert cloud.names == {*names, *other}
    assert main(["reap", "--run", "r1"]) == 3
    assert main(["reap", "--run", "r1", "--yes"]) == 0
    assert cloud.names == set(other)


@pytest.mark.parametrize("named", [False, True], ids=["run", "run-and-name"])
def test_nothing_of_a_live_run_is_ever_removed(cloud: Cloud, capsys: pytest.CaptureFixture[str], named: bool) -> None:
    names = cloud.volumes(reclaim="delete_always", expiry="1s")
    cloud.node("node-0")
    cloud.backend.clock.sleep(4 * 3600)
    cloud.runs["etl", "r1"] = RunState.LIVE
    before = cloud.names
    arguments = ["--name", names[0]] if named else []
    assert main(["reap", "--run", "r1", "--yes", *arguments]) == 1
    assert cloud.names == before
    assert "run r1 of DAG etl lives" in capsys.readouterr().err


def test_the_operators_word_covers_one_dag_only(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    etl = cloud.volumes("etl", "scheduled__1", reclaim="delete_always")
    train = cloud.volumes("train", "scheduled__1", reclaim="delete_always")
    assert main(["reap", "--run", "scheduled__1", "--yes"]) == 2
    assert "say with --dag which" in capsys.readouterr().err
    assert cloud.names == {*etl, *train}
    assert main(["reap", "--run", "scheduled__1", "--dag", "train", "--yes"]) == 0
    assert cloud.names == set(etl)


def test_a_run_of_the_same_id_that_airflow_knows_needs_no_dag(cloud: Cloud) -> None:
    cloud.volumes("etl", "scheduled__1", reclaim="delete_always")
    live = cloud.volumes("train", "scheduled__1", reclaim="delete_always")
    cloud.runs["train", "scheduled__1"] = RunState.LIVE
    assert main(["reap", "--run", "scheduled__1", "--yes"]) == 1
    assert cloud.names == set(live)


def test_a_name_takes_that_volume_alone_whatever_its_scope(cloud: Cloud) -> None:
    names = cloud.volumes(scope="dag")
    expired = cloud.volumes("etl", "r2", expiry="1s")
    cloud.backend.clock.sleep(60)
    assert main(["reap", "--name", names[0]]) == 3
    assert main(["reap", "--name", names[0], "--yes"]) == 0
    assert cloud.names == {names[1], *expired}


def test_a_name_has_to_be_exact(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    names = cloud.volumes(scope="dag")
    assert main(["reap", "--name", names[0][:-1], "--yes"]) == 0
    assert cloud.names == set(names)
    assert f"nothing of ours is named {names[0][:-1]!r}" in capsys.readouterr().err


def test_a_named_volume_that_has_to_stay_is_an_error(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    name = cloud.volumes(nodes=1, scope="dag")[0]
    cloud.runs["etl", "r1"] = RunState.LIVE
    assert main(["reap", "--name", name, "--yes"]) == 1
    assert "stays: its run lives" in capsys.readouterr().err


def test_older_than_leaves_what_is_younger(cloud: Cloud) -> None:
    cloud.volumes("etl", "old", reclaim="delete_always", expiry="1h")
    cloud.backend.clock.sleep(3 * 3600)
    young = cloud.volumes("etl", "young", reclaim="delete_always", expiry="1s")
    cloud.backend.clock.sleep(60)
    assert main(["reap", "--older-than", "2h", "--yes"]) == 0
    assert cloud.names == set(young)


def test_a_wrong_duration_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["reap", "--older-than", "soon"])
    assert exit_.value.code == 2
    assert "'soon' is not a duration" in capsys.readouterr().err


def test_what_lives_again_when_it_is_due_is_not_counted_as_removed(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody clears a task between the list and the removal; what Airflow said for the list is not reused."""
    names = cloud.volumes(reclaim="delete_always")
    cloud.node("node-0")
    cloud.runs["etl", "r1"] = RunState.ENDED
    cloud.live_after = 1
    assert main(["reap", "--yes"]) == 0
    assert cloud.names == {*names, "node-0"}
    assert "0 removed, 0 could not be removed, 3 stay" in capsys.readouterr().err
    cloud.live_after = cloud.asked + 2
    assert main(["reap", "--yes"]) == 0
    assert set(cloud.backend.volumes) == set(names)
    assert not cloud.backend.nodes

"""What the bootstrap does on a node that really runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_rankvol.records import NodeState
from tests.contract.support import PATH, Lab, console, until

SHOW = 'for name in "$@"; do printf "%s=%s\\n" "$name" "${!name}"; done'


def test_a_command_writes_to_its_volume_and_its_result_comes_back(real: Lab) -> None:
    report = real.run_rank(
        real.volume(), commands="echo hello; echo data >$VOLUME_PATH/file; echo '{\"n\": 1}' >$RANKVOL_RESULT"
    )
    assert (report.phase, report.exit_code, report.reused) == ("done", 0, False)
    assert json.loads(report.text("output")) == {"n": 1}
    assert report.text("log_tail") == "hello\n"
    assert report.attached_at < report.started_at < report.finished_at


def test_the_environment_is_that_of_the_rank(real: Lab) -> None:
    names = "NODE_RANK NODES_NUM GPUS_PER_NODE GPUS_NUM VOLUME_PATHS GREETING HOME PWD"
    report = real.run_rank(
        real.volume(2),
        commands=f"set -- {names}\n{SHOW}\n[ $DSTACK_NODE_RANK = 2 ] && [ $NODE_IP = $DSTACK_NODE_IP ]",
        rank=2,
        gpus_per_node=2,
        env={"GREETING": 'it\'s "$HOME"\ntwo lines'},
    )
    lines = report.text("log_tail")
    assert report.exit_code == 0, lines
    assert "NODE_RANK=2\nNODES_NUM=4\nGPUS_PER_NODE=2\nGPUS_NUM=8\nVOLUME_PATHS=[" in lines
    assert 'GREETING=it\'s "$HOME"\ntwo lines\n' in lines


def test_nothing_of_the_creators_environment_reaches_a_node(real: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "private")
    assert "AIRFLOW" not in real.run_rank(real.volume(), commands="env").text("log_tail")


def test_files_lie_in_a_fresh_working_directory(real: Lab) -> None:
    files = {"deep/er/a b.bin": bytes(range(256)), "etl.sh": b"echo from file\n"}
    report = real.run_rank(
        real.volume(),
        commands="[ $PWD = $RANKVOL_WORKDIR ]; bash etl.sh; find . -type f | sort; wc -c <'deep/er/a b.bin'",
        files=files,
    )
    assert report.text("log_tail") == "from file\n./deep/er/a b.bin\n./etl.sh\n256\n"


def test_a_failing_command_is_reported_with_its_code_and_last_lines(real: Lab) -> None:
    report = real.run_rank(real.volume(), commands="seq 1 200; false | true; echo unreachable")
    assert (report.phase, report.exit_code) == ("failed", 1)
    assert report.text("log_tail").splitlines() == [str(number) for number in range(151, 201)]


def test_a_failed_rank_finds_its_files_again_on_its_next_attempt(real: Lab) -> None:
    volume = real.volume()
    first = real.run_rank(volume, commands="echo checkpoint >$VOLUME_PATH/state; exit 7")
    again = real.run_rank(volume, commands="cat $VOLUME_PATH/state", attempt=2)
    assert (first.exit_code, again.exit_code, again.text("log_tail")) == (7, 0, "checkpoint\n")


def test_a_finished_rank_is_not_computed_again(real: Lab) -> None:
    volume = real.volume()
    first = real.run_rank(volume, commands='echo "{}" >$RANKVOL_RESULT; echo once')
    again = real.run_rank(volume, commands="exit 9", attempt=2)
    assert (again.phase, again.exit_code, again.reused) == ("done", 0, True)
    for name in ("output_b64", "log_tail_b64", "started_at", "finished_at"):
        assert again.raw[name] == first.raw[name]


@pytest.mark.parametrize("change", [{"digest": "digest-2"}, {"identity": "run-9"}, {"reuse": False}])
def test_a_record_of_something_else_is_not_reused(real: Lab, change: dict[str, str]) -> None:
    volume = real.volume()
    real.run_rank(volume, commands="true")
    again = real.run_rank(volume, commands="echo computed", attempt=2, **change)
    assert (again.reused, again.text("log_tail")) == (False, "computed\n")


def test_a_failed_attempt_takes_the_old_record_out_of_the_way(real: Lab) -> None:
    volume = real.volume()
    real.run_rank(volume, commands="true")
    assert real.run_rank(volume, commands="exit 3", attempt=2, digest="digest-2").exit_code == 3
    assert real.run_rank(volume, commands="echo computed", attempt=3).reused is False


def test_a_result_that_is_too_large_is_an_error(real: Lab) -> None:
    report = real.run_rank(real.volume(), commands="head -c 16385 /dev/zero >$RANKVOL_RESULT")
    assert (report.phase, report.exit_code, report.text("output")) == ("failed", 1, "")
    assert "16385 bytes; at most 16384" in report.text("error")


def test_background_processes_end_with_the_commands(real: Lab) -> None:
    commands = "setsid bash -c 'sleep 300; true' & nohup sleep 300 & echo done"
    node = real.node(real.volume(), commands=commands)
    report = real.report(node)
    assert (report.exit_code, report.text("log_tail").splitlines()[-1]) == (0, "done")


def test_two_volumes_are_two_disks_at_two_paths(real: Lab) -> None:
    first, second = real.volume(name="first"), real.volume(name="second")
    commands = "printf '%s' \"$VOLUME_PATHS\" >$RANKVOL_RESULT; cd $VOLUME_PATH; touch only-here"
    paths = json.loads(real.run_rank(first, second, commands=commands).text("output"))
    assert len(set(paths)) == 2
    report = real.run_rank(second, commands="ls $VOLUME_PATH", attempt=2, reuse=False)
    assert "only-here" not in report.text("log_tail")


def test_a_secret_is_read_on_the_node_and_never_printed(real: Lab, tmp_path: Path) -> None:
    secret = real.secret("tops3cret\n", tmp_path)
    node = real.node(real.volume(), commands="printf %s $TOKEN | wc -c", secret_env={"TOKEN": secret})
    assert real.report(node).text("log_tail") == "9\n"
    assert "tops3cret" not in console(real.backend, node)


def test_a_readable_secret_file_is_refused(on_this_machine: Lab, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("tops3cret")
    secret.chmod(0o644)
    report = on_this_machine.run_rank(on_this_machine.volume(), secret_env={"TOKEN": str(secret)})
    assert (report.phase, report.exit_code) == ("setup", 125)
    assert f"TOKEN could not be read from {secret}" in report.text("error")


def test_a_secret_that_is_not_there_is_an_error(real: Lab) -> None:
    report = real.run_rank(real.volume(), secret_env={"TOKEN": "/nowhere/rankvol"})
    assert (report.phase, report.exit_code) == ("setup", 125)
    assert "TOKEN could not be read from /nowhere/rankvol" in report.text("error")


def test_a_blank_volume_that_may_not_be_formatted_is_an_error(real: Lab) -> None:
    report = real.run_rank(real.volume(), may_format=False)
    assert (report.phase, report.exit_code) == ("setup", 125)
    assert "is blank, and may not be formatted" in report.text("error")


def test_a_volume_with_data_is_never_formatted(real: Lab) -> None:
    volume = real.volume()
    real.run_rank(volume, commands="echo precious >$VOLUME_PATH/file")
    report = real.run_rank(volume, commands="cat $VOLUME_PATH/file", attempt=2, reuse=False, may_format=True)
    assert report.text("log_tail") == "precious\n"


def test_peers_start_together_and_know_each_other(real: Lab) -> None:
    names = "NODES_IPS DSTACK_NODES_IPS MASTER_ADDR MASTER_PORT"
    nodes = [
        real.node(real.volume(rank), rank=rank, nodes=2, rendezvous=True, commands=f"set -- {names}\n{SHOW}")
        for rank in range(2)
    ]
    until(lambda: all(real.seen(node).ready for node in nodes), "not all nodes are ready")
    assert [real.seen(node).state for node in nodes] == [NodeState.RUNNING] * 2
    addresses = "\n".join(node.address for node in nodes)
    real.backend.tell_nodes(
        [node.id for node in nodes],
        {"NODES_IPS": addresses, "MASTER_ADDR": nodes[0].address, "MASTER_PORT": "20007"},
    )
    for node in nodes:
        until(lambda node=node: real.seen(node).released, "it was not told")  # type: ignore[misc]
        assert real.report(node).text("log_tail") == (
            f"NODES_IPS={addresses}\nDSTACK_NODES_IPS={addresses}\nMASTER_ADDR={nodes[0].address}\nMASTER_PORT=20007\n"
        )


def test_a_node_past_its_lifetime_ends_and_its_volume_stays(real: Lab) -> None:
    volume = real.volume()
    node = real.node(volume, commands="sleep 300", lifetime_s=0.5)
    ended = real.ended(node)
    assert ended.exit_code is None
    assert ended.reason in ("lifetime", "it shut itself down", "")  # as much as the cloud tells
    assert real.see().volume(volume.id)


def test_a_mount_path_below_an_existing_directory_is_made_on_the_node_alone(image: Lab) -> None:
    path = "/usr/share/rankvol-test/deep"
    report = image.run_rank(image.volume(), paths=[path], commands="echo $VOLUME_PATH; ls /usr/share | wc -l")
    assert report.text("log_tail").splitlines()[0] == path
    assert int(report.text("log_tail").splitlines()[1]) > 3
    assert not Path("/usr/share/rankvol-test").exists()
    assert not Path(PATH).exists()


def test_a_mount_path_below_a_busy_directory_works(image: Lab) -> None:
    report = image.run_rank(
        image.volume(), paths=["/tmp/rankvol-test/deep"], commands="mountpoint $VOLUME_PATH; ls $HOME/.."
    )
    assert report.exit_code == 0, report.text("log_tail")
    assert not Path("/tmp/rankvol-test").exists()

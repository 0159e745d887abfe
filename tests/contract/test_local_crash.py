"""Kills and restarts at any moment: the local backend tells the truth afterwards, and removes everything."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_rankvol.backends import _local_disk as disk
from airflow_rankvol.backends import _local_linux as linux
from airflow_rankvol.backends._local_node import Supervisor
from airflow_rankvol.backends.local import LocalBackend
from airflow_rankvol.errors import BackendError
from airflow_rankvol.records import Node, NodeState, VolumeState
from tests.contract.support import Lab, processes, until

BUSY = "touch $VOLUME_PATH/up; sleep 300 & setsid sleep 300 & (setsid bash -c 'sleep 300; true' &) ; wait"


@pytest.fixture(name="real")
def _real(on_this_machine: Lab) -> Lab:
    """What is told here is how this machine's processes and files go; other clouds have crash tests of their own."""
    return on_this_machine


def local(lab: Lab) -> LocalBackend:
    """Return the lab's backend as what it is."""
    assert isinstance(lab.backend, LocalBackend)
    return lab.backend


def pid_of(lab: Lab, node: Node, name: str) -> int:
    """Return the pid of a node's supervisor (``process``) or first process (``child``)."""
    path = local(lab).store.node_dir(node.id) / name
    until(path.exists, f"no {name}")
    return int(json.loads(path.read_text())["pid"])


def busy_node(lab: Lab) -> Node:
    """Launch a node whose commands have started processes in sessions of their own."""
    node = lab.node(lab.volume(), commands=BUSY)
    until(lambda: len(processes(local(lab).state_dir, [node])) >= 9, "the commands did not start")
    return node


@pytest.mark.parametrize("who", ["process", "child"])
def test_a_killed_node_has_ended_and_holds_nothing(real: Lab, who: str) -> None:
    node = busy_node(real)
    os.kill(pid_of(real, node, who), signal.SIGKILL)
    ended = real.ended(node)
    assert (ended.exit_code, ended.reason) == (None, "killed")
    assert [volume.state for volume in real.see().volumes] == [VolumeState.AVAILABLE]
    assert processes(local(real).state_dir, [node]) == []


def test_a_killed_rank_goes_on_with_its_volume(real: Lab) -> None:
    node = busy_node(real)
    os.kill(pid_of(real, node, "process"), signal.SIGKILL)
    real.ended(node)
    report = real.run_rank(real.volume(), commands="ls $VOLUME_PATH/up", attempt=2)
    assert report.exit_code == 0, report.text("error")


def test_deleting_a_busy_node_leaves_no_process(real: Lab) -> None:
    node = busy_node(real)
    real.backend.delete_node(node.id, real.guard)
    assert processes(local(real).state_dir, [node]) == []
    assert real.see().nodes == ()


def test_a_node_whose_supervisor_died_before_it_could_tell_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "bootstrap").write_text("touch ran")
    child = os.fork()
    if child == 0:
        os.environ["PATH"] = disk.search_path()
        go, start = os.pipe()
        os.write(start, b"!")
        os.close(start)
        Supervisor(str(tmp_path), 60, "", "process")._become_node(go, namespace=False)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("supervisor_killed", [False, True])
def test_deleting_a_node_ends_what_hides_from_it(real: Lab, supervisor_killed: bool) -> None:
    mark = f"{300 + random.random() * 100:.9f}"
    node = real.node(real.volume(), commands=f"(env -i setsid sleep {mark} &); sleep 300")

    def sleeps() -> bool:
        found = subprocess.run(["pgrep", "-f", f"^sleep {mark}"], capture_output=True, check=False)
        return found.returncode == 0

    until(sleeps, "the commands did not start")
    if supervisor_killed:
        os.kill(pid_of(real, node, "process"), signal.SIGKILL)
        real.ended(node)
    real.backend.delete_node(node.id, real.guard)
    until(lambda: not sleeps(), "it goes on")


@pytest.mark.parametrize("seed", range(6))
def test_kills_at_random_moments_leave_nothing_and_lose_no_volume(real: Lab, seed: int) -> None:
    moment = random.Random(seed)
    node = real.node(real.volume(), commands="sync; sleep 0.05; touch $VOLUME_PATH/x")
    time.sleep(moment.random() * 0.3)
    for name in moment.sample(["process", "child"], k=moment.randint(1, 2)):
        path = local(real).store.node_dir(node.id) / name
        if path.exists():
            pid = json.loads(path.read_text())
            if linux.start_time(pid["pid"]) == pid["start"]:
                os.kill(pid["pid"], signal.SIGKILL)
    ended = real.ended(node)
    assert ended.reason == "killed" or ended.exit_code == 0
    real.backend.delete_node(node.id, real.guard)
    report = real.run_rank(real.volume(), attempt=2)
    assert report.exit_code == 0, report.text("error")


def test_after_a_restart_every_node_has_ended(real: Lab) -> None:
    node = busy_node(real)
    pid = pid_of(real, node, "process")
    os.kill(pid, signal.SIGKILL)
    real.ended(node)
    (local(real).store.node_dir(node.id) / "end").unlink(missing_ok=True)
    after = LocalBackend(local(real).state_dir, "directory")
    after.lives.boot_id = "another boot"
    seen = after.observe(real.group)
    assert (seen.nodes[0].state, seen.nodes[0].reason) == (NodeState.ENDED, "machine restarted")
    assert seen.volumes[0].state is VolumeState.AVAILABLE
    after.delete_node(node.id, real.guard)


def test_a_pid_that_is_used_again_is_not_the_node(real: Lab) -> None:
    node = busy_node(real)
    os.kill(pid_of(real, node, "process"), signal.SIGKILL)
    real.ended(node)
    path = local(real).store.node_dir(node.id) / "process"
    raw = json.loads(path.read_text())
    linux.write(str(path), json.dumps({**raw, "pid": os.getpid()}))
    assert real.seen(node).state is NodeState.ENDED
    real.backend.delete_node(node.id, real.guard)  # and this process is not killed for it


def test_a_node_whose_creator_died_before_its_start_never_started(real: Lab) -> None:
    node = real.node(real.volume(), commands="sleep 60")
    os.kill(pid_of(real, node, "process"), signal.SIGKILL)
    real.ended(node)
    folder = local(real).store.node_dir(node.id)
    for name in ("process", "child", "end"):
        (folder / name).unlink(missing_ok=True)
    raw = json.loads((folder / "node.json").read_text())
    assert real.seen(node).state is NodeState.PENDING
    raw["creator"]["start"] += 1
    linux.write(str(folder / "node.json"), json.dumps(raw))
    assert (real.seen(node).state, real.seen(node).reason) == (NodeState.ENDED, "never started")


def test_a_node_once_seen_not_to_have_started_never_does(
    real: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    volume = real.volume()
    creator = os.fork()
    if creator == 0:
        command = disk.supervisor_command
        held = ["bash", "-c", 'read -r <"$0"; exec "$@"', str(gate)]
        monkeypatch.setattr(disk, "supervisor_command", lambda *args: [*held, *command(*args)])
        real.node(volume, commands="sleep 60")
        os._exit(0)
    held_open: list[int] = []

    def supervisor_waits() -> bool:
        with suppress(OSError):  # nobody reads yet
            held_open.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return bool(held_open)

    until(supervisor_waits, "no supervisor was started")
    os.kill(creator, signal.SIGKILL)
    os.waitpid(creator, 0)
    (first,) = real.see().nodes
    assert (first.state, first.reason) == (NodeState.ENDED, "never started")
    real.launched.append(first)
    second = real.node(volume, commands="sleep 60", attempt=2)
    os.close(held_open[0])  # read fails at the end of the pipe, and the supervisor starts
    until(lambda: "given up before it started" in local(real).log_text(first.id), "the first node started")
    assert [(node.id, node.state) for node in real.see().nodes] == [
        (first.id, NodeState.ENDED),
        (second.id, NodeState.RUNNING),
    ]
    assert len(disk.loops_of(local(real).store.volume_dir(volume.id) / "disk.img")) <= 1


def test_a_node_that_starts_while_it_is_looked_at_is_running(real: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    node = real.node(real.volume(), commands="sleep 60")
    record = local(real).store.node(node.id)
    assert record is not None
    lives = local(real).lives
    look = lives._identities
    seen = iter([(None, None)])
    monkeypatch.setattr(lives, "_identities", lambda folder: next(seen, None) or look(folder))
    assert lives.of(replace(record, creator={**record.creator, "start": 0})) == (NodeState.RUNNING, "")


def test_a_live_node_with_a_broken_record_keeps_its_volume(real: Lab) -> None:
    volume = real.volume()
    node = busy_node(real)
    path = local(real).store.node_dir(node.id) / "node.json"
    record = path.read_text()
    path.write_text("")
    assert real.see().nodes == ()
    for use in (
        lambda: real.node(volume, attempt=2),
        lambda: real.backend.delete_volume(volume.id, real.guard),
        lambda: real.backend.delete_node(node.id, real.guard),
    ):
        with pytest.raises(BackendError, match=f"{path} is no record"):
            use()
    os.kill(pid_of(real, node, "process"), signal.SIGKILL)
    until(lambda: not local(real).lives.may_run(node.id), "it lives")
    assert processes(local(real).state_dir, [node]) == []
    assert real.run_rank(volume, attempt=3).exit_code == 0
    linux.write(str(path), record)


def test_a_torn_process_file_is_a_node_that_ended_with_its_machine(real: Lab) -> None:
    node = busy_node(real)
    os.kill(pid_of(real, node, "process"), signal.SIGKILL)
    real.ended(node)
    for name in ("process", "child"):
        (local(real).store.node_dir(node.id) / name).write_text("")
    (local(real).store.node_dir(node.id) / "end").unlink(missing_ok=True)
    assert (real.seen(node).state, real.seen(node).reason) == (NodeState.ENDED, "machine restarted")


def test_a_supervisor_that_cannot_start_leaves_no_node(real: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_rankvol.backends._local_node.COMMAND", "raise SystemExit('broken')")
    with pytest.raises(Exception, match="broken"):
        real.node(real.volume())
    assert real.see().nodes == ()


def test_what_dead_processes_left_half_made_is_swept(real: Lab) -> None:
    store = local(real).store
    store.prepare()
    dead = store.root / "new" / "999999999.1.abc"
    alive = store.root / "new" / f"{os.getpid()}.{linux.start_time(os.getpid())}.abc"
    trash = store.root / "trash" / "vol-1.abc"
    for folder in (dead, alive, trash):
        folder.mkdir()
    real.volume()
    assert [dead.exists(), alive.exists(), trash.exists()] == [False, True, False]
    alive.rmdir()


_CREATE = """
import sys
from pathlib import Path
from airflow_rankvol.backends.local import LocalBackend
from tests.contract.support import Lab
lab = Lab(LocalBackend(Path(sys.argv[1]), sys.argv[2]))
print(*[lab.volume(rank).id for rank in range(20)])
"""


def test_processes_that_create_the_same_volumes_at_once_agree(real: Lab) -> None:
    backend = local(real)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _CREATE, str(backend.state_dir), backend.mode]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) for _ in "ab"]
    first, second = (process.communicate()[0].split() for process in both)
    assert first == second
    assert len(set(first)) == 20
    assert {volume.id for volume in real.see().volumes} == set(first)

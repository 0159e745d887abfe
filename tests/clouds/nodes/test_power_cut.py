"""A killed node is gone at once, at any moment, with everything that it had; so is one whose owner was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clouds.nodes.host import NodeError
from tests.clouds.nodes.kit import DISK, Lab, content, leftovers, links, until

DEVICE = f"/dev/disk/by-id/{DISK}"
BUSY = f"""
until [ -b {DEVICE} ]; do sleep 0.001; done
mkfs.ext4 -q {DEVICE}; mkdir /data; mount {DEVICE} /data
(trap '' TERM; unshare --pid --mount --fork sh -c 'while :; do echo x >>/data/a; done') &
setsid sh -c 'while :; do echo y >/data/b; sync -f /data; done' &
echo at work
wait
"""
OWNER = """
import sys, time
from pathlib import Path
from tests.clouds.nodes.host import NodeError
from tests.clouds.nodes.kit import Lab
lab = Lab(Path(sys.argv[1]))
lab.launch(sys.argv[2])
lab.attach(lab.disk())
lab.until("at work")
lab.launch("sleep 100", "n2", "10.0.0.12")
print("ready", flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("after_s", [0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5])
def test_a_kill_at_any_moment_leaves_nothing(lab: Lab, after_s: float) -> None:
    lab.launch(BUSY)
    lab.attach(lab.disk())
    time.sleep(after_s)
    lab.host.kill("n1")
    assert not leftovers(lab.folder)
    assert lab.wait() == "killed"


def test_a_power_cut_keeps_what_was_synced_and_loses_the_rest(lab: Lab) -> None:
    # sync(1) without a file, by any process of this machine, writes for everybody: then there is nothing to lose.
    assert any(loses(lab, f"n{number}") for number in range(5))


def loses(lab: Lab, node: str) -> bool:
    """Cut a node's power; see that its disk is whole, and say whether what it had not synced was lost."""
    disk = lab.disk(node)
    lab.launch(
        f"until [ -b {DEVICE} ]; do sleep 0.01; done; mkfs.ext4 -q {DEVICE}; mkdir /data; "
        f"mount -o commit=300 {DEVICE} /data; echo kept >/data/synced; sync -f /data; "
        "echo lost >/data/lost; echo ready; sleep 60",
        node,
    )
    lab.attach(disk, node)
    lab.until("ready", node)
    lab.host.kill(node)
    assert content(disk, "/synced") == "kept\n"
    # The journal is whole: another node mounts it.
    lab.launch(f"until [ -b {DEVICE} ]; do sleep 0.01; done; mount {DEVICE} /mnt && ls /mnt; poweroff", f"{node}-next")
    lab.attach(disk, f"{node}-next")
    lab.wait(f"{node}-next")
    found = lab.printed(f"{node}-next").split()
    assert {"lost+found", "synced"} <= set(found)
    return "lost" not in found


def test_a_killed_node_gets_no_signal_before(lab: Lab) -> None:
    lab.launch("trap 'echo terminated' TERM EXIT; echo ready; sleep 60")
    lab.until("ready")
    lab.host.kill("n1")
    assert "terminated" not in lab.console()


def test_killing_its_own_processes_does_not_end_a_node(lab: Lab) -> None:
    lab.launch("sleep 60 & kill -9 -1; kill -9 1; echo alive; poweroff")
    assert lab.wait() == "poweroff"


def test_closing_the_host_ends_all_nodes_without_a_word(lab: Lab) -> None:
    for index in range(3):
        lab.launch("echo up; sleep 60", f"n{index}", f"10.0.2.{index}")
    lab.attach(lab.disk(), "n1")
    lab.host.close()
    assert not leftovers(lab.folder)
    assert not lab.ends
    with pytest.raises(NodeError, match="closed"):
        lab.launch("true", "late")


def test_closing_the_host_waits_for_nodes_that_are_just_starting(lab: Lab) -> None:
    with ThreadPoolExecutor(4) as pool:
        starts = [pool.submit(lab.launch, "sleep 60", f"n{index}", f"10.0.2.{index}") for index in range(4)]
        while not any((lab.folder / "nodes").glob("nodes/*/config")):
            time.sleep(0.001)
        lab.host.close()
        assert not leftovers(lab.folder)
        assert {type(start.exception()) for start in starts} <= {type(None), NodeError}


def test_nothing_outlives_an_owner_that_is_killed(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "owner"
    before = links()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, folder, BUSY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        try:
            assert owner.stdout.readline() == "ready\n"
            assert any(left.startswith("loop device") for left in leftovers(folder))
        finally:
            owner.send_signal(signal.SIGKILL)
    until(lambda: not leftovers(folder), lambda: f"left: {leftovers(folder)}", 10)
    assert links() == before

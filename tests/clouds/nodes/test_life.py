"""How a node boots, what its console shows, and how it ends by itself."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clouds.nodes.host import NodeError, NodeSpec
from tests.clouds.nodes.kit import Lab


def test_user_data_run_as_root_and_both_outputs_are_on_the_console(lab: Lab) -> None:
    printed = lab.run("echo out; echo err >&2; id -u; pwd; hostname; cat /etc/hostname")
    assert printed == "out\nerr\n0\n/\nip-10-0-0-11\nip-10-0-0-11"
    assert lab.ends == {"n1": "poweroff"}


def test_gzipped_user_data_run_too(lab: Lab) -> None:
    lab.host.launch(NodeSpec("n1", gzip.compress(b"#!/bin/bash\necho unpacked\npoweroff\n"), "10.0.0.1"))
    lab.wait()
    assert lab.printed() == "unpacked"


@pytest.mark.parametrize("data", [b"echo no interpreter\n", b"#cloud-config\nruncmd: [poweroff]\n"])
def test_what_is_no_script_is_not_run(lab: Lab, data: bytes) -> None:
    lab.host.launch(NodeSpec("n1", data, "10.0.0.1"))
    lab.until("Unhandled non-multipart")
    assert "n1" not in lab.ends


def test_the_environment_is_that_of_a_boot(lab: Lab) -> None:
    """As from systemd: no HOME, no terminal, nothing of whoever started the node."""
    printed = lab.run("env | grep -vE '^(_|PWD|SHLVL)=' | sort; tty; wc -c </dev/stdin", environment={"EXTRA": "1"})
    assert printed.splitlines() == [
        "EXTRA=1",
        "LANG=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "not a tty",
        "0",
    ]


def test_the_console_is_a_serial_one(lab: Lab) -> None:
    """Marks before the script's lines, none before direct ones, a login prompt without newline, CR LF."""
    lab.run("echo from the script; sleep 0.2; echo directly >/dev/console; echo again | tee /dev/ttyS0 >/dev/null")
    raw = lab.host.console("n1")
    assert b"ip-10-0-0-11 login: [" in raw
    assert b"]: from the script\r\n" in raw
    assert b"\r\ndirectly\r\nagain\r\n" in raw
    assert raw.endswith(b"reboot: Power down\r\n")


def test_a_long_console_is_kept_whole(lab: Lab) -> None:
    lab.run("seq 1 50000 >/dev/console")
    assert "\n".join(map(str, range(1, 50001))) in lab.console()


@pytest.mark.parametrize(
    "command",
    [
        "shutdown -h now",
        "shutdown -P +0",
        "/sbin/shutdown now",
        "poweroff",
        "halt",
        "systemctl poweroff",
        "env -i /usr/sbin/poweroff",
        "unshare --pid --fork --mount-proc poweroff",
        "(setsid poweroff &)",
        "poweroff & disown",
    ],
)
def test_every_way_to_power_off_ends_the_node(lab: Lab, command: str) -> None:
    lab.launch(f"{command}\nsleep 60\necho not reached")
    assert lab.wait() == "poweroff"
    assert "not reached" not in lab.console()


def test_user_data_that_end_leave_the_node_on(lab: Lab) -> None:
    lab.launch("(sleep 0.3; echo later) & exit 7")
    lab.until("exit code 7")
    lab.until("later")
    assert not lab.ends


def test_shutdown_after_minutes_is_a_timer(lab: Lab) -> None:
    started = time.monotonic()
    lab.launch("shutdown -h +2 && echo armed; sleep 60", minute_s=0.4)
    assert lab.wait() == "poweroff"
    assert 0.8 <= time.monotonic() - started < 20
    assert "armed" in lab.printed()


def test_a_shutdown_can_be_cancelled(lab: Lab) -> None:
    lab.launch("shutdown -h +1; shutdown -c; sleep 0.6; echo still here; shutdown -h +1; sleep 60", minute_s=0.3)
    assert lab.wait() == "poweroff"
    assert "still here" in lab.printed()


@pytest.mark.parametrize("command", ["reboot", "shutdown -r now", "shutdown 23:00", "systemctl start sshd"])
def test_what_a_node_cannot_do_fails_loudly(lab: Lab, command: str) -> None:
    assert f"this node does not provide: {command}" in lab.run(f"{command}; echo code $?")
    assert "code 1" in lab.printed()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_nodes_programs() -> None:
    script = Path(__file__).parent / "inside/power.sh"
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_processes_get_a_term_before_they_are_killed(lab: Lab) -> None:
    lab.launch("trap 'echo terminated; exit' TERM; (trap '' TERM; exec sleep 60) & poweroff; wait", stop_grace_s=0.3)
    assert lab.wait() == "poweroff"
    assert lab.printed().endswith("terminated")


def test_the_end_is_told_once_and_the_id_stays_taken(lab: Lab) -> None:
    lab.run("true")
    lab.host.kill("n1")  # of a node that has ended: nothing
    assert lab.ends == {"n1": "poweroff"}
    with pytest.raises(ValueError, match="n1"):
        lab.launch("true")
    with pytest.raises(NodeError, match="n2"):
        lab.host.kill("n2")


def test_twenty_nodes_start_at_once(lab: Lab) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        ids = list(pool.map(lambda i: lab.launch("poweroff", f"n{i}", f"10.0.1.{i}"), range(20)))
    assert [lab.wait(node_id) for node_id in ids] == ["poweroff"] * 20
    assert time.monotonic() - started < 20

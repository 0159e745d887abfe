"""A node has this machine's programs and none of its files."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.clouds.nodes.kit import Lab

CHECKOUT = Path(__file__).resolve().parents[3]
PROGRAMS = (
    "bash base64 blkid blockdev cat curl dd df find findmnt grep gzip head mkfs.ext4 mount mountpoint nohup nsenter "
    "python3 sed setpriv setsid sha256sum sort stat sync tail tar tee timeout tr umount unshare"
)


PRIVATE = {
    "checkout": CHECKOUT,
    "package": CHECKOUT / "airflow_rankvol/__init__.py",
    "tests": CHECKOUT / "tests/clouds/nodes/host.py",
    "venv": Path(sys.prefix),
    "venv's file": Path(sys.prefix) / "pyvenv.cfg",
    "AIRFLOW_HOME": Path(os.environ["AIRFLOW_HOME"]),
    "temporary file": None,
}


def ways_to(path: Path) -> str:
    """Return a script that prints every way by which a node can get at a path: its own root, and its processes'."""
    ways = f"'{path}' /proc/*/root'{path}' /proc/*/cwd'{path}' /proc/*/fd/*'{path}'"
    return f'for way in {ways}; do [ ! -e "$way" ] || echo "$way"; done'


@pytest.mark.parametrize("place", PRIVATE)
def test_private_places_do_not_exist_in_a_node(lab: Lab, place: str) -> None:
    path = PRIVATE[place] or Path(tempfile.mkstemp(dir=lab.folder)[1])
    assert path.exists()
    assert lab.run(ways_to(path)) == ""


def test_a_private_place_would_be_found_by_every_way_that_leads_there(lab: Lab) -> None:
    there = Path("/tmp/leak")
    ways = lab.run(f"exec 7</; touch {there}; {ways_to(there)}").splitlines()
    assert {"/tmp/leak", "/proc/1/root/tmp/leak", "/proc/1/cwd/tmp/leak", "/proc/self/fd/7/tmp/leak"} <= {*ways}


def test_home_directories_are_empty(lab: Lab) -> None:
    printed = lab.run("ls -A /root /home /tmp /opt /srv /mnt /var/tmp; ls -d ~; echo ~ $(pwd)")
    assert not [line for line in printed.splitlines() if not line.startswith("/") and line]
    home = os.path.expanduser("~")
    assert home == "/root" or "No such file" in lab.run(f"ls -d {home}", node_id="n2", address="10.0.0.12")


def test_python_has_its_standard_library_only(lab: Lab) -> None:
    printed = lab.run(
        'for each in airflow_rankvol airflow yaml boto3 pip; do python3 -c "import $each" 2>&1 | tail -1; done\n'
        "python3 -c 'import json, sqlite3, ssl, hashlib, subprocess; print(\"standard\")'"
    )
    lines = printed.splitlines()
    assert [line for line in lines[:-1] if "No module named" not in line] == []
    assert lines[-1] == "standard"


def test_the_programs_of_a_plain_machine_are_there(lab: Lab) -> None:
    assert lab.run(f"for each in {PROGRAMS}; do command -v $each >/dev/null || echo $each is missing; done") == ""


def test_a_node_sees_its_own_processes_only(lab: Lab) -> None:
    printed = lab.run("cat /proc/[0-9]*/comm | sort -u | tr '\\n' ' '; tr '\\0' '\\n' </proc/1/environ")
    init = {"python", "python3", Path(os.path.realpath(sys.executable)).name}
    assert set(printed.split()) <= {*init, "part-001", "cat", "sort", "tr"}


def test_what_a_node_changes_stays_in_it(lab: Lab) -> None:
    script = (
        "echo changed >/usr/bin/changed; echo changed >/etc/changed; echo changed >/tmp/changed; mkdir /data; "
        "rm /usr/bin/gzip; hostname changed; ls /usr/bin/changed /etc/changed /tmp/changed /data -d"
    )
    assert "cannot" not in lab.run(script)
    assert not [path for path in ("/usr/bin/changed", "/etc/changed", "/data") if os.path.exists(path)]
    assert os.path.exists("/usr/bin/gzip")
    assert os.uname().nodename != "changed"
    assert "No such file" in lab.run("ls /etc/changed", node_id="n2", address="10.0.0.12")


def test_a_node_cannot_change_this_machines_kernel(lab: Lab) -> None:
    printed = lab.run("echo 1 >/proc/sys/vm/drop_caches; date -s 2000-01-01; dmesg; umask")
    assert "Read-only file system" in printed
    assert printed.count("not permitted") == 2
    assert printed.endswith("0022")


def test_files_of_the_image_are_as_asked_for(lab: Lab) -> None:
    layer = lab.folder / "layer"
    (layer / "bin").mkdir(parents=True)
    (layer / "bin/tool").write_text("#!/bin/sh\necho a tool\n", encoding="utf-8")
    (layer / "bin/tool").chmod(0o755)
    printed = lab.run(
        "cat /etc/motd; tool; touch /opt/layer/new; command -v tool",
        files={"/etc/motd": "welcome\n", "/root/.config/deep": ""},
        layers={"/opt/layer": layer},
    )
    assert printed.splitlines() == [
        "welcome",
        "a tool",
        "touch: cannot touch '/opt/layer/new': Read-only file system",
        "/usr/local/bin/tool",
    ]


def test_the_root_has_a_size(lab: Lab) -> None:
    assert "No space left on device" in lab.run("head -c 80M /dev/zero >/var/tmp/big; echo still on", root_mib=64)
    assert "still on" in lab.printed()

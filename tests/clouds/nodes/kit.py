"""A host of nodes for one test, and what must be gone after it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.clouds.nodes.host import NodeHost, NodeSpec

PATIENCE_S = 30.0
DISK = "nvme-Amazon_Elastic_Block_Store_vol0123"


class Lab:
    """A host below a directory.

    Attributes:
        ends: how each node ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ends: dict[str, str] = {}
        self._ended: dict[str, Event] = defaultdict(Event)
        self.host = NodeHost(folder / "nodes", on_end=self._on_end)

    def _on_end(self, node_id: str, why: str) -> None:
        self.ends[node_id] = why
        self._ended[node_id].set()

    def launch(self, script: str, node_id: str = "n1", address: str = "10.0.0.11", **more: Any) -> str:
        """Launch a node that runs a script."""
        data = f"#!/bin/bash\n{script}\n".encode()
        self.host.launch(NodeSpec(node_id, data, address, **more))
        return node_id

    def run(self, script: str, **more: Any) -> str:
        """Run a script on a node that powers off then; return the lines that it printed."""
        node_id = self.launch(f"({script})\nshutdown -h now", **more)
        assert self.wait(node_id) == "poweroff", self.log(node_id)
        return self.printed(node_id)

    def wait(self, node_id: str = "n1") -> str:
        """Wait until a node has ended; return how."""
        assert self._ended[node_id].wait(PATIENCE_S), f"{node_id} did not end: {self.console(node_id)}"
        return self.ends[node_id]

    def console(self, node_id: str = "n1") -> str:
        """Return a node's console."""
        return self.host.console(node_id).decode(errors="replace").replace("\r\n", "\n")

    def log(self, node_id: str = "n1") -> str:
        """Return what a node's first process had to say to us."""
        return (self.folder / "nodes/nodes" / node_id / "init.log").read_text(encoding="utf-8")

    def printed(self, node_id: str = "n1") -> str:
        """Return the user data's part of the console, without the marks before each line."""
        lines = self.console(node_id).split("login: ", 1)[-1].splitlines()
        mine = [line.partition("]: ")[2] for line in lines if "cloud-init[" in line and "cc_scripts_user" not in line]
        return "\n".join(mine)

    def until(self, text: str, node_id: str = "n1") -> None:
        """Wait until a text is on a node's console."""
        until(lambda: text in self.console(node_id), lambda: f"{text!r} is not on the console: {self.console(node_id)}")

    def disk(self, name: str = "vol", mib: int = 64) -> Path:
        """Make a blank disk's image."""
        path = self.folder / f"{name}.img"
        with path.open("wb") as file:
            file.truncate(mib << 20)
        return path

    def attach(self, path: Path, node_id: str = "n1") -> None:
        """Attach an image as the disk ``DISK``."""
        self.host.attach(node_id, path.stem, path, [DISK], "nvme1n1")


def until(true: Callable[[], bool], message: Callable[[], str], patience_s: float = PATIENCE_S) -> None:
    """Wait for something that other processes do."""
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, message()
        time.sleep(0.01)


def fill_as_from_one_snapshot(*images: Path) -> None:
    """Put the same XFS, with the same UUID, onto every image; skip the test where that cannot be made or mounted."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs (xfsprogs) is not installed")
    if "\txfs\n" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
        pytest.skip("this machine's kernel does not know XFS")
    for image in images:
        os.truncate(image, 320 << 20)  # the least that mkfs.xfs makes
        options = ["-q", "-K", "-m", "uuid=5c1e5c1e-0000-4000-8000-000000000001"]
        subprocess.run(["mkfs.xfs", *options, str(image)], check=True)


def content(image: Path, path: str) -> str:
    """Return a file of an ext4 image that nobody has mounted."""
    done = subprocess.run(["debugfs", "-R", f"cat {path}", image], capture_output=True, text=True, check=True)
    return done.stdout


def links() -> str:
    """Return the names of this machine's network links."""
    done = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True)
    return "\n".join(line.split()[0] for line in done.stdout.splitlines())


def leftovers(folder: Path) -> list[str]:
    """Return what still runs, is mounted or is in use below a directory."""
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder) in (process / "cmdline").read_bytes() and process.name != str(os.getpid()):
                left.append(f"process {process.name}")
        except OSError:
            continue
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text(encoding="utf-8").startswith(str(folder)):
                left.append(f"loop device {backing.parts[3]}")
        except OSError:
            continue
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    return left + [f"mount {line}" for line in mounts.splitlines() if str(folder) in line]


def namespaces() -> list[str]:
    """Return the network namespaces that this process holds open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return [each for each in found if each.startswith("net:")]

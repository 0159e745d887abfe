"""A host of nodes that really run: launch, attach, detach, kill, read the console."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Self

from tests.clouds.nodes import image
from tests.clouds.nodes.network import Switch
from tests.clouds.nodes.node import Link, Node, NodeError, NodeSpec
from tests.clouds.nodes.services import Services
from tests.clouds.nodes.volumes import Busy

__all__ = ["Busy", "Link", "NodeError", "NodeHost", "NodeSpec", "why_not"]

_PROGRAMS = {"ip": "iproute2", "mkfs.ext4": "e2fsprogs", "curl": "curl", "gzip": "gzip"}


class NodeHost:
    """Runs nodes. All of them end with this process, however that ends.

    Every method can be called from any thread. What a node is: a small world of its own (mounts, processes,
    network, names), with this machine's programs and none of its files.

    What a node is not: a jail. Its root may mount, as nodes mount their volumes, and the kernel shares its own list of
    devices (devtmpfs) with whoever mounts it: a script that wants to reach other nodes' disks can. Neither seccomp,
    which sees no names, nor a bounding set tells that mount from others, and the device cgroup differs from machine to
    machine. So they run only what tests have written: what a hostile job could do to others, none of them shows.

    Args:
        state_dir: for consoles, which stay, and what nodes boot from, which :meth:`close` removes.
        on_end: called with a node's id and ``poweroff`` or ``killed`` after the node has ended by itself or was
            killed, and all its mounts and loop devices are gone; in a thread of its own, and not by :meth:`close`.
    """

    def __init__(self, state_dir: Path, *, on_end: Callable[[str, str], None]) -> None:
        self._state_dir = state_dir.absolute()
        self._on_end = on_end
        self._lock = threading.Lock()
        self._started = threading.Condition(self._lock)
        self._starting = 0
        self._launched: set[str] = set()
        self._nodes: dict[str, Node] = {}
        self._closed = False
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._base = Path(tempfile.mkdtemp(prefix="image-", dir=self._state_dir))
        (self._base / "stage").mkdir()
        image.build(self._base)
        self._switch = Switch()
        self._services = Services()

    def launch(self, spec: NodeSpec) -> None:
        """Start a node; returns when its user data begin to run, after about a tenth of a second."""
        folder = self._folder(spec.id)
        node = Node(spec, self._base, folder, lambda why: self._ended(spec.id, why))
        with self._lock:
            if self._closed:
                raise NodeError(f"node {spec.id} cannot start: its host is closed")
            if spec.id in self._launched:
                raise ValueError(f"there was a node {spec.id} already")
            self._launched.add(spec.id)
            self._starting += 1
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier host
            folder.mkdir(parents=True)
            node.start(self._services, self._switch)
            with self._lock:
                self._nodes[spec.id] = node
        finally:
            with self._lock:
                self._starting -= 1
                self._started.notify_all()

    def attach(
        self,
        node_id: str,
        volume_id: str,
        image_path: Path,
        by_id: Sequence[str],
        device: str,
        *,
        read_only: bool = False,
    ) -> None:
        """Make an image appear in a running node as a disk.

        Args:
            by_id: names of links below the node's /dev/disk/by-id; one that begins with ``/dev/`` is that link.
            device: what the node's kernel calls the disk, such as ``nvme1n1``.
            read_only: the node can only read it.
        """
        self._node(node_id).attach(volume_id, image_path.resolve(), by_id, device, read_only=read_only)

    def detach(self, node_id: str, volume_id: str, *, force: bool = False) -> None:
        """Make a disk vanish from a running node.

        Args:
            force: also while it is mounted; what was not written yet is lost then.

        Raises:
            Busy: it is mounted or open.
        """
        self._node(node_id).detach(volume_id, force=force)

    def kill(self, node_id: str) -> None:
        """Cut a node's power: what its filesystems had not written is lost. Returns when nothing of it is left."""
        node = self._node(node_id)
        node.kill()
        node.wait()

    def console(self, node_id: str) -> bytes:
        """Return all that a node has written to its console, also after its end."""
        try:
            return (self._folder(node_id) / "console.log").read_bytes()
        except FileNotFoundError:
            return b""

    def close(self) -> None:
        """Kill all nodes; nothing but their consoles stays."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._started.wait_for(lambda: self._starting == 0)
            nodes = list(self._nodes.values())
        for node in nodes:
            node.kill()
        for node in nodes:
            node.wait()
        self._services.close()
        self._switch.close()
        shutil.rmtree(self._base)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def why_not() -> str:
        """Return why nodes cannot run here, or nothing."""
        return why_not()

    def _folder(self, node_id: str) -> Path:
        return self._state_dir / "nodes" / node_id

    def _node(self, node_id: str) -> Node:
        with self._lock:
            if node_id not in self._nodes:
                raise NodeError(f"there is no node {node_id}")
            return self._nodes[node_id]

    def _ended(self, node_id: str, why: str) -> None:
        if not self._closed:
            self._on_end(node_id, why)


@cache
def why_not() -> str:
    """Return why nodes cannot run here, or nothing; really runs one, once."""
    if os.geteuid() != 0:
        return "nodes need root"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = {name: package for name, package in _PROGRAMS.items() if shutil.which(name, path=path) is None}
    if not any(os.path.exists(f"/usr{local}/bin/python3") for local in ("", "/local")):
        missing["/usr/bin/python3"] = "python3"
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: {' '.join(missing.values())})"
    try:
        with tempfile.TemporaryDirectory(prefix="nodes-") as folder:
            return _trial(Path(folder))
    except (OSError, NodeError) as exc:
        return f"a trial failed: {exc}"


def _trial(folder: Path) -> str:
    ended = threading.Event()
    disk = folder / "disk"
    disk.write_bytes(bytes(1 << 20))
    script = b"#!/bin/bash\nuntil head -c 1 /dev/trial >/dev/null 2>&1; do sleep 0.01; done\nshutdown -h now\n"
    with NodeHost(folder, on_end=lambda *_: ended.set()) as host:
        host.launch(NodeSpec("trial", script, "10.0.0.2"))
        host.attach("trial", "disk", disk, [], "trial")
        if ended.wait(20):
            return ""
        return f"a trial node did not power off; its console: {host.console('trial').decode(errors='replace')}"

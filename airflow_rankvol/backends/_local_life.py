"""Whether the nodes of the local backend live, and how they are ended."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_rankvol.backends import _local_linux as linux
from airflow_rankvol.backends._local_store import Files, NodeFile, Store
from airflow_rankvol.errors import NotReady
from airflow_rankvol.records import NodeState

#: What ``process`` holds when no supervisor may start any more; no process is like this.
NEVER_STARTED = '{"pid": 0, "start": 0, "boot": "never"}'
_KILL_WITHIN_S = 10.0
_ASK_WITHIN_S = 2.0
Identity = Mapping[str, Any]


class Lives:
    """Tells the truth about nodes from the kernel's process table.

    A process is known by pid, start time and boot id, so neither a pid that is used again nor a restarted
    machine can be mistaken for a living node.
    """

    def __init__(self, store: Store) -> None:
        self.boot_id = linux.boot_id()
        self._store = store
        self._files: Files[dict[str, Any]] = Files(json.loads)
        self._processes: Files[dict[str, Any]] = Files(_parse_identity)

    def of(self, node: NodeFile) -> tuple[NodeState, str]:
        """Return a node's state, and why it ended if that is known."""
        folder = self._store.node_dir(node.id)
        process, child = self._identities(folder)
        if process is None:
            if self._alive(node.creator):
                return NodeState.PENDING, ""
            try:
                _give_up(folder)
            except OSError:  # nothing says that it cannot start
                return NodeState.PENDING, ""
            process, child = self._identities(folder)
        if process is None or process["boot"] == "never":
            return NodeState.ENDED, "never started"
        # The first process outlives its supervisor for as long as the kernel needs to flush and unmount.
        if self._alive(process) or self._alive(child):
            return NodeState.RUNNING, ""
        reason = _text(folder / "end")
        if reason is None:
            reason = "killed" if process["boot"] == self.boot_id else "machine restarted"
            self._end_strays(node.id, folder, child)
        return NodeState.ENDED, "" if (folder / "report.json").exists() else reason

    def is_live(self, node: NodeFile) -> bool:
        """Say whether a node still holds its volumes."""
        return self.of(node)[0] is not NodeState.ENDED

    def may_run(self, node_id: str) -> bool:
        """Say whether a node runs whose own record cannot be read; one that has not started never will."""
        folder = self._store.node_dir(node_id)
        _give_up(folder)
        process, child = self._identities(folder)
        if self._alive(process) or self._alive(child):
            return True
        self._end_strays(node_id, folder, child)
        return False

    def exit_code(self, folder: Path) -> int | None:
        """Return the exit code in a node's report, or None without one."""
        try:
            report = self._files.read(f"{folder}/report.json")
            return int(report["exit_code"]) if report else None
        except (ValueError, KeyError, TypeError):  # the commands can reach this file too
            return None

    def end(self, node_id: str, folder: Path) -> None:
        """Kill a node's processes and wait until they are gone, which takes milliseconds.

        Raises:
            NotReady: the kernel still holds one of them, as it does during a long flush.
        """
        _give_up(folder)
        process, child = self._identities(folder)
        until = time.monotonic() + _KILL_WITHIN_S
        if _is_plain(child) and process is not None:
            self._end_below(process)
        while True:
            left = [item for item in (process, child) if item is not None and self._alive(item)]
            for item in left:
                self._kill(item)
            strays = marked(node_id, folder) if _is_plain(child) else []
            for pid in strays:
                _signal(pid)
            if not left and not strays:
                return
            if time.monotonic() > until:
                raise NotReady(
                    f"its processes, killed {_KILL_WITHIN_S:.0f} s ago, are still there (a long flush?)",
                    backend="local",
                    verb="delete_node",
                    resource=node_id,
                )
            time.sleep(0.002)

    def _end_below(self, supervisor: Identity) -> None:
        """Kill what runs below the supervisor of a plain process group, as long as that collects its orphans."""
        until = time.monotonic() + _ASK_WITHIN_S  # a stopped one does not
        while self._alive(supervisor) and time.monotonic() < until:
            below = linux.descendants(supervisor["pid"])
            if not below:
                return
            for pid in below:
                _signal(pid)
            time.sleep(0.002)

    def _identities(self, folder: Path) -> tuple[Identity | None, Identity | None]:
        return self._processes.read(f"{folder}/process"), self._processes.read(f"{folder}/child")

    def _alive(self, identity: Identity | None) -> bool:
        if identity is None or identity["boot"] != self.boot_id:
            return False
        return bool(linux.start_time(identity["pid"]) == identity["start"])

    def _kill(self, identity: Identity) -> None:
        try:
            handle = os.pidfd_open(identity["pid"])
        except OSError:
            return
        try:
            # Looked at again behind the handle: the pid cannot be anybody else's from here on.
            if self._alive(identity):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)

    def _end_strays(self, node_id: str, folder: Path, child: Identity | None) -> None:
        """End what a plain process group left when its supervisor died; a pid namespace leaves nothing."""
        if _is_plain(child) and child is not None and child["boot"] == self.boot_id:
            self.end(node_id, folder)
            linux.write(str(folder / "end"), "killed")


def _give_up(folder: Path) -> None:
    """Keep a supervisor that has not started from doing so.

    A supervisor and whoever gives its node up both make the file ``process``, which works for the first alone.
    So a node that was once seen not to have started never does, and its volumes are free.
    """
    with suppress(FileExistsError, FileNotFoundError):  # it started, or its directory is gone
        os.link(folder / "never", folder / "process")  # a link, for which a full disk has room


def marked(node_id: str, folder: Path | None = None) -> list[int]:
    """Return this user's processes that belong to a node: by their environment, or by where their output goes.

    Only what a node runs ever writes to the pipe ``out`` in its folder; a command that cleared its environment and
    left its session still has it.
    """
    mark = f"RANKVOL_NODE_ID={node_id}".encode()
    pipe = str(folder / "out") if folder else ""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\0") or (pipe and pipe in _outputs(name)):
                    found.append(int(name))
        except OSError:  # another user's, or gone
            continue
    return found


def _outputs(pid: str) -> set[str]:
    return {os.readlink(f"/proc/{pid}/fd/{number}") for number in (1, 2) if os.path.islink(f"/proc/{pid}/fd/{number}")}


def _parse_identity(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        return {**found, "pid": int(found["pid"]), "start": int(found["start"]), "boot": str(found["boot"])}
    except (ValueError, TypeError, KeyError):
        # It appeared whole, so only a crash of the machine can have torn it, and that ended the process.
        return {"pid": 0, "start": 0, "boot": "lost"}


def _is_plain(child: Identity | None) -> bool:
    return child is not None and child.get("isolation") == "process"


def _signal(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None

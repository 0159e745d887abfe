"""What the contract's bodies are written with: requests, waits, and a look for leftovers."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_rankvol.backends.base import Backend, Guard, NodeRequest, Selector, VolumeRequest
from airflow_rankvol.engine.bootstrap import BootSpec, render
from airflow_rankvol.records import Attachment, Group, Node, NodeState, Observation, Role, Volume
from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate

WITHIN_S = 30.0
PATH = "/data_volume"


@dataclass(frozen=True)
class Report:
    """A node's report with its texts decoded."""

    raw: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.raw[name]

    def text(self, name: str) -> str:
        """Return one of the base64 fields: output, log_tail or error."""
        return base64.b64decode(self.raw[f"{name}_b64"]).decode()


@dataclass
class Lab:
    """A backend and one group on it, with short words for what the tests do."""

    backend: Backend
    run: str = "run-1"
    key: str = "0a1b2c3d"
    owner: str = "lab"
    launched: list[Node] = field(default_factory=list)

    @property
    def group(self) -> Group:
        """The group under test."""
        return Group(self.owner, "dag", self.run, "group", self.key, f"{self.key}d", "9f9f9f9f")

    @property
    def guard(self) -> Guard:
        """What the group's own resources carry."""
        return Guard(self.owner, self.key)

    def other(self, run: str = "run-2", key: str = "ffffffff") -> Lab:
        """Another run's group on the same backend."""
        return Lab(self.backend, run, key, self.owner, self.launched)

    def volume(self, rank: int = 0, name: str = "data", size: str = "32MB") -> Volume:
        """Create the volume of a rank."""
        tags = self.group.tags(rank=rank)
        template = VolumeTemplate(size=size)
        return self.backend.create_volume(VolumeRequest(f"{name}-{rank}", None, template, tags, "token"))

    def node(self, *volumes: Volume, commands: str = "true", **changes: Any) -> Node:
        """Launch the node of one rank; ``changes`` are fields of BootSpec, and the attachments' flags."""
        may_format = changes.pop("may_format", True)
        paths = changes.pop("paths", [PATH, "/scratch_volume"])
        rank = changes.get("rank", 0)
        attachments = tuple(
            Attachment(volume.id, volume.name, path, rank, may_format=may_format)
            for volume, path in zip(volumes, paths, strict=False)
        )
        return self._launch(self._spec(Role.RANK, attachments, commands, {"rank": rank, **changes}))

    def gather(self, *volumes: Volume, commands: str = "true", **changes: Any) -> Node:
        """Launch the gather node over the ranks' volumes; ``paths`` says where, if not all at the same."""
        paths = changes.pop("paths", [PATH] * len(volumes))
        attachments = tuple(
            Attachment(volume.id, volume.name, path, volume.tags.rank if volume.tags else 0, read_only=True)
            for volume, path in zip(volumes, paths, strict=True)
        )
        return self._launch(self._spec(Role.GATHER, attachments, commands, {"rank": -1, **changes}))

    def _spec(
        self, role: Role, attachments: tuple[Attachment, ...], commands: str, changes: dict[str, Any]
    ) -> BootSpec:
        values: dict[str, Any] = {
            "role": role,
            "nodes": 4,
            "attempt": 1,
            "key": self.key,
            "identity": f"{self.run}.{self.key}",
            "digest": "digest-1",
            "attachments": attachments,
            "commands": (commands,),
            "files": {},
            "env": {},
            "secret_env": {},
            "gpus_per_node": 0,
            "lifetime_s": 60.0,
        }
        return BootSpec(**{**values, **changes})

    def _launch(self, spec: BootSpec) -> Node:
        request = self.request(spec)
        node = self.backend.create_node(request)
        self.launched.append(node)
        return node

    def request(self, spec: BootSpec) -> NodeRequest:
        """Return the request for a node that does what the spec says."""
        tags = self.group.tags(rank=spec.rank, attempt=spec.attempt, role=str(spec.role))
        return NodeRequest(
            name=f"{self.key}-{spec.role}-{spec.rank}-{spec.attempt}",
            zone=None,
            template=NodeTemplate(),
            tags=tags,
            attachments=spec.attachments,
            script=render(spec, self.backend.platform),
            lifetime_s=spec.lifetime_s,
            token="token",
        )

    def secret(self, text: str, folder: Path) -> str:
        """Keep a secret where a node may read it, and return its id."""
        path = folder / "secret"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def destination(self, folder: Path) -> str:
        """Return a place that gather can copy to; it does not exist yet where that does no harm."""
        return str(folder / "results/of run")

    def copied(self, destination: str) -> dict[str, bytes]:
        """Return what lies at a destination, by its path below it."""
        paths = sorted(path for path in Path(destination).rglob("*") if path.is_file() or path.is_symlink())
        return {str(path.relative_to(destination)): path.read_bytes() for path in paths}

    def see(self) -> Observation:
        """Observe the group."""
        return self.backend.observe(self.group)

    def seen(self, node: Node) -> Node:
        """Return a node as it is now."""
        found = self.see().node(node.id)
        assert found is not None, f"{node.label} is gone"
        return found

    def ended(self, node: Node) -> Node:
        """Wait until a node has ended."""
        until(lambda: self.seen(node).state is NodeState.ENDED, f"{node.label} never ended")
        return self.seen(node)

    def report(self, node: Node) -> Report:
        """Wait until a node has ended, and return its report."""
        self.ended(node)
        raw = self.backend.read_report(node.id)
        assert raw is not None, f"no report: {console(self.backend, node)}"
        return Report(json.loads(raw))

    def run_rank(self, *volumes: Volume, commands: str = "true", **changes: Any) -> Report:
        """Launch a rank's node, wait for its end, remove it, and return its report."""
        node = self.node(*volumes, commands=commands, **changes)
        report = self.report(node)
        self.backend.delete_node(node.id, self.guard)
        return report

    def clear(self) -> None:
        """Remove all nodes and volumes of the owner through the protocol alone."""
        everything = self.backend.list_owned(Selector(self.owner))
        for node in everything.nodes:
            assert node.tags is not None
            self.backend.delete_node(node.id, Guard(node.tags.owner, node.tags.key))
        for volume in everything.volumes:
            assert volume.tags is not None
            until_free(self.backend, volume, Guard(volume.tags.owner, volume.tags.key))


def until(holds: Callable[[], bool], otherwise: str, within_s: float = WITHIN_S) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def until_free(backend: Backend, volume: Volume, guard: Guard) -> None:
    """Delete a volume as soon as the kernel lets go of it."""
    from airflow_rankvol.errors import VolumeBusy

    def deleted() -> bool:
        try:
            backend.delete_volume(volume.id, guard)
        except VolumeBusy:
            return False
        return True

    until(deleted, f"{volume.label} stays busy")


def console(backend: Backend, node: Node) -> str:
    """Return a node's console where the backend keeps one."""
    read = getattr(backend, "log_text", None)
    return str(read(node.id)) if read else ""


def why_no_namespace() -> str:
    """Return why this user's processes cannot have mounts of their own, or nothing."""
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is not installed"
    command = [
        "unshare",
        *([] if os.geteuid() == 0 else ["-r"]),
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "true",
    ]
    trial = subprocess.run(command, capture_output=True, text=True, check=False)
    return trial.stderr.strip() if trial.returncode else ""


def leftovers(state_dir: Path, nodes: Sequence[Node]) -> list[str]:
    """Return every file, loop device, mount and process that a local backend left."""
    found = [str(path) for kind in ("volumes", "nodes", "new", "trash") for path in (state_dir / kind).glob("*")]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            text = backing.read_text()
        except OSError:
            continue
        found += [f"{backing}: {text}"] if text.startswith(str(state_dir)) else []
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state_dir) in line]
    return found + processes(state_dir, nodes)


def processes(state_dir: Path, nodes: Sequence[Node]) -> list[str]:
    """Return the processes of a local backend's nodes, their supervisors included."""
    marks = [f"RANKVOL_NODE_ID={node.id}".encode() for node in nodes]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        supervises = b"_local_node" in command and os.fsencode(state_dir) in command
        if supervises or any(mark in environment for mark in marks):
            found.append(f"process {folder.name}: {command!r}")
    return found

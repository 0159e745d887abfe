"""How a node of the local backend is started, and how it is seen afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_rankvol.backends import _local_disk as disk
from airflow_rankvol.backends import _local_linux as linux
from airflow_rankvol.backends._local_life import NEVER_STARTED, Lives
from airflow_rankvol.backends._local_store import NodeFile, Store, VolumeFile, new_id, write_json
from airflow_rankvol.backends.base import NodeRequest
from airflow_rankvol.errors import BackendError
from airflow_rankvol.records import Node, NodeState, Role, Tags, from_iso, to_iso, utc_now

if TYPE_CHECKING:
    from airflow_rankvol.backends.local import LocalBackend

# Set aside for the report, which is at most a result of 16 KiB and a log tail of 4 KiB, both in base64.
_RESERVE_BYTES = 64 * 1024


def prepare(backend: LocalBackend, request: NodeRequest, volumes: Sequence[VolumeFile], taken: set[str]) -> NodeFile:
    """Put a node on record, with everything that it needs to start; its volumes are held from here on."""
    store = backend.store
    node = NodeFile(
        id=new_id("node"),
        name=request.name,
        created_at=to_iso(backend.clock.now()),
        address=_free_address(str(backend.state_dir), taken),
        volumes=tuple(volume.id for volume in volumes),
        creator=json.loads(linux.identity(os.getpid())),
        tags=request.tags.to_dict(),
    )
    with store.incoming("nodes", node.id) as folder:
        for name in ("work", "tmp", "root"):
            (folder / name).mkdir(mode=0o700)
        (folder / "bootstrap").write_text(request.script, encoding="utf-8")
        (folder / "never").write_text(NEVER_STARTED, encoding="utf-8")
        (folder / "reserve").write_bytes(bytes(_RESERVE_BYTES))
        (folder / "wanted").write_text(_wanted(store, request, volumes), encoding="utf-8")
        write_json(folder / "node.json", node)
    return node


def start(backend: LocalBackend, node: NodeFile, lifetime_s: float) -> None:
    """Start the supervisor of a prepared node; the node is taken back when that fails."""
    folder = backend.store.node_dir(node.id)
    command = disk.supervisor_command(str(folder), str(lifetime_s), node.address, backend.isolation)
    try:
        with open(folder / "console.log", "ab") as console:
            started = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_clean_environment(node.id),
                start_new_session=True,
                check=False,
            )
        _check_started(started.returncode, backend.log_text(node.id)[-2000:], node)
    except BaseException:
        backend.lives.end(node.id, folder)
        with backend.store.lock():
            if folder.exists():  # else somebody deletes the node just now
                backend.store.discard(folder)
        backend.store.sweep()
        raise


def _check_started(code: int, console: str, node: NodeFile) -> None:
    if code:
        text = f"the supervisor did not start (exit code {code}): {console}"
        raise BackendError(text, backend="local", verb="create_node", resource=node.name)


def seen(store: Store, lives: Lives, node: NodeFile) -> Node:
    """Return a node as the protocol shows it."""
    folder = store.node_dir(node.id)
    state, reason = lives.of(node)
    return Node(
        id=node.id,
        name=node.name,
        state=state,
        created_at=from_iso(node.created_at) or utc_now(),
        tags=Tags.from_dict(node.tags),
        address=node.address,
        ready=os.path.exists(folder / "ready"),
        released=os.path.exists(folder / "go"),
        exit_code=lives.exit_code(folder) if state is NodeState.ENDED else None,
        reason=reason,
    )


def _wanted(store: Store, request: NodeRequest, volumes: Sequence[VolumeFile]) -> str:
    """Return what the supervisor provides, a line per volume: id, mode, where it lies, its mount point."""
    lines = []
    for attachment, volume in zip(request.attachments, volumes, strict=True):
        at = disk.disk_path(store.volume_dir(volume.id), volume.mode)
        gather = request.tags.role == Role.GATHER
        point = f"/ranks/{attachment.rank}{attachment.path}" if gather else attachment.path
        lines.append(f"{volume.id}\t{volume.mode}\t{at}\t{point}\n")
    return "".join(lines)


def _clean_environment(node_id: str) -> dict[str, str]:
    """Return what a node sees of its creator's environment: where programs are, language and time zone."""
    kept = {name: os.environ[name] for name in ("LANG", "TZ") if name in os.environ}
    ours = {"RANKVOL_NODE_ID": node_id, "RANKVOL_PYTHON": sys.executable}
    return {"LANG": "C.UTF-8", **kept, "PATH": disk.search_path(), **ours}


def _free_address(state_dir: str, taken: set[str]) -> str:
    """Return an address in 127.64.0.0/10 that no other node has; other state directories start elsewhere."""
    first = int.from_bytes(hashlib.sha256(state_dir.encode()).digest()[:4], "big")
    for step in range(1 << 22):
        number = (first + step) % (1 << 22)
        address = f"127.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        if address not in taken and number & 255 not in (0, 255):
            return address
    raise BackendError("no address is free", backend="local", verb="create_node", resource=state_dir)

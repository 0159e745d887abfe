"""The state of the local backend: JSON files below one directory, changed under one lock.

lock               flock'd by whoever changes something
volumes/<id>/      volume.json, and disk.img or data/
nodes/<id>/        node.json, never (process, if it is given up), the files of its supervisor (process, child,
                   end), of its bootstrap (ready, go, report.json, work/ …) and console.log
new/, trash/       on their way in and out; what is left here by a process that died is swept
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from airflow_rankvol.backends import _local_linux as linux
from airflow_rankvol.backends import _local_trash as trash
from airflow_rankvol.errors import AuthDenied, BackendError, QuotaExceeded
from airflow_rankvol.records import Tags, Volume, VolumeState, from_iso, utc_now

log = logging.getLogger(__name__)
T = TypeVar("T")
_REMEMBERED = 10_000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """``volume.json``; ``mode`` is ``image`` or ``directory``."""

    id: str
    name: str
    size_gib: float
    type: str
    created_at: str
    mode: str
    tags: Mapping[str, str]

    def seen(self, holder: NodeFile | None) -> Volume:
        """Return the volume as the protocol shows it, with the live node that holds it from its launch on."""
        return Volume(
            id=self.id,
            name=self.name,
            state=VolumeState.ATTACHED if holder else VolumeState.AVAILABLE,
            size_gib=self.size_gib,
            type=self.type,
            created_at=from_iso(self.created_at) or utc_now(),
            tags=Tags.from_dict(self.tags),
            attached_to=holder.id if holder else None,
            blank=Tags.from_dict(self.tags) is not None,
            attached_at=from_iso(holder.created_at) if holder else None,
        )


@dataclass(frozen=True, slots=True)
class NodeFile:
    """``node.json``; ``creator`` is the process that was to start the supervisor."""

    id: str
    name: str
    created_at: str
    address: str
    volumes: tuple[str, ...]
    creator: Mapping[str, Any]
    tags: Mapping[str, str]


R = TypeVar("R", VolumeFile, NodeFile)


class Files(Generic[T]):
    """Reads files of one form, each again only after it was replaced: every change makes a new inode."""

    def __init__(self, parse: Any) -> None:
        self._parse = parse
        self._known: dict[str, tuple[tuple[int, int, int], T]] = {}

    def read(self, path: str) -> T | None:
        """Return what the file holds, or None when there is none."""
        try:
            found = os.stat(path)
            signature = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = self._known.get(path)
            if known is not None and known[0] == signature:
                return known[1]
            with open(path, encoding="utf-8") as file:
                value: T = self._parse(file.read())
        except (FileNotFoundError, NotADirectoryError):
            self._known.pop(path, None)
            return None
        if len(self._known) >= _REMEMBERED:  # a triggerer lives for months, and sees many nodes
            self._known.clear()
        self._known[path] = (signature, value)
        return value


def _parse_volume(text: str) -> VolumeFile:
    return VolumeFile(**json.loads(text))


def _parse_node(text: str) -> NodeFile:
    raw = json.loads(text)
    return NodeFile(**{**raw, "volumes": tuple(raw["volumes"])})


class Store:
    """The files of one state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._volume_files: Files[VolumeFile] = Files(_parse_volume)
        self._node_files: Files[NodeFile] = Files(_parse_node)
        self._told: set[str] = set()

    def prepare(self) -> None:
        """Make the state directory, for this user alone."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("volumes", "nodes", "new", "trash"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the state directory; the kernel releases it when the process dies."""
        self.prepare()
        # A file of its own per holder, so that threads exclude each other too.
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def volume_dir(self, volume_id: str) -> Path:
        """Return a volume's directory."""
        return self.root / "volumes" / _checked(volume_id)

    def node_dir(self, node_id: str) -> Path:
        """Return a node's directory."""
        return self.root / "nodes" / _checked(node_id)

    def volume(self, volume_id: str) -> VolumeFile | None:
        """Return a volume's file, or None."""
        return _read(self._volume_files, f"{self.volume_dir(volume_id)}/volume.json", volume_id)

    def node(self, node_id: str) -> NodeFile | None:
        """Return a node's file, or None."""
        return _read(self._node_files, f"{self.node_dir(node_id)}/node.json", node_id)

    def volumes(self) -> list[VolumeFile]:
        """Return all volumes that can be read, oldest first; the log tells of others."""
        return self._tell(self._scan("volumes", self.volume))

    def nodes(self) -> list[NodeFile]:
        """Return all nodes that can be read, oldest first; the log tells of others."""
        return self._tell(self._scan("nodes", self.node))

    def broken_volumes(self) -> dict[str, BackendError]:
        """Return the ids of volumes whose file cannot be read, and why."""
        return self._scan("volumes", self.volume)[1]

    def broken_nodes(self) -> dict[str, BackendError]:
        """Return the ids of nodes whose file cannot be read, and why."""
        return self._scan("nodes", self.node)[1]

    def _scan(self, kind: str, read: Callable[[str], R | None]) -> tuple[list[R], dict[str, BackendError]]:
        found, broken = [], {}
        for name in trash.entries(self.root / kind):
            try:
                item = read(name)
            except BackendError as exc:
                broken[name] = exc
                continue
            if item is not None:
                found.append(item)
        return sorted(found, key=lambda item: (item.created_at, item.name)), broken

    def _tell(self, scanned: tuple[list[R], dict[str, BackendError]]) -> list[R]:
        found, broken = scanned
        for name, exc in broken.items():
            if name not in self._told:  # once per process: nodes are looked at several times a second
                log.error("left out: %s", exc)
                self._told.add(name)
        return found

    @contextmanager
    def incoming(self, kind: str, item_id: str) -> Iterator[Path]:
        """Give a directory to fill; it becomes ``<kind>/<id>`` whole, or nothing of it stays."""
        # The name says whose it is, so that the leftovers of a dead process can be told.
        started = linux.start_time(os.getpid())
        folder = self.root / "new" / f"{os.getpid()}.{started}.{secrets.token_hex(6)}"
        try:
            folder.mkdir(mode=0o700)
            yield folder
            folder.rename(self.root / kind / item_id)
        except BaseException:
            trash.remove(folder)
            raise

    def discard(self, folder: Path) -> Path:
        """Take a volume or node out of sight at once; ``sweep`` removes its files."""
        target = self.root / "trash" / f"{folder.name}.{secrets.token_hex(6)}"
        folder.rename(target)
        return target

    def sweep(self) -> None:
        """Remove what is in the trash, and what dead processes left half made."""
        trash.sweep(self.root)

    def write_volume(self, item: VolumeFile) -> None:
        """Replace a volume's file."""
        write_json(self.volume_dir(item.id) / "volume.json", item)

    def retag(self, item: VolumeFile, tags: Mapping[str, str]) -> None:
        """Set some of a volume's tags."""
        self.write_volume(replace(item, tags={**item.tags, **tags}))


def write_json(path: Path, item: VolumeFile | NodeFile) -> None:
    """Write a record's file, atomically and for good."""
    linux.write(str(path), json.dumps(asdict(item), indent=1), durable=True)


def new_id(prefix: str) -> str:
    """Return a fresh id, as in ``vol-0a1b2c3d4e5f60718``."""
    return f"{prefix}-{secrets.token_hex(8)}"


@contextmanager
def mapped(verb: str, resource: str) -> Iterator[None]:
    """Turn the machine's errors into ours; the only place that does."""
    try:
        yield
    except OSError as exc:
        where = {"backend": "local", "verb": verb, "resource": resource}
        if exc.errno in _FULL:
            raise QuotaExceeded(f"{exc}; free space on the disk of the state directory", **where) from exc
        if exc.errno in _DENIED:
            raise AuthDenied(f"{exc}; the state directory belongs to another user?", **where) from exc
        raise BackendError(f"{exc}; look at the state directory", **where) from exc


def _read(files: Files[R], path: str, item_id: str) -> R | None:
    try:
        return files.read(path)
    except (ValueError, TypeError, KeyError) as exc:  # empty, torn, or of another form
        text = (
            f"{path} is no record ({type(exc).__name__}: {exc}), so nothing of it is used or deleted. "
            f"Mend the file, or move {os.path.dirname(path)} out of the state directory"
        )
        raise BackendError(text, backend="local", verb="read", resource=item_id) from exc


def _checked(item_id: str) -> str:
    """Return the id; refuse one that would name a file elsewhere."""
    if not item_id or "/" in item_id or item_id.startswith("."):
        raise BackendError(f"{item_id!r} is no id of this backend", backend="local", verb="find", resource=item_id)
    return item_id

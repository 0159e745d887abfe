"""What this process saw and did lately: to judge whose a resource is without asking again, and to ask once for all.

Compute Engine's listings show what exists; nothing here stands in for them.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from airflow_rankvol.backends._gcp_view import Raw, id_of, our_tags
from airflow_rankvol.records import Group, Observation, Tags

#: How long a look at a resource is good enough to judge whose it is, in seconds.
FRESH_S = 60.0
#: A deletion that was accepted shows by then; it may fail later than that.
DELETING_S = 60.0
#: As many nodes' reports, reasons and deletions are kept; a triggerer lives long.
MAX_KEPT = 4096

K = TypeVar("K")
V = TypeVar("V")
#: In these an instance stays where its deletion has failed.
_STAYS = frozenset({"PROVISIONING", "STAGING", "RUNNING", "SUSPENDED", "STOPPED", "TERMINATED"})
_NAMESPACE = uuid.UUID("6f7ec1b4-3f0e-5d43-9a53-6a1d6f6f9f0c")


@dataclass(frozen=True, slots=True)
class _Entry:
    raw: Raw
    at: float


class Memory:
    """Volumes and nodes by id, as they were last seen; safe to share between threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.RLock()
        self._volumes: dict[str, _Entry] = {}
        self._nodes: dict[str, _Entry] = {}
        self._last: dict[str, Raw] = {}
        self._deleted: dict[str, float] = {}
        self._wholes: dict[Group, frozenset[str]] = {}
        self._asked: dict[tuple[str, str], frozenset[str]] = {}
        self._reports: dict[str, str | None] = {}
        self._reasons: dict[str, str] = {}
        self._done: dict[str, None] = {}
        self._looked_up: dict[str, float] = {}
        self._request_ids: dict[str, str] = {}

    def saw_volumes(self, found: Iterable[Raw], belongs: Callable[[Raw], bool] | None = None) -> None:
        """Take note of described disks.

        Args:
            belongs: which ones ``found`` has all of; others of that kind are gone.
        """
        disks = list(found)
        self._saw(self._volumes, disks, belongs)
        with self._lock:
            for raw in disks:
                _keep(self._last, id_of(raw), raw)

    def saw_nodes(self, found: Iterable[Raw], belongs: Callable[[Raw], bool] | None = None) -> None:
        """Take note of described instances, as ``saw_volumes``."""
        self._saw(self._nodes, list(found), belongs)

    def zones(self, group: Group) -> frozenset[str] | None:
        """Return the zones where something of a group may be; None where this process has not seen it as a whole.

        Those of the last whole look, and those where this process has asked for something since, whatever came of it.
        """
        with self._lock:
            whole = self._wholes.get(group)
            if whole is None:
                return None
            asked = (self._asked.get((group.owner, key), frozenset()) for key in group.keys)
            # Of a group that was empty then, others may have made something since.
            return whole.union(*asked) or None

    def saw_whole(self, group: Group, seen: Observation) -> None:
        """Take note of a look at a group that reached every zone that counts."""
        zones = {volume.zone for volume in seen.volumes} | {node.zone for node in seen.nodes}
        with self._lock:
            _keep(self._wholes, group, frozenset(zone for zone in zones if zone))

    def asks_for(self, zone: str, tags: Tags) -> None:
        """Take note, before the call, that something is to be made in a zone: its answer may be lost."""
        with self._lock:
            asked = self._asked.get((tags.owner, tags.key), frozenset())
            _keep(self._asked, (tags.owner, tags.key), asked | {zone})

    def volume(self, volume_id: str) -> Raw | None:
        """Return a disk that was seen a short while ago."""
        return self._fresh(self._volumes.get(volume_id))

    def last_volume(self, volume_id: str) -> Raw | None:
        """Return a disk as it was last seen, however long ago, and whatever this process did with it since."""
        return self._last.get(volume_id)

    def node(self, node_id: str) -> Raw | None:
        """Return an instance that was seen a short while ago."""
        return self._fresh(self._nodes.get(node_id))

    def last_node(self, node_id: str) -> Raw | None:
        """Return an instance as it was last seen, however long ago."""
        found = self._nodes.get(node_id)
        return found.raw if found else None

    def forget_volume(self, volume_id: str) -> None:
        """Drop a disk that this process has deleted, or changed without knowing what it is now."""
        with self._lock:
            self._volumes.pop(volume_id, None)

    def deleted_node(self, raw: Raw) -> None:
        """Take note of an instance whose deletion was accepted; by its number, as names come again."""
        with self._lock:
            _keep(self._deleted, str(raw.get("id")), self._now())

    def was_deleted(self, raw: Raw) -> bool:
        """Say whether this process has had a deletion of an instance accepted."""
        return str(raw.get("id")) in self._deleted

    def is_going(self, raw: Raw) -> bool:
        """Say whether an instance that this process has deleted may be taken for ended already.

        Not for long where it runs on, or stays stopped: a deletion is an operation that may fail after it was accepted.
        """
        at = self._deleted.get(str(raw.get("id")))
        return at is not None and (raw.get("status") not in _STAYS or self._now() - at < DELETING_S)

    def report(self, number: str, read: Callable[[], str | None]) -> str | None:
        """Return the last report of a node, by its number; read once."""
        if number not in self._reports:
            text = read()
            with self._lock:
                _keep(self._reports, number, text)
            return text
        return self._reports[number]

    def known_report(self, number: str) -> str | None:
        """Return a node's report where it was read already."""
        return self._reports.get(number)

    def ended_because(self, number: str, reason: str) -> None:
        """Take note of why a node ended."""
        with self._lock:
            _keep(self._reasons, number, reason)

    def reason(self, number: str) -> str | None:
        """Return why a node ended; None where nobody has looked."""
        return self._reasons.get(number)

    def is_first(self, what: str) -> bool:
        """Say whether this is asked for the first time."""
        with self._lock:
            first = what not in self._done
            _keep(self._done, what, None)
            return first

    def is_due(self, look_up: str) -> bool:
        """Say whether something was not done a short while ago."""
        at = self._looked_up.get(look_up)
        return at is None or self._now() - at > FRESH_S

    def looked_up(self, look_ups: Iterable[str]) -> None:
        """Take note of what was done."""
        with self._lock:
            now = self._now()
            recent = {key: at for key, at in self._looked_up.items() if now - at <= FRESH_S}
            self._looked_up = recent | dict.fromkeys(look_ups, now)

    def request_id(self, what: str) -> str:
        """Return the requestId for a call; the same in every process until it is spent."""
        return self._request_ids.get(what) or str(uuid.uuid5(_NAMESPACE, what))

    def spend(self, what: str) -> None:
        """Use another requestId from now on: this one stands for an operation that is over."""
        with self._lock:
            _keep(self._request_ids, what, str(uuid.uuid4()))

    def _saw(self, entries: dict[str, _Entry], found: list[Raw], belongs: Callable[[Raw], bool] | None) -> None:
        with self._lock:
            now = self._now()
            fresh = {id_of(raw): _Entry(raw, now) for raw in found}
            gone = [
                key
                for key, entry in entries.items()
                if key not in fresh and ((belongs and belongs(entry.raw)) or now - entry.at > FRESH_S)
            ]
            for key in gone:
                del entries[key]
            entries.update(fresh)

    def _fresh(self, entry: _Entry | None) -> Raw | None:
        return entry.raw if entry and self._now() - entry.at < FRESH_S else None


def same(raw: Raw | None, wanted: Tags) -> bool:
    """Say whether a resource has the owner and the key that are wanted."""
    found = our_tags(raw) if raw is not None else None
    return found is not None and (found.owner, found.key) == (wanted.owner, wanted.key)


def changed_hands(raw: Raw, seen: Raw | None) -> bool:
    """Say whether a resource is another one than the one that was seen under its name, or another owner's since."""
    if seen is None:
        return False
    before, now = our_tags(seen), our_tags(raw)
    if before is None or now is None or (before.owner, before.key) != (now.owner, now.key):
        return True
    return seen.get("id") not in (None, raw.get("id"))


def once() -> str:
    """Return a requestId for a call that may be sent twice, but means itself only."""
    return str(uuid.uuid4())


def _keep(kept: dict[K, V], key: K, value: V) -> None:
    kept.pop(key, None)  # what is used again is the newest
    while len(kept) >= MAX_KEPT:
        del kept[next(iter(kept))]
    kept[key] = value

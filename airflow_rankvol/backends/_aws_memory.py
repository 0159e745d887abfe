"""What this process saw and did lately, because EC2's answers are eventually consistent.

A fresh volume or node may be missing from a listing for some seconds, and one that has ended stays in it for an hour.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.backends._aws_view import instance_state, name_of, our_tags
from airflow_rankvol.records import Tags

#: How long what this process did counts although EC2 does not show it yet, in seconds.
UNSEEN_S = 60.0
#: How long a look at a resource is good enough to judge whose it is (tags do not change hands), in seconds.
FRESH_S = 60.0
#: How long a deleted node is remembered, in seconds: EC2 lists it for about an hour.
DELETED_S = 7200.0
#: As many reports of nodes, things asked once and tokens that are used up are kept each; a triggerer lives long.
MAX_KEPT = 4096
#: As many nodes' consoles are kept until somebody shows them, of up to 64 KB each.
MAX_CONSOLES = 64

Raw = Mapping[str, Any]


@dataclass(slots=True)
class _Entry:
    raw: Raw
    at: float
    made_at: float | None = None
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Attaching:
    """An attachment that this process has asked for."""

    node_id: str
    device: str
    at: float


class Memory:
    """Volumes and nodes by id, as they were last seen; safe to share between threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.RLock()
        self._volumes: dict[str, _Entry] = {}
        self._nodes: dict[str, _Entry] = {}
        self._deleted: dict[str, float] = {}
        self._attaching: dict[str, Attaching] = {}
        self._done: dict[str, None] = {}
        self._looked_up: dict[str, float] = {}
        self._reports: dict[str, str | None] = {}
        self._consoles: dict[str, str] = {}

    def now(self) -> float:
        """Return the time in seconds, on this process' clock."""
        return self._now()

    def saw_volumes(self, found: Iterable[Raw]) -> None:
        """Take note of described volumes."""
        self._saw(self._volumes, "VolumeId", found)

    def saw_nodes(self, found: Iterable[Raw]) -> None:
        """Take note of described instances."""
        self._saw(self._nodes, "InstanceId", found)

    def made_volume(self, raw: Raw) -> None:
        """Take note of a volume that this process has just created."""
        with self._lock:
            self._volumes[raw["VolumeId"]] = _Entry(raw, self._now(), made_at=self._now())

    def made_node(self, raw: Raw) -> None:
        """Take note of a node that this process has just launched."""
        with self._lock:
            self._nodes[raw["InstanceId"]] = _Entry(raw, self._now(), made_at=self._now())

    def volume(self, volume_id: str) -> Raw | None:
        """Return a volume that was seen a short while ago."""
        return self._fresh(self._volumes.get(volume_id))

    def node(self, node_id: str) -> Raw | None:
        """Return a node that was seen a short while ago."""
        return self._fresh(self._nodes.get(node_id))

    def last_node(self, node_id: str) -> Raw | None:
        """Return a node as it was last seen, however long ago."""
        found = self._nodes.get(node_id)
        return found.raw if found else None

    def nodes(self) -> list[Raw]:
        """Return all nodes as they were last seen."""
        with self._lock:
            return [entry.raw for entry in self._nodes.values()]

    def volumes_named(self, name: str) -> list[Raw]:
        """Return the volumes of a name that were seen or made a short while ago."""
        return self._named(self._volumes, name)

    def node_named(self, name: str, tags: Tags) -> Raw | None:
        """Return the node of a name and key that was seen or made a short while ago."""
        found = (raw for raw in self._named(self._nodes, name) if _same(our_tags(raw), tags))
        return next(found, None)

    def just_made(self, volume_id: str) -> bool:
        """Say whether this process has made a volume so lately that EC2 may not know it yet."""
        found = self._volumes.get(volume_id)
        return found is not None and not found.shown and self._unseen(found)

    def just_launched(self, node_id: str) -> bool:
        """Say whether this process has launched a node so lately that EC2 may not know it yet."""
        found = self._nodes.get(node_id)
        return found is not None and not found.shown and self._unseen(found)

    def held(self, nodes: Iterable[Raw]) -> list[Raw]:
        """Return the volumes that nodes have attached while they run: as those say, and as EC2 described them last.

        Who holds it, which is what counts, is as fresh as the nodes; what has not been described for DELETED_S is not
        known any more.
        """
        running = [node for node in nodes if instance_state(node) == "running"]
        return [
            {**entry.raw, "State": "in-use", "Attachments": [{"InstanceId": node["InstanceId"], "State": "attached"}]}
            for node in running
            if not self.was_deleted(node["InstanceId"])
            for disk in node.get("BlockDeviceMappings") or ()
            if disk.get("Ebs", {}).get("Status") == "attached"
            and (entry := self._volumes.get(disk["Ebs"].get("VolumeId")))
        ]

    def list_volumes(self, found: Iterable[Raw], belongs: Callable[[Raw], bool], held: Iterable[Raw] = ()) -> list[Raw]:
        """Take note of a whole listing of what ``belongs``; add what this process has just made and it lacks.

        Args:
            held: what is in the listing, too, but was not described.
        """
        listed = list(found)
        self.saw_volumes(listed)
        listed += held
        return listed + self._missing(self._volumes, {raw["VolumeId"] for raw in listed}, belongs)

    def list_nodes(self, found: Iterable[Raw], belongs: Callable[[Raw], bool]) -> list[Raw]:
        """Take note of a whole listing of what ``belongs``; add new nodes that an earlier one has shown.

        One that no listing has shown is not added: the triggerer looks next, and takes what EC2 does not show for
        lost. So whoever launches it waits until it is listed; launching it again only returns it.
        """
        listed = list(found)
        self.saw_nodes(listed)
        missing = self._missing(self._nodes, {raw["InstanceId"] for raw in listed}, belongs)
        return listed + [raw for raw in missing if self._was_shown(raw["InstanceId"])]

    def forget_volume(self, volume_id: str) -> None:
        """Drop a volume that this process has deleted."""
        with self._lock:
            self._volumes.pop(volume_id, None)
            self._attaching.pop(volume_id, None)

    def retag_volumes(self, volume_ids: Iterable[str], tags: Mapping[str, str]) -> None:
        """Take note of tags that this process has set."""
        with self._lock:
            for volume_id in volume_ids:
                entry = self._volumes.get(volume_id)
                if entry:
                    kept = [tag for tag in entry.raw.get("Tags") or () if tag["Key"] not in tags]
                    fresh = [{"Key": key, "Value": value} for key, value in tags.items()]
                    entry.raw = {**entry.raw, "Tags": [*kept, *fresh]}

    def deleted_node(self, node_id: str) -> None:
        """Take note of a node that this process has deleted."""
        with self._lock:
            now = self._now()
            self._deleted = {known: at for known, at in self._deleted.items() if now - at < DELETED_S}
            self._deleted[node_id] = now

    def was_deleted(self, node_id: str) -> bool:
        """Say whether this process has deleted a node."""
        return node_id in self._deleted

    def attach(self, volume_id: str, node_id: str, choose: Callable[[set[str]], str]) -> str:
        """Reserve a device name on a node for a volume, so that no two threads take the same."""
        with self._lock:
            self._attaching = {key: item for key, item in self._attaching.items() if self._now() - item.at < UNSEEN_S}
            taken = {item.device for item in self._attaching.values() if item.node_id == node_id}
            device = choose(taken)
            self._attaching[volume_id] = Attaching(node_id, device, self._now())
            return device

    def attaching(self, volume_id: str) -> Attaching | None:
        """Return the attachment that this process has asked for a short while ago."""
        found = self._attaching.get(volume_id)
        return found if found and self._now() - found.at < UNSEEN_S else None

    def not_attaching(self, volume_id: str) -> None:
        """Drop an attachment that EC2 refused, or that was undone."""
        with self._lock:
            self._attaching.pop(volume_id, None)

    def is_first(self, what: str) -> bool:
        """Say whether this is asked for the first time."""
        with self._lock:
            first = what not in self._done
            while len(self._done) >= MAX_KEPT:
                del self._done[next(iter(self._done))]
            self._done[what] = None
            return first

    def is_due(self, look_up: str) -> bool:
        """Say whether a look-up was not made a short while ago."""
        at = self._looked_up.get(look_up)
        return at is None or self._now() - at > FRESH_S

    def looked_up(self, look_ups: Iterable[str], at: float | None = None) -> None:
        """Take note of look-ups that were made.

        Args:
            at: when they began, where somebody asks for that.
        """
        with self._lock:
            now = self._now()
            recent = {key: then for key, then in self._looked_up.items() if now - then <= FRESH_S}
            self._looked_up = recent | dict.fromkeys(look_ups, now if at is None else at)

    def looked_up_s_ago(self, look_up: str) -> float:
        """Return how long ago a look-up was made, in seconds; infinity where that is long."""
        return self._now() - self._looked_up.get(look_up, float("-inf"))

    def report(self, node_id: str, read: Callable[[], str | None]) -> str | None:
        """Return a node's report, which is read once."""
        if node_id not in self._reports:
            text = read()
            with self._lock:
                while len(self._reports) >= MAX_KEPT:
                    del self._reports[next(iter(self._reports))]
                self._reports[node_id] = text
            return text
        return self._reports[node_id]

    def known_report(self, node_id: str) -> str | None:
        """Return a node's report where it was read already."""
        return self._reports.get(node_id)

    def keep_console(self, node_id: str, text: str) -> None:
        """Keep what a node's console showed when its report was read, until somebody takes it."""
        with self._lock:
            self._consoles[node_id] = text
            while len(self._consoles) > MAX_CONSOLES:
                del self._consoles[next(iter(self._consoles))]

    def take_console(self, node_id: str) -> str:
        """Return what was kept of a node's console, once; else nothing."""
        with self._lock:
            return self._consoles.pop(node_id, "")

    def _saw(self, entries: dict[str, _Entry], key: str, found: Iterable[Raw]) -> None:
        with self._lock:
            now = self._now()
            for raw in found:
                before = entries.get(raw[key])
                entries[raw[key]] = _Entry(raw, now, made_at=before.made_at if before else None, shown=True)
            for old in [item for item, entry in entries.items() if now - entry.at > DELETED_S]:
                del entries[old]

    def _missing(self, entries: dict[str, _Entry], listed: set[str], belongs: Callable[[Raw], bool]) -> list[Raw]:
        """Return what a listing lacks only because it is new; drop what is gone."""
        missing = []
        with self._lock:
            for key, entry in [*entries.items()]:
                if key in listed or not belongs(entry.raw):
                    continue
                if self._unseen(entry):
                    missing.append(entry.raw)
                else:
                    del entries[key]
        return missing

    def _was_shown(self, node_id: str) -> bool:
        entry = self._nodes.get(node_id)
        return entry is not None and entry.shown

    def _named(self, entries: dict[str, _Entry], name: str) -> list[Raw]:
        with self._lock:
            return [entry.raw for entry in entries.values() if self._fresh(entry) and name_of(entry.raw) == name]

    def _fresh(self, entry: _Entry | None) -> Raw | None:
        return entry.raw if entry and self._now() - entry.at < FRESH_S else None

    def _unseen(self, entry: _Entry) -> bool:
        return entry.made_at is not None and self._now() - entry.made_at < UNSEEN_S


def _same(found: Tags | None, wanted: Tags) -> bool:
    return found is not None and (found.owner, found.key) == (wanted.owner, wanted.key)

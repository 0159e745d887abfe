"""Disks: created once, deleted only when ours, tagged only as they were looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_creation import creation
from airflow_rankvol.backends._gcp_errors import code
from airflow_rankvol.backends._gcp_insert import Insertion, insert
from airflow_rankvol.backends._gcp_labels import changed
from airflow_rankvol.backends._gcp_memory import Memory, changed_hands, once, same
from airflow_rankvol.backends._gcp_names import filters_of
from airflow_rankvol.backends._gcp_places import Places
from airflow_rankvol.backends._gcp_removal import delete_disk
from airflow_rankvol.backends._gcp_view import DISK_FIELDS, Raw, id_at, id_of, last, our_tags, split, volume_of, zone_of
from airflow_rankvol.backends.base import Guard, VolumeRequest, check_held, check_there
from airflow_rankvol.errors import BackendError, ConfigError, FinalError, NotOurs, NotReady, VolumeBusy
from airflow_rankvol.records import TAG_PREFIX, Volume

T = TypeVar("T")
R = TypeVar("R")

#: As many calls of one verb are under way at once.
TOGETHER = 32
#: As many times labels are read again that somebody else has changed meanwhile.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Volumes:
    """The verbs of volumes."""

    gce: Gce
    memory: Memory
    places: Places

    def create(self, request: VolumeRequest) -> Volume:
        """Create a volume, or return the one of that name and key."""
        zone = request.zone or self.places.zone_for(request.tags)
        known = self.memory.volume(f"{zone}/{request.name}")
        if known is None or not same(known, request.tags) or known.get("status") == "DELETING":
            body = creation(self.gce, request, zone)
            token = f"disks.insert/{request.token}/{request.tags.key}/{zone}/{request.name}"
            self.memory.asks_for(zone, request.tags)
            wanted = Insertion(f"zones/{zone}/disks", body, "READY", token, "create_volume")
            known = insert(self.gce, self.memory, wanted, request.tags)
        self.memory.saw_volumes([known])
        return volume_of(known)

    def delete(self, volume_id: str, guard: Guard) -> None:
        """Start deleting a volume of ours; one that is not what this process has last seen under its name is gone."""
        _, name = split(volume_id)
        seen = self.memory.last_volume(volume_id)  # however long ago: the name may be another disk's since
        # As it is now: whose it is may have changed.
        raw = self.get(volume_id, "delete_volume")
        if raw is None:
            self.memory.forget_volume(volume_id)
            return
        guard.check(tags=our_tags(raw), name=name, backend="gcp", verb="delete_volume")
        if raw.get("status") != "DELETING" and _same_disk(raw, seen):
            delete_disk(self.gce, self.memory, raw, "delete_volume")
        self.memory.forget_volume(volume_id)

    def tag(self, volume_ids: Sequence[str], tags: Mapping[str, str], held_by: str | None) -> frozenset[str]:
        """Set tags on volumes of ours; return the ids of those that are gone, which none may that is claimed."""
        ids = sorted(set(volume_ids))
        known = dict(zip(ids, together(ids, self._known), strict=True))
        for volume_id, there in known.items():
            check_there(there is not None, held_by, "gcp", volume_id)
        found = [raw for raw in known.values() if raw is not None]
        for raw in found:
            self._check_ours(raw)
            _check_held(raw, held_by, tags)
        if held_by is None:
            tagged = together(found, lambda raw: self._tag(raw, tags, None))
            return frozenset(ids).difference(
                id_of(raw) for raw, is_there in zip(found, tagged, strict=True) if is_there
            )
        done: list[Raw] = []

        def claim(raw: Raw) -> None:
            self._tag(raw, tags, held_by)
            done.append(raw)

        try:
            # One first: of two runs that want the same volumes, one gets none.
            together(found[:1], claim)
            together(found[1:], claim)
        except BaseException:
            self._give_back(done, tags)
            raise
        return frozenset()

    def attach(self, volume_id: str, node_id: str) -> None:
        """Attach a volume to a running node, unless that is done or under way."""
        zone, name = split(volume_id)
        volume = self.memory.volume(volume_id) or self.get(volume_id, "attach")
        node = self.memory.node(node_id) or self.gce.find(_instance(node_id), "attach", node_id)
        if volume is None or node is None or node.get("status") != "RUNNING":
            state = "absent" if node is None else node.get("status")
            text = f"node {node_id} is {state}, the volume {'absent' if volume is None else 'there'}; it is tried again"
            raise _error(NotReady, "attach", volume_id, text)
        users = [id_at(user) for user in volume.get("users") or ()]
        if node_id in users:
            return
        if users:
            raise _error(VolumeBusy, "attach", volume_id, f"it is attached to {users[0]}; expected it to be free")
        if zone != split(node_id)[0]:
            raise _error(
                FinalError, "attach", volume_id,
                f"the volume is in zone {zone}, node {node_id} in another; a disk attaches only within its zone. Set "
                f"NodeTemplate.zones to {zone!r}, or give the job a volume of its own",
            )  # fmt: skip
        body = {"source": self.gce.link(f"zones/{zone}/disks/{name}"), "deviceName": name, "autoDelete": False}
        path = f"{_instance(node_id)}/attachDisk"
        try:
            operation = self.gce.call("POST", path, "attach", volume_id, body=body, requestId=once())
            self.gce.wait(operation, "attach", volume_id)
        except BackendError as exc:
            if code(exc) != "resourceInUseByAnotherResource" or not self._holds(volume_id, node_id):
                raise
        self.memory.forget_volume(volume_id)

    def get(self, volume_id: str, verb: str) -> Raw | None:
        """Return a disk as it is now."""
        zone, name = split(volume_id)
        return self.gce.find(f"zones/{zone}/disks/{name}", verb, volume_id)

    def named(self, names: Sequence[str], verb: str, where: str) -> list[Raw]:
        """Return the disks of these names in all zones.

        Raises:
            ConfigError: a region has one of them; such a disk is not supported.
        """
        wanted = frozenset(names)
        found: list[Raw] = []
        for filter_ in filters_of(names):
            found += self.gce.everywhere("disks", verb, where, filter_=filter_, fields=DISK_FIELDS, regional=True)
        found = [raw for raw in found if raw["name"] in wanted]
        for raw in found:
            if not zone_of(raw):
                raise ConfigError(
                    f"volume {raw['name']}: a regional disk of that name was found in {last(str(raw.get('region')))}; "
                    "expected a disk of one zone, or none. Choose another name for the volume in the job, or make a "
                    "zonal disk of that name from a snapshot of it"
                )
        return found

    def _known(self, volume_id: str) -> Raw | None:
        seen = self.memory.volume(volume_id)
        # What was just made, or just tagged, is not known to that degree.
        return seen if seen and seen.get("labelFingerprint") else self.get(volume_id, "tag_volumes")

    def _check_ours(self, raw: Raw) -> None:
        if our_tags(raw) is None:
            text = "refused: it carries no tags of ours, and adopted volumes are never tagged"
            raise _error(NotOurs, "tag_volumes", id_of(raw), text)
        if changed_hands(raw, self.memory.last_volume(id_of(raw))):
            text = "refused: since it was looked at, its name is another disk's, or the disk another owner's. Try again"
            raise _error(NotOurs, "tag_volumes", id_of(raw), text)

    def _tag(self, raw: Raw, tags: Mapping[str, str], held_by: str | None) -> bool:
        """Set the labels that a disk had when it was looked at, some anew; look again where they are others now.

        Returns:
            Whether it is there; gone is only what a look does not show either.
        """
        seen: Raw | None = raw
        zone, name = split(id_of(raw))
        for attempt in range(TRIES):
            if seen is None:
                check_there(False, held_by, "gcp", id_of(raw))
                return False
            self._check_ours(seen)
            _check_held(seen, held_by, tags)
            body = {
                "labels": changed(seen.get("labels") or {}, tags),
                "labelFingerprint": seen.get("labelFingerprint", ""),
            }
            path = f"zones/{zone}/disks/{name}/setLabels"
            try:
                operation = self.gce.call("POST", path, "tag_volumes", id_of(seen), body=body, requestId=once())
            except BackendError as exc:
                self.memory.forget_volume(id_of(seen))
                if code(exc) not in ("conditionNotMet", "notFound") or attempt == TRIES - 1:
                    raise
                seen = self.get(id_of(seen), "tag_volumes")
                if seen is not None and code(exc) == "notFound":
                    text = f"it is there, but {exc}. It is tried again"
                    raise _error(NotReady, "tag_volumes", id_of(raw), text) from exc
                continue
            # Its fingerprint is another one now.
            self.memory.forget_volume(id_of(seen))
            self.gce.wait(operation, "tag_volumes", id_of(seen))
            break
        return True

    def _give_back(self, claimed: Sequence[Raw], tags: Mapping[str, str]) -> None:
        """Undo half a claim: put back what the volumes carried before, while they carry what was just set."""
        for raw in claimed:
            before = our_tags(raw)
            with suppress(BackendError):  # the end of this run frees what stays claimed
                now = self.get(id_of(raw), "tag_volumes")
                found = our_tags(now) if now else None
                if now is None or before is None or found is None or found.used_by != tags.get(f"{TAG_PREFIX}used_by"):
                    continue
                old = before.to_dict()
                self._tag(now, {name: old[name] for name in tags}, None)

    def _holds(self, volume_id: str, node_id: str) -> bool:
        raw = self.get(volume_id, "attach")
        return raw is not None and node_id in map(id_at, raw.get("users") or ())


def together(items: Sequence[T], call: Callable[[T], R]) -> list[R]:
    """Call it for every item, some at once; the first error is raised when all have ended."""
    if len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(TOGETHER, len(items)), thread_name_prefix="rankvol-gcp") as pool:
        return list(pool.map(call, items))


def _instance(node_id: str) -> str:
    zone, name = split(node_id)
    return f"zones/{zone}/instances/{name}"


def _same_disk(raw: Raw, seen: Raw | None) -> bool:
    """Say whether a disk is the one that this process saw last under its name, by their numbers."""
    return seen is None or seen.get("id") in (None, raw.get("id"))


def _check_held(raw: Raw, held_by: str | None, tags: Mapping[str, str]) -> None:
    found = our_tags(raw)
    check_there(raw.get("status") != "DELETING", held_by, "gcp", id_of(raw))
    check_held(found.used_by if found else "", held_by, tags, "gcp", id_of(raw))


def _error(kind: type[BackendError], verb: str, resource: str, text: str) -> BackendError:
    return kind(text, backend="gcp", verb=verb, resource=resource)

"""The calls about disks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.clouds.gcp.bounds import KINDS, check
from tests.clouds.gcp.catalog import REGIONS, SCOPES, Catalog
from tests.clouds.gcp.errors import GceError, exists, in_use, invalid, not_modelled, not_ready, stale
from tests.clouds.gcp.lifecycle import Lifecycle
from tests.clouds.gcp.listing import Lister
from tests.clouds.gcp.model import PROJECT, ROOT, Disk, fingerprint, stamp
from tests.clouds.gcp.names import check_labels, check_name
from tests.clouds.gcp.operations import Operations, checked_request_id
from tests.clouds.gcp.quotas import Quotas
from tests.clouds.gcp.world import World

Json = dict[str, Any]
_KNOWN = {
    "name",
    "description",
    "sizeGb",
    "type",
    "labels",
    "sourceImage",
    "sourceSnapshot",
    "provisionedIops",
    "provisionedThroughput",
    "diskEncryptionKey",
    "physicalBlockSizeBytes",
    "accessMode",
    "kind",
}


class Maker:
    """Turns what a request says of a disk into one, which is not on its shelf yet."""

    def __init__(self, world: World, catalog: Catalog) -> None:
        self._world = world
        self._catalog = catalog

    def make(self, zone: str, body: Json, field: str = "resource") -> Disk:
        """Return the disk that a body asks for.

        Raises:
            GceError: Whatever Compute Engine has against it.
        """
        if more := set(body) - _KNOWN:
            raise not_modelled(f"disks.insert with {', '.join(sorted(more))}")
        name = check_name(body["name"], f"{field}.name")
        kind = KINDS["pd-standard"]  # [U] the API's default; gcloud's documents name it
        if "type" in body:
            kind = self._catalog.disk_kind(body["type"], zone, f"{field}.type")
        disk = Disk(
            "disks",
            zone,
            name,
            self._world.new_id(),
            self._world.now(),
            description=body.get("description", ""),
            labels=check_labels(body.get("labels", {}), f"{field}.labels"),
            status="CREATING",
            type=kind.name,
        )
        least = self._source(disk, body, field)
        disk.size_gb = int(body.get("sizeGb", least or kind.default_gb))
        if disk.size_gb < least:
            raise invalid(f"{field}.sizeGb", disk.size_gb, f"Requested disk size cannot be smaller than {least} GB.")
        disk.iops, disk.throughput = check(kind, disk.size_gb, body, field)
        if key := body.get("diskEncryptionKey"):
            if set(key) - {"kmsKeyName"}:
                raise not_modelled("disks with a customer-supplied encryption key")
            self._catalog.check_key(key["kmsKeyName"])
            disk.facts["key"] = key["kmsKeyName"]
        if body.get("accessMode", "READ_WRITE_SINGLE") != "READ_WRITE_SINGLE":
            raise not_modelled(f"disks with accessMode {body['accessMode']}")
        return disk

    def _source(self, disk: Disk, body: Json, field: str) -> int:
        """Note where a disk's content comes from, and return the least size that takes it."""
        if "sourceImage" in body and "sourceSnapshot" in body:
            raise invalid(f"{field}.sourceSnapshot", body["sourceSnapshot"], "Only one source may be given.")
        if "sourceImage" in body:
            image = self._catalog.image(body["sourceImage"], f"{field}.sourceImage")
            disk.image = image.link
            return image.size_gb
        if "sourceSnapshot" in body:
            disk.snapshot = self._catalog.snapshot(body["sourceSnapshot"], f"{field}.sourceSnapshot")
            return self._catalog.snapshots[disk.snapshot]
        return 0


class Disks:
    """disks.insert and what follows it."""

    def __init__(
        self,
        world: World,
        operations: Operations,
        maker: Maker,
        quotas: Quotas,
        lifecycle: Lifecycle,
        lost: Mapping[str, str],
    ) -> None:
        self._world = world
        self._operations = operations
        self._maker = maker
        self._quotas = quotas
        self._lifecycle = lifecycle
        self._lost = lost
        self._lister: Lister[Disk] = Lister("zones", "disks", "disk")
        self._all: Lister[Json] = Lister("zones", "disks", "disk")
        self._regional: list[Json] = []

    def insert(self, params: Json, body: Json) -> Json:
        """disks.insert: the disk is there at once, and READY when the operation is done."""
        zone, request_id = params["zone"], checked_request_id(params)
        if "sourceImage" in params:
            body = {**body, "sourceImage": params["sourceImage"]}
        link = f"projects/{PROJECT}/zones/{zone}/disks/{body['name']}"
        if found := self._operations.recall("disks.insert", link, request_id, body):
            return found
        disk = self._maker.make(zone, body)
        if (zone, disk.name) in self._world.disks:
            raise exists(link)
        failure = self._quotas.check(zone, {KINDS[disk.type].quota: disk.size_gb})
        self._world.disks.add(disk)

        def ready(finish: Any) -> None:
            disk.status = "READY"
            finish()

        return self._operations.start(
            "disks.insert",
            disk,
            ready,
            after_s=self._world.settings.create_disk_s,
            request_id=request_id,
            undo=lambda: self._lifecycle.discard(disk),
            failure=failure,
        ).view()

    def delete(self, params: Json) -> Json:
        """disks.delete: not while anybody has it (disc: "Deletes the specified persistent disk … permanent")."""
        zone, name, request_id = params["zone"], params["disk"], checked_request_id(params)
        link = f"projects/{PROJECT}/zones/{zone}/disks/{name}"
        if found := self._operations.recall("disks.delete", link, request_id):
            return found
        disk = self._world.disks.find(zone, name)
        if disk.users:
            raise in_use(disk.link, disk.users[0].link)
        if disk.busy:
            raise not_ready(disk.link)  # [U] what a second delete meets
        before, disk.status = disk.status, "DELETING"

        def gone(finish: Any) -> None:
            self._lifecycle.discard(disk)
            finish()

        def stays() -> None:
            disk.status = before

        return self._operations.start(
            "disks.delete",
            disk,
            gone,
            after_s=self._world.settings.delete_disk_s,
            request_id=request_id,
            undo=stays,
        ).view()

    def set_labels(self, params: Json, body: Json) -> Json:
        """disks.setLabels: with the fingerprint of what was read."""
        request_id = checked_request_id(params)
        disk = self._world.disks.find(params["zone"], params["resource"])
        if found := self._operations.recall("disks.setLabels", disk.link, request_id, body):
            return found
        if body.get("labelFingerprint") != fingerprint(sorted(disk.labels.items())):
            raise stale("Labels")
        if disk.busy:
            raise not_ready(disk.link)
        # [U] when the new labels show; the fingerprint changes with them, so that of two writers one is told.
        before, disk.labels = disk.labels, check_labels(body.get("labels", {}), "labels")

        def back() -> None:
            disk.labels = before

        return self._operations.start(
            "disks.setLabels",
            disk,
            lambda finish: finish(),
            after_s=self._world.settings.update_s,
            request_id=request_id,
            undo=back,
            alone=False,
        ).view()

    def get(self, params: Json) -> Json:
        """disks.get."""
        return self.view(self._world.disks.find(params["zone"], params["disk"]))

    def list(self, params: Json) -> Json:
        """disks.list."""
        found = [disk for disk in self._world.listed(self._world.disks) if disk.zone == params["zone"]]
        return self._lister.answer(params, found, self.view)

    def aggregated_list(self, params: Json) -> Json:
        """disks.aggregatedList."""
        found = [*map(self.view, self._world.listed(self._world.disks)), *self._regional]
        found.sort(key=lambda view: (view["name"], view.get("zone", "")))
        scopes = [*SCOPES, *(f"regions/{region}" for region in REGIONS)]
        return self._all.aggregated(params, found, lambda view: view, scopes, self._lost)

    def add_regional(self, name: str, region: str, labels: dict[str, str], description: str) -> None:
        """Let there be a disk that lies in two zones of a region; here it is only listed."""
        where = f"{ROOT}projects/{PROJECT}/regions/{region}"
        disk = Disk("disks", "", name, self._world.new_id(), self._world.now(), description, labels, "READY")
        seen = {**self.view(disk), "region": where, "type": f"{where}/diskTypes/pd-balanced", "sizeGb": "10"}
        del seen["zone"]
        self._regional.append({**seen, "selfLink": f"{where}/disks/{name}"})

    def clear(self) -> None:
        """Be as new."""
        self._regional.clear()

    @staticmethod
    def view(disk: Disk) -> Json:
        """Return a disk as answers hold it."""
        zone = f"{ROOT}projects/{PROJECT}/zones/{disk.zone}"
        seen: Json = {
            **disk.base(),
            "kind": "compute#disk",
            "sizeGb": str(disk.size_gb),
            "type": f"{zone}/diskTypes/{disk.type}",
            "physicalBlockSizeBytes": "4096",
        }
        more = {
            "provisionedIops": str(disk.iops) if disk.iops else None,
            "provisionedThroughput": str(disk.throughput) if disk.throughput else None,
            "sourceImage": ROOT + disk.image if disk.image else None,
            "sourceSnapshot": f"{ROOT}projects/{PROJECT}/global/snapshots/{disk.snapshot}" if disk.snapshot else None,
            "users": [instance.url for instance in disk.users],
            "diskEncryptionKey": {"kmsKeyName": _version(disk.facts["key"])} if "key" in disk.facts else None,
            "lastAttachTimestamp": stamp(disk.facts["lastAttach"]) if "lastAttach" in disk.facts else None,
            "lastDetachTimestamp": stamp(disk.facts["lastDetach"]) if "lastDetach" in disk.facts else None,
        }
        return seen | {name: value for name, value in more.items() if value}


def _version(key: str) -> str:
    """Return the key as a disk shows it: with its version."""
    return key if "/cryptoKeyVersions/" in key else f"{key}/cryptoKeyVersions/1"


def check_free(disk: Disk, mode: str) -> None:
    """Refuse a disk that cannot be attached in that mode.

    gce/disks/sharing-disks-between-vms: one instance that writes, or several that only read.

    Raises:
        GceError: It is in use, or not there yet or any more.
    """
    if disk.busy or disk.status != "READY":
        raise not_ready(disk.link)
    for user in disk.users:
        mine = next(attached for attached in user.disks if attached.disk is disk)
        if mode == "READ_WRITE" or mine.mode == "READ_WRITE":
            raise in_use(disk.link, user.link)
    if disk.users and disk.type.startswith("hyperdisk"):
        # gce/disks/hyperdisks: sharing takes another access mode than the default one.
        raise GceError(400, "invalid", f"The disk '{disk.link}' does not have the access mode READ_ONLY_MANY.")

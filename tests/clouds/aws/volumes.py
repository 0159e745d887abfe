"""EBS volumes and snapshots: create, describe, delete."""

from __future__ import annotations

from typing import Any

from tests.clouds.aws import bounds
from tests.clouds.aws.catalog import Catalog
from tests.clouds.aws.describe import Filters, page, select
from tests.clouds.aws.errors import Ec2Error, invalid, missing, not_found, not_modelled
from tests.clouds.aws.model import Attachment, Snapshot, Volume
from tests.clouds.aws.nodes import Nodes
from tests.clouds.aws.tagging import from_specifications
from tests.clouds.aws.tokens import Tokens, mismatch
from tests.clouds.aws.world import ACCOUNT, World
from tests.clouds.common.clock import as_datetime

_ATTACHED: Filters[Volume] = {
    "attachment.delete-on-termination": lambda v: _part(v, lambda a: str(a.delete_on_termination).lower()),
    "attachment.device": lambda v: _part(v, lambda a: a.device),
    "attachment.instance-id": lambda v: _part(v, lambda a: a.instance_id),
    "attachment.status": lambda v: _part(v, lambda a: a.state),
}

# API:DescribeVolumes, Filter.N; those that are missing here are not needed by anything yet.
FILTERS: Filters[Volume] = {
    **_ATTACHED,
    "availability-zone": lambda v: v.zone,
    "encrypted": lambda v: str(v.encrypted).lower(),
    "multi-attach-enabled": lambda v: "false",
    "size": lambda v: str(v.size_gib),
    "snapshot-id": lambda v: v.snapshot_id,
    "status": lambda v: v.state,
    "volume-id": lambda v: v.id,
    "volume-type": lambda v: v.type,
}


def _part(volume: Volume, get: Any) -> list[str]:
    return [get(volume.attachment)] if volume.attachment else []


def attachment_view(attachment: Attachment) -> dict[str, Any]:
    """Return an attachment as answers hold it."""
    return {
        "VolumeId": attachment.volume_id,
        "InstanceId": attachment.instance_id,
        "Device": attachment.device,
        "State": attachment.state,
        "AttachTime": as_datetime(attachment.attached_at),
        "DeleteOnTermination": attachment.delete_on_termination,
    }


class Volumes:
    """The calls about volumes."""

    def __init__(self, world: World, catalog: Catalog, tokens: Tokens, nodes: Nodes) -> None:
        self._world = world
        self._catalog = catalog
        self._tokens = tokens
        self._nodes = nodes

    def view(self, volume: Volume) -> dict[str, Any]:
        """Return a volume as answers hold it."""
        return {
            "VolumeId": volume.id,
            "AvailabilityZone": volume.zone,
            "Size": volume.size_gib,
            "VolumeType": volume.type,
            "Iops": volume.iops,
            "Throughput": volume.throughput_mibps,
            "Encrypted": volume.encrypted,
            "KmsKeyId": volume.kms_key_id or None,
            "SnapshotId": volume.snapshot_id,
            "State": volume.state,
            "CreateTime": as_datetime(volume.created_at),
            "MultiAttachEnabled": False,
            "Attachments": [attachment_view(volume.attachment)] if volume.attachment else [],
            "Tags": self._world.tag_list(volume),
        }

    def create_volume(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateVolume."""
        tags = from_specifications(params, ["volume"]).get("volume", {})
        wish = self._wish(params)
        # The quota goes before the token, so a repeated call can fail although its volume exists.
        self._check_quota(wish.size_gib)
        if known := self._tokens.recall("CreateVolume", params):
            volume = self._world.volumes.get(known[0])
            # csi: "burned" tokens; that of a deleted or failed volume answers with a mismatch for some 12 hours.
            if volume is None or volume.state in ("deleting", "error"):
                raise mismatch(params["ClientToken"])
            return self.view(volume)
        wish.tags = self._world.new_tags(tags)
        volume = self._world.add(self._world.volumes, wish)
        self._tokens.remember("CreateVolume", params, (volume.id,))
        self._world.agenda.after(self._world.settings.create_volume_s, lambda: self._created(volume))
        return {**self.view(volume), "Tags": [{"Key": k, "Value": v} for k, v in tags.items()] or None}

    def _wish(self, params: dict[str, Any]) -> Volume:
        """Return the volume that the parameters ask for, as yet nowhere."""
        for name in ("OutpostArn", "MultiAttachEnabled", "VolumeInitializationRate", "AvailabilityZoneId"):
            if params.get(name):
                raise not_modelled(f"CreateVolume with {name}")
        zone = params.get("AvailabilityZone")
        if not zone:
            raise missing("AvailabilityZone")
        if zone not in self._catalog.zones():
            raise Ec2Error("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
        return new_volume(self._world, self._catalog, params, zone)

    def _check_quota(self, size_gib: int) -> None:
        there = self._world.volumes.values()
        settings = self._world.settings
        if len(there) >= settings.volume_quota:
            raise Ec2Error("VolumeLimitExceeded", f"You have exceeded your maximum of {settings.volume_quota} volumes")
        if sum(v.size_gib for v in there) + size_gib > settings.storage_quota_gib:
            raise Ec2Error("VolumeLimitExceeded", f"You have exceeded your maximum of {settings.storage_quota_gib} GiB")

    def _created(self, volume: Volume) -> None:
        if volume.state != "creating":
            return
        if self._catalog.has_kms_key(volume.kms_key_id):
            volume.state = "available"
            return
        # API:CreateVolume, KmsKeyId: "if you specify a key that is not valid, the action can appear to complete,
        # but eventually fails." Then there is no such volume, and no reason either (aws-cli #2604, terraform #23651).
        self.drop(volume)

    def drop(self, volume: Volume) -> None:
        """Let the volume be gone."""
        self._world.volumes.pop(volume.id, None)
        self._tokens.expire("CreateVolume", volume.token)
        self._nodes.discard(volume)

    def delete_volume(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteVolume: only an available volume (or one that failed) can go."""
        if not params.get("VolumeId"):
            raise missing("VolumeId")
        volume = self._world.find(self._world.volumes, params["VolumeId"])
        if volume.attachment:
            raise Ec2Error(
                "VolumeInUse", f"Volume {volume.id} is currently attached to {volume.attachment.instance_id}"
            )
        if volume.state == "deleting":
            raise not_found(volume.id)  # [U] it still shows in Describe, and is no more to anything else
        if volume.state == "creating":
            raise Ec2Error("IncorrectState", f"Volume {volume.id} is in state creating, expected available")
        self.start_deleting(volume)
        return {}

    def start_deleting(self, volume: Volume) -> None:
        """Put the volume into the state before it is gone."""
        volume.state = "deleting"
        self._world.agenda.after(self._world.settings.delete_volume_s, lambda: self.drop(volume))

    def describe_volumes(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeVolumes."""
        ids = params.get("VolumeIds")
        found = select(self._world, self._world.volumes, ids, params, FILTERS)
        shown, token = page(params, ids, found, id_name="volumeSet")
        return {"Volumes": [self.view(v) for v in shown], "NextToken": token}


def new_volume(world: World, catalog: Catalog, params: dict[str, Any], zone: str) -> Volume:
    """Return a volume of these parameters (CreateVolume's, or an EbsBlockDevice's) that is not there yet.

    Raises:
        Ec2Error: Whatever EC2 has against it.
    """
    kind = params.get("VolumeType", "gp2")  # API:CreateVolume: "Default: gp2"
    snapshot = _snapshot(world, params.get("SnapshotId"))
    size_gib = params.get("Size", params.get("VolumeSize")) or (snapshot.size_gib if snapshot else None)
    if params.get("Size", params.get("VolumeSize")) == 0:
        size_gib = 0
    if size_gib is None:
        raise missing("size/snapshot")
    if snapshot and size_gib < snapshot.size_gib:
        raise invalid(f"Volume of size {size_gib}GB is smaller than snapshot '{snapshot.id}', {snapshot.size_gib}GB")
    bounds.check(kind, size_gib, params.get("Iops"), params.get("Throughput"))
    encrypted = params.get("Encrypted", False) or bool(snapshot and snapshot.encrypted)
    if params.get("KmsKeyId") and not encrypted:
        raise Ec2Error(
            "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."
        )
    return Volume(
        id=world.new_id("vol"),
        created_at=world.now(),
        tags=world.new_tags({}),
        token=params.get("ClientToken") or "",
        zone=zone,
        size_gib=size_gib,
        type=kind,
        iops=params.get("Iops") or _default_iops(kind, size_gib),
        throughput_mibps=params.get("Throughput") or (bounds.GP3_BASE_MIBPS if kind == "gp3" else None),
        encrypted=encrypted,
        kms_key_id=catalog.kms_key(params.get("KmsKeyId")) if encrypted else "",
        snapshot_id=snapshot.id if snapshot else "",
    )


def _default_iops(kind: str, size_gib: int) -> int | None:
    if kind == "gp3":
        return bounds.GP3_BASE_IOPS
    # ebsug/general-purpose: 3 IOPS a GiB, 100 to 16,000.
    return min(max(3 * size_gib, 100), 16_000) if kind == "gp2" else None


def _snapshot(world: World, snapshot_id: str | None) -> Snapshot | None:
    if not snapshot_id:
        return None
    snapshot = world.find(world.snapshots, snapshot_id)
    if snapshot.state != "completed":
        raise Ec2Error("IncorrectState", f"Snapshot {snapshot_id} is in state {snapshot.state}, expected completed")
    return snapshot


SNAPSHOT_FILTERS: Filters[Snapshot] = {
    "description": lambda s: s.description,
    "encrypted": lambda s: str(s.encrypted).lower(),
    "owner-id": lambda s: ACCOUNT,
    "snapshot-id": lambda s: s.id,
    "status": lambda s: s.state,
    "volume-id": lambda s: s.volume_id,
    "volume-size": lambda s: str(s.size_gib),
}


class Snapshots:
    """The calls about snapshots."""

    def __init__(self, world: World, nodes: Nodes) -> None:
        self._world = world
        self._nodes = nodes

    def view(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return a snapshot as answers hold it."""
        return {
            "SnapshotId": snapshot.id,
            "VolumeId": snapshot.volume_id,
            "VolumeSize": snapshot.size_gib,
            "Encrypted": snapshot.encrypted,
            "Description": snapshot.description,
            "OwnerId": ACCOUNT,
            "Progress": "100%" if snapshot.state == "completed" else "0%",
            "StartTime": as_datetime(snapshot.created_at),
            "State": snapshot.state,
            "Tags": self._world.tag_list(snapshot),
        }

    def create_snapshot(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateSnapshot."""
        tags = from_specifications(params, ["snapshot"]).get("snapshot", {})
        volume = self._world.find(self._world.volumes, params.get("VolumeId") or "")
        if volume.state not in ("available", "in-use"):
            raise Ec2Error("IncorrectState", f"Volume {volume.id} is in state {volume.state}")
        snapshot = Snapshot(
            id=self._world.new_id("snap"),
            created_at=self._world.now(),
            tags=self._world.new_tags(tags),
            volume_id=volume.id,
            size_gib=volume.size_gib,
            encrypted=volume.encrypted,
            description=params.get("Description", ""),
        )
        self._world.add(self._world.snapshots, snapshot)
        self._nodes.copied(volume, snapshot)
        self._world.agenda.after(self._world.settings.snapshot_s, lambda: setattr(snapshot, "state", "completed"))
        return self.view(snapshot)

    def describe_snapshots(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeSnapshots."""
        ids = params.get("SnapshotIds")
        found = select(self._world, self._world.snapshots, ids, params, SNAPSHOT_FILTERS)
        shown, token = page(params, ids, found, id_name="snapshotSet")
        return {"Snapshots": [self.view(s) for s in shown], "NextToken": token}

    def delete_snapshot(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteSnapshot."""
        snapshot = self._world.find(self._world.snapshots, params.get("SnapshotId") or "")
        del self._world.snapshots[snapshot.id]
        self._nodes.discard(snapshot)
        return {}

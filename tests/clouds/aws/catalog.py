"""What is there without our doing: zones, subnets, groups, images, keys, profiles, instance types. All from moto."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any

from moto.backends import get_backend
from moto.ec2.models.amis import Ami
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
from moto.moto_api._internal.models import moto_api_backend

from tests.clouds.aws.errors import Ec2Error, combination, invalid, not_found
from tests.clouds.aws.world import ACCOUNT, REGION

DEFAULT_KMS_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-4000-8000-000000000000"
# CLOUD_FACTS: what to fall back to where the type does not say; moto's data comes from DescribeInstanceTypes itself.
DEFAULT_ATTACHMENTS = 27
ROOT_GIB = 8  # the size of Amazon Linux 2023's snapshot


@dataclass(frozen=True)
class Image:
    """What a launch needs of an image: ``disks`` are its mappings of EBS volumes, the root's first."""

    id: str
    architecture: str
    root_device: str
    disks: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Subnet:
    """What a launch needs of a subnet."""

    id: str
    vpc_id: str
    zone: str
    cidr: Any


class Catalog:
    """Look-ups in moto's models, under one lock since moto has none."""

    def __init__(self) -> None:
        self.moto_lock = threading.RLock()
        self.changed = False  # whether something was written to moto since its last reset
        self._images: dict[str, Image] = {}

    @staticmethod
    def _backend(service: str, region: str = REGION) -> Any:
        return get_backend(service)[ACCOUNT][region]  # type: ignore[call-overload]

    def reset(self) -> None:
        """Make moto as new; that takes it half a second, so only if anything was written to it."""
        if self.changed:
            with self.moto_lock:
                moto_api_backend.reset()
            self._images.clear()
            self.changed = False

    @functools.cache  # noqa: B019 -- one catalog lives as long as its process
    def zones(self) -> tuple[str, ...]:
        """Return the names of the region's zones."""
        with self.moto_lock:
            return tuple(zone.name for zone in self._backend("ec2").describe_availability_zones())

    def subnet(self, subnet_id: str) -> Subnet:
        """Return a subnet by id."""
        with self.moto_lock:
            for subnets in self._backend("ec2").subnets.values():
                if subnet_id in subnets:
                    return self._subnet(subnets[subnet_id])
        raise not_found(subnet_id)

    def default_subnet(self, zone: str | None) -> Subnet:
        """Return the default subnet of a zone; of the first zone when none is asked for."""
        with self.moto_lock:
            found = self._backend("ec2").get_default_subnets()
        if zone is None and found:
            zone = min(found)
        if zone not in found:
            # errors: MissingInput / "No default subnet for availability zone" is what EC2 says to a launch there.
            raise Ec2Error("MissingInput", f"No default subnet for availability zone: '{zone}'.")
        return self._subnet(found[zone])

    @staticmethod
    def _subnet(found: Any) -> Subnet:
        return Subnet(found.id, found.vpc_id, found.availability_zone, found.cidr)

    def groups(self, ids: list[str], names: list[str], vpc_id: str) -> list[dict[str, str]]:
        """Return security groups by id and name; the VPC's default group when none is named."""
        with self.moto_lock:
            there = self._backend("ec2").groups
            mine = dict(there.get(vpc_id, {}))
            all_ids = {group_id for groups in there.values() for group_id in groups}
        by_name = {group.name: group for group in mine.values()}
        found = []
        for group_id in ids:
            if group_id not in all_ids:
                raise not_found(group_id)
            if group_id not in mine:
                raise invalid(f"Security group {group_id} and the subnet belong to different networks.")
            found.append(mine[group_id])
        for name in names or ([] if ids else ["default"]):
            if name not in by_name:
                raise Ec2Error("InvalidGroup.NotFound", f"The security group '{name}' does not exist")
            found.append(by_name[name])
        return [{"GroupId": group.id, "GroupName": group.name} for group in found]

    def image(self, image_id: str) -> Image:
        """Return an image by id."""
        if not self._images:
            with self.moto_lock:
                self._images = {ami.id: _image(ami) for ami in self._backend("ec2").amis.values()}
        if image_id not in self._images:
            self._images.pop(image_id, None)
            with self.moto_lock:
                ami = self._backend("ec2").amis.get(image_id)
            if ami is None:
                raise _unknown_image(image_id)
            return _image(ami)
        return self._images[image_id]

    def registered(self, name: str, params: dict[str, Any]) -> None:
        """Note what moto forgets of an image that was just registered: its architecture and its disks."""
        with self.moto_lock:
            ami = next(ami for ami in self._backend("ec2").amis.values() if ami.name == name)
        ami.architecture = params.get("Architecture", ami.architecture)
        ami.root_device_name = params.get("RootDeviceName", ami.root_device_name)
        ami.registered_disks = [
            disk for disk in params.get("BlockDeviceMappings") or () if disk["DeviceName"] != ami.root_device_name
        ]

    def check_key_pair(self, name: str) -> None:
        """Refuse a key pair that does not exist."""
        with self.moto_lock:
            if name not in self._backend("ec2").key_pairs:
                raise Ec2Error("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")

    def profile(self, wish: dict[str, str]) -> dict[str, str]:
        """Return the instance profile of that name or ARN, as answers hold it."""
        if wish.get("Name") and wish.get("Arn"):
            raise combination("The parameter 'iamInstanceProfile.name' may not be used in combination with '…arn'")
        name = wish.get("Name") or wish.get("Arn", "").rpartition("/")[2]
        with self.moto_lock:
            found = {p.name: p for p in self._backend("iam", "aws").instance_profiles.values()}.get(name)
        if found is None or wish.get("Arn") not in (None, found.arn):
            part, value = ("name", wish["Name"]) if wish.get("Name") else ("arn", wish.get("Arn", ""))
            raise invalid(
                f"Value ({value}) for parameter iamInstanceProfile.{part} is invalid. "
                f"Invalid IAM Instance Profile {part}"
            )
        return {"Arn": found.arn, "Id": found.id}

    def kms_key(self, key_id: str | None) -> str:
        """Return the ARN of a key; what was asked for as it is when there is no such key."""
        if not key_id:
            return DEFAULT_KMS_KEY
        with self.moto_lock:
            found = self._find_key(key_id)
        return str(found.arn) if found else key_id

    def has_kms_key(self, arn: str) -> bool:
        """Return whether a volume can be encrypted with that key."""
        with self.moto_lock:
            found = self._find_key(arn)
            return arn in ("", DEFAULT_KMS_KEY) or (
                found is not None and found.enabled and found.key_spec == "SYMMETRIC_DEFAULT"
            )

    def _find_key(self, key_id: str) -> Any:
        kms = self._backend("kms")
        try:
            return kms.keys.get(kms.any_id_to_key_id(key_id))
        except Exception:  # noqa: BLE001 -- moto raises errors of several kinds for a key that is not there
            return None

    def instance_type(self, name: str) -> dict[str, Any]:
        """Return what DescribeInstanceTypes says of a type."""
        if name not in INSTANCE_TYPES:
            raise invalid(f"Invalid value '{name}' for InstanceType.")
        found: dict[str, Any] = INSTANCE_TYPES[name]
        return found

    @functools.cache  # noqa: B019 -- as above
    def offered(self, zone: str) -> frozenset[str]:
        """Return the types that a zone has."""
        rows = INSTANCE_TYPE_OFFERINGS["availability-zone"][REGION]
        return frozenset(row["InstanceType"] for row in rows if row["Location"] == zone)

    def max_attachments(self, type_name: str) -> int:
        """Return how many volumes an instance of the type takes, the root volume included.

        ec2ug/volume_limits; the figure is free of the primary network interface, the only one that a node has.
        """
        found = INSTANCE_TYPES[type_name].get("EbsInfo", {}).get("MaximumEbsAttachments", DEFAULT_ATTACHMENTS)
        return int(found)


def _disks(ami: Any) -> list[dict[str, Any]]:
    """Return the disks that an image really has: moto gives all of them one disk, of 15 GiB and of an old type."""
    root = {"VolumeSize": ROOT_GIB, "VolumeType": "gp3", "DeleteOnTermination": True}
    return [{"DeviceName": ami.root_device_name, "Ebs": root}, *getattr(ami, "registered_disks", ())]


# What DescribeImages answers.
Ami.block_device_mappings = property(_disks)  # type: ignore[method-assign,assignment]


def _image(ami: Any) -> Image:
    disks = tuple(disk for disk in _disks(ami) if "Ebs" in disk)
    return Image(ami.id, ami.architecture or "x86_64", ami.root_device_name, disks)


def _unknown_image(image_id: str) -> Ec2Error:
    if not image_id.startswith("ami-"):
        return Ec2Error("InvalidAMIID.Malformed", f'Invalid id: "{image_id}" (expecting "ami-...")')
    return not_found(image_id)

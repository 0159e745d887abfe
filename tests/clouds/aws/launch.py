"""RunInstances: everything that EC2 checks before it starts something."""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass
from typing import Any

from tests.clouds.aws.attachments import check_device
from tests.clouds.aws.capacity import Capacity
from tests.clouds.aws.catalog import ROOT_GIB, Catalog, Image, Subnet
from tests.clouds.aws.errors import Ec2Error, combination, invalid, missing, not_modelled
from tests.clouds.aws.model import Instance, Volume
from tests.clouds.aws.tagging import check_metadata_keys, from_specifications
from tests.clouds.aws.volumes import new_volume
from tests.clouds.aws.world import World

USER_DATA_LIMIT = 16 * 1024  # ec2ug/instancedata-add-user-data: 16 KB "in raw form, before it is base64-encoded"
_TAGGABLE = ("instance", "volume", "network-interface", "spot-instances-request")
_UNKNOWN_HERE = (
    "LaunchTemplate",
    "ElasticGpuSpecification",
    "ElasticInferenceAccelerators",
    "CapacityReservationSpecification",
    "HibernationOptions",
    "LicenseSpecifications",
    "EnclaveOptions",
    "PrivateIpAddress",
    "DisableApiTermination",
    "KernelId",
    "RamdiskId",
)


@dataclass(frozen=True)
class Order:
    """A launch that EC2 accepts."""

    instances: tuple[Instance, ...]
    volumes: tuple[tuple[Instance, str, bool, Volume], ...]  # with device name and delete-on-termination


class Launcher:
    """Turns the parameters of RunInstances into an order."""

    def __init__(self, world: World, catalog: Catalog) -> None:
        self._world = world
        self._catalog = catalog
        self._addresses = itertools.count(16)
        self.capacity = Capacity(world, catalog)

    def clear(self) -> None:
        """Forget what was scripted."""
        self._addresses = itertools.count(16)
        self.capacity.clear()

    def order(self, params: dict[str, Any], *, dry_run: bool = False) -> Order:
        """Return the instances that a request asks for, as yet nowhere.

        Raises:
            Ec2Error: Whatever EC2 has against it. Nothing was started then.
        """
        for name in _UNKNOWN_HERE:
            if params.get(name):
                raise not_modelled(f"RunInstances with {name}")
        count = _count(params)
        image = self._catalog.image(params.get("ImageId") or _required("ImageId"))
        kind = params.get("InstanceType", "m1.small")  # API:RunInstances: "Default: m1.small"
        self._check_type(kind, image)
        user_data = _user_data(params)
        subnet, groups = self._network(params)
        if params.get("KeyName"):
            self._catalog.check_key_pair(params["KeyName"])
        profile = self._catalog.profile(params["IamInstanceProfile"]) if params.get("IamInstanceProfile") else None
        tags = from_specifications(params, _TAGGABLE)
        self._check_tags(params, tags)
        spot = self.capacity.spot(params)
        if not dry_run:
            self.capacity.check(subnet.zone, kind, count)
        facts = _facts(params, image, subnet, groups, profile)
        wish = {
            "token": params.get("ClientToken") or "",
            "zone": subnet.zone,
            "type": kind,
            "subnet_id": subnet.id,
            "user_data": user_data,
            "shutdown_behavior": params.get("InstanceInitiatedShutdownBehavior", "stop"),
            "spot": spot,
            "metadata_tags": params.get("MetadataOptions", {}).get("InstanceMetadataTags") == "enabled",
            "reservation_id": self._world.new_id("r"),
            "root_device": image.root_device,
            "facts": facts,
        }
        instances = tuple(self._instance(wish, n, subnet, tags.get("instance", {})) for n in range(count))
        return Order(instances, tuple(self._disks(params, image, instances, tags.get("volume", {}))))

    def _instance(self, wish: dict[str, Any], index: int, subnet: Subnet, tags: dict[str, str]) -> Instance:
        return Instance(
            id=self._world.new_id("i"),
            created_at=self._world.now(),
            tags=self._world.new_tags(dict(tags)),
            launch_index=index,
            address=self._address(subnet),
            **wish,
        )

    def _check_type(self, kind: str, image: Image) -> None:
        known = self._catalog.instance_type(kind)
        architectures = known["ProcessorInfo"]["SupportedArchitectures"]
        if image.architecture not in architectures:
            raise Ec2Error(
                "InvalidParameterValue",
                f"The architecture '{','.join(architectures)}' of the specified instance type does not match the "
                f"architecture '{image.architecture}' of the specified AMI.",
            )

    def _network(self, params: dict[str, Any]) -> tuple[Subnet, list[dict[str, str]]]:
        interfaces = params.get("NetworkInterfaces") or []
        if len(interfaces) > 1:
            raise not_modelled("RunInstances with several network interfaces")
        if interfaces and any(params.get(n) for n in ("SubnetId", "SecurityGroupIds", "SecurityGroups")):
            raise combination(
                "Network interfaces and an instance-level subnet ID or security groups may not be specified on the "
                "same request"
            )
        own = interfaces[0] if interfaces else {}
        subnet_id = own.get("SubnetId") or params.get("SubnetId")
        zone = params.get("Placement", {}).get("AvailabilityZone")
        if zone and zone not in self._catalog.zones():
            raise invalid(f"Invalid availability zone: [{zone}]")
        subnet = self._catalog.subnet(subnet_id) if subnet_id else self._catalog.default_subnet(zone)
        if zone and subnet.zone != zone:
            raise invalid(f"The availability zone '{zone}' is not that of the subnet '{subnet.id}', {subnet.zone}")
        ids = own.get("Groups") or params.get("SecurityGroupIds") or []
        return subnet, self._catalog.groups(ids, params.get("SecurityGroups") or [], subnet.vpc_id)

    def _check_tags(self, params: dict[str, Any], tags: dict[str, dict[str, str]]) -> None:
        options = params.get("MetadataOptions", {})
        for name, allowed in (
            ("HttpTokens", ("optional", "required")),
            ("HttpEndpoint", ("enabled", "disabled")),
            ("InstanceMetadataTags", ("enabled", "disabled")),
        ):
            if options.get(name, allowed[0]) not in allowed:
                raise invalid(f"Value ({options[name]}) for parameter {name} is invalid. Expected one of {allowed}")
        if not 1 <= options.get("HttpPutResponseHopLimit", 1) <= 64:
            raise invalid("HttpPutResponseHopLimit must be between 1 and 64")
        if options.get("InstanceMetadataTags") == "enabled":
            check_metadata_keys(tags.get("instance", {}))
        behavior = params.get("InstanceInitiatedShutdownBehavior", "stop")
        if behavior not in ("stop", "terminate"):
            raise invalid(f"Value ({behavior}) for parameter instanceInitiatedShutdownBehavior is invalid")

    def _address(self, subnet: Subnet) -> str:
        return str(subnet.cidr[next(self._addresses) % (subnet.cidr.num_addresses - 32) + 16])

    def _disks(
        self, params: dict[str, Any], image: Image, instances: tuple[Instance, ...], tags: dict[str, str]
    ) -> Any:
        """Yield the volumes that the launch creates: the root's, and what else is mapped."""
        mappings: dict[str, dict[str, Any]] = {disk["DeviceName"]: disk["Ebs"] for disk in image.disks}
        for one in params.get("BlockDeviceMappings") or []:
            device = one.get("DeviceName") or _required("BlockDeviceMapping.DeviceName")
            if device != image.root_device:  # names of roots are reserved, such as /dev/sda1 (ec2ug/device_naming)
                check_device(device)
            if "Ebs" not in one:
                raise not_modelled("a block device mapping without Ebs")
            # ec2ug/preserving-volumes-on-termination: what a launch does not name of an image's disk stays the image's.
            mappings[device] = {**mappings.get(device, {}), **one["Ebs"]}
        if mappings[image.root_device]["VolumeSize"] < ROOT_GIB:
            raise Ec2Error(
                "InvalidBlockDeviceMapping",
                f"Volume of size {mappings[image.root_device]['VolumeSize']}GB is smaller than the image's snapshot, "
                f"expect size >= {ROOT_GIB}GB",
            )
        for instance in instances:
            for device, ebs in mappings.items():
                volume = new_volume(self._world, self._catalog, ebs, instance.zone)
                volume.tags = self._world.new_tags(dict(tags))
                # API:EbsBlockDevice: deleted on termination unless said otherwise, for the volumes of the launch.
                yield instance, device, ebs.get("DeleteOnTermination", True), volume


def _required(name: str) -> str:
    raise missing(name)


def _count(params: dict[str, Any]) -> int:
    low, high = params.get("MinCount"), params.get("MaxCount")
    if low is None or high is None:
        raise missing("MinCount" if low is None else "MaxCount")
    if not 1 <= low <= high:
        raise invalid(f"Value ({low}) for parameter minCount is invalid. It must be from 1 to maxCount ({high})")
    if low != high:
        raise not_modelled("RunInstances with MinCount below MaxCount")
    return int(high)


def _user_data(params: dict[str, Any]) -> bytes:
    try:
        found = base64.b64decode(params.get("UserData") or "", validate=True)
    except ValueError:
        raise invalid("Invalid BASE64 encoding of user data.") from None
    if len(found) > USER_DATA_LIMIT:
        raise invalid(f"User data is limited to {USER_DATA_LIMIT} bytes, found {len(found)}")
    return found


def _facts(
    params: dict[str, Any],
    image: Image,
    subnet: Subnet,
    groups: list[dict[str, str]],
    profile: dict[str, str] | None,
) -> dict[str, Any]:
    options = params.get("MetadataOptions", {})
    return {
        "ImageId": image.id,
        "Architecture": image.architecture,
        "KeyName": params.get("KeyName"),
        "VpcId": subnet.vpc_id,
        "SecurityGroups": groups,
        "IamInstanceProfile": profile,
        "MetadataOptions": {
            "State": "applied",
            "HttpTokens": options.get("HttpTokens", "optional"),
            "HttpEndpoint": options.get("HttpEndpoint", "enabled"),
            "HttpPutResponseHopLimit": options.get("HttpPutResponseHopLimit", 1),
            "InstanceMetadataTags": options.get("InstanceMetadataTags", "disabled"),
        },
    }

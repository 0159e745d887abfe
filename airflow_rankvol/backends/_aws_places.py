"""What the region offers: zones, machine types, images. Asked once per process; none of it changes meanwhile."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, TypeVar

from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.backends._aws_view import filters
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import NodeTemplate

T = TypeVar("T")

#: What a node is when the job does not say: small, no burst credits, Nitro; the next where one is not offered.
DEFAULT_TYPES = ("m7i.large", "m6i.large", "m5.large")
#: Amazon Linux 2023's newest image, as AWS publishes it for each architecture (AL2023 User Guide, "Get started").
IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"
#: Attachments that every Nitro type takes when EC2 does not tell: 28 shared, less a network interface
#: (EC2 User Guide, "Amazon EBS volume limits for Amazon EC2 instances").
DEFAULT_ATTACHMENTS = 27
#: The last two letters that EBS takes: "/dev/xvddx is the last allowed device name in the /dev/xvd{a-z}{a-z} series"
#: (EBS CSI driver, pkg/cloud/devicemanager/device_names.go).
_LAST = "dx"
#: Names that an attachment may have besides the boot disk's (EBS User Guide, "Device names for volumes"); on the node
#: the disk has another, and is found by its volume's id.
DEVICES = tuple(f"/dev/xvd{first}{second}" for first in "bcda" for second in ascii_lowercase if first + second <= _LAST)


@dataclass(frozen=True, slots=True)
class MachineType:
    """What matters of an instance type.

    Args:
        architectures: what images it boots; some types boot 32-bit ones, too.
        attachments: how many volumes it takes besides the disk that it boots from.
        nvme: whether it shows volumes as NVMe devices, by whose links nodes find theirs: not where NvmeSupport is but
            "supported", as of I3, whose own disks are such.
    """

    name: str
    architectures: tuple[str, ...]
    attachments: int
    nvme: bool

    @property
    def architecture(self) -> str:
        """The architecture of the image that it gets where the job names none."""
        return "arm64" if "arm64" in self.architectures else "x86_64"


@dataclass(frozen=True, slots=True)
class Image:
    """What matters of an AMI.

    Args:
        architecture: as instance types name theirs (EC2 API Reference, Image: ``arm64``, ``x86_64``, ``i386`` …).
        data_devices: the names of the further EBS volumes that a launch makes of it.
    """

    id: str
    architecture: str
    root_device: str
    root_size_gib: int
    data_devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subnet:
    """What matters of a subnet.

    Args:
        free: how many addresses it had left.
    """

    id: str
    zone: str
    free: int


class Places:
    """The region's offers, kept once they were asked for."""

    def __init__(self, ec2: Ec2) -> None:
        self._ec2 = ec2
        self._lock = threading.RLock()
        self._known: dict[str, Any] = {}

    def zones(self) -> list[str]:
        """Return the names of the region's availability zones that are up."""
        return sorted(name for name, kind in self.all_zones().items() if kind == "availability-zone")

    def all_zones(self) -> dict[str, str]:
        """Return the kind of every zone that this account can use: local and wavelength zones, too."""

        def ask() -> dict[str, str]:
            answer = self._ec2.call("DescribeAvailabilityZones", "check", "zones", Filters=filters(state="available"))
            zones = answer["AvailabilityZones"]
            return {zone["ZoneName"]: zone.get("ZoneType", "availability-zone") for zone in zones}

        return self._once("zones", ask)

    def offers(self, machine_types: Sequence[str]) -> dict[str, frozenset[str]]:
        """Return for each machine type the zones that offer it; none for one that does not exist."""
        types = sorted(machine_types)

        def ask() -> dict[str, frozenset[str]]:
            found = self._ec2.pages(
                "DescribeInstanceTypeOfferings", "InstanceTypeOfferings", "check", ", ".join(types),
                LocationType="availability-zone", Filters=filters(instance_type=types), MaxResults=1000,
            )  # fmt: skip
            pairs = [(offer["InstanceType"], offer["Location"]) for offer in found]
            return {name: frozenset(zone for found_name, zone in pairs if found_name == name) for name in types}

        return self._once(f"offers {types}", ask)

    def machine_type(self, name: str) -> MachineType:
        """Return an instance type.

        Raises:
            FinalError: there is none of that name in the region.
        """

        def ask() -> MachineType:
            answer = self._ec2.call("DescribeInstanceTypes", "check", name, InstanceTypes=[name])
            raw: dict[str, Any] = next(iter(answer["InstanceTypes"]), {})
            architectures = tuple(raw.get("ProcessorInfo", {}).get("SupportedArchitectures") or ["x86_64"])
            ebs = raw.get("EbsInfo", {})
            limit = int(ebs.get("MaximumEbsAttachments") or DEFAULT_ATTACHMENTS)
            # The disk that it boots from is one of them.
            return MachineType(name, architectures, limit - 1, ebs.get("NvmeSupport", "required") == "required")

        return self._once(f"type {name}", ask)

    def image(self, wanted: str | None, machine_type: str) -> Image:
        """Return the AMI of a template's ``image``: an id, a public SSM parameter, or the default of its architecture.

        Raises:
            ConfigError: it is neither, or there is none.
        """
        parameter = wanted
        if parameter is None:
            parameter = IMAGE_PARAMETER.format(architecture=self.machine_type(machine_type).architecture)
        if parameter.startswith("ami-"):
            return self._image(parameter)
        name = parameter.removeprefix("resolve:").removeprefix("ssm:")
        if not name.startswith("/"):
            raise ConfigError(
                f"node.image: {wanted!r} was found; expected an image id (ami-…) or the path of an SSM parameter that "
                f"holds one, as in 'ssm:{IMAGE_PARAMETER.format(architecture='x86_64')}'"
            )
        return self._image(self._once(f"parameter {name}", lambda: self._parameter(name)))

    def zone_for(self, owner: str, dag: str, group: str) -> str:
        """Return the zone of what nobody chose one for: the same for all of a group, in every process."""
        zones = self.usual_zones()
        offered = frozenset().union(*self.offers(DEFAULT_TYPES).values())
        return pick([zone for zone in zones if zone in offered] or zones, owner, dag, group)

    def usual_zones(self) -> list[str]:
        """Return the zones that a group without any of its own may land in: where there is a default subnet, if any."""
        zones = self.zones()
        zones = [zone for zone in zones if zone in self.default_subnet_zones()] or zones
        if not zones:
            raise ConfigError(f"region {self._ec2.clients.region} shows no zone to this account; look at region_name")
        return zones

    def default_subnet_zones(self) -> frozenset[str]:
        """Return the zones in which the default VPC has a subnet; none without a default VPC."""
        return frozenset(subnet.zone for subnet in self.subnets(()))

    def subnet_zones(self, subnet_ids: Sequence[str]) -> dict[str, str]:
        """Return the zone of each subnet that exists."""
        return {subnet.id: subnet.zone for subnet in self.subnets(subnet_ids)} if subnet_ids else {}

    def subnets(self, subnet_ids: Collection[str]) -> list[Subnet]:
        """Return the subnets of some ids that exist; without ids, those of the default VPC."""
        ids = sorted(set(subnet_ids))
        wanted = filters(subnet_id=ids) if ids else filters(default_for_az="true")
        what = ", ".join(ids) or "default subnets"

        def ask() -> list[Subnet]:
            found = self._ec2.pages("DescribeSubnets", "Subnets", "check", what, Filters=wanted, MaxResults=1000)
            return [
                Subnet(raw["SubnetId"], raw["AvailabilityZone"], int(raw.get("AvailableIpAddressCount", 0)))
                for raw in found
            ]

        return self._once(f"subnets {what}", ask)

    def missing_security_groups(self, group_ids: Sequence[str]) -> list[str]:
        """Return the security groups that do not exist."""
        found = self._ec2.pages(
            "DescribeSecurityGroups", "SecurityGroups", "check", ", ".join(group_ids),
            Filters=filters(group_id=group_ids), MaxResults=1000,
        )  # fmt: skip
        there = {group["GroupId"] for group in found}
        return [group_id for group_id in group_ids if group_id not in there]

    def attachments(self, template: NodeTemplate) -> int:
        """Return how many volumes a node takes besides its image's, whichever of its machine types it gets."""
        return min(self._free_slots(template, name) for name in self.types_of(template, None))

    def types_of(self, template: NodeTemplate, zone: str | None) -> list[str]:
        """Return the machine types to try in a zone (without one, anywhere), in the order of preference."""
        if template.machine_types:
            return list(template.machine_types)
        offers = self.offers(DEFAULT_TYPES)
        # EC2 describes no type that the region does not have.
        there = {name: offers[name] if zone is None else zone in offers[name] for name in DEFAULT_TYPES}
        return [name for name in DEFAULT_TYPES if there[name]] or list(DEFAULT_TYPES)

    def _free_slots(self, template: NodeTemplate, machine_type: str) -> int:
        # The default image has no disks besides its root.
        of_image = self.image(template.image, machine_type).data_devices if template.image else ()
        # Some types take more volumes than there are names for (m7i.48xlarge: 128).
        return min(self.machine_type(machine_type).attachments, len(DEVICES)) - len(of_image)

    def _parameter(self, name: str) -> str:
        with self._ec2.mapped("check", name):
            answer = self._ec2.clients.get("ssm").get_parameter(Name=name)
        value = str(answer["Parameter"]["Value"])
        if not value.startswith("ami-"):
            raise ConfigError(
                f"node.image: the SSM parameter {name} holds {value[:40]!r}; expected an image id (ami-…)"
            )
        return value

    def _image(self, image_id: str) -> Image:
        def ask() -> Image:
            answer = self._ec2.call("DescribeImages", "check", image_id, ImageIds=[image_id])
            raw = next(iter(answer.get("Images") or ()), None)
            if raw is None:
                raise ConfigError(f"node.image: there is no image {image_id} in region {self._ec2.clients.region}")
            device = raw.get("RootDeviceName") or "/dev/xvda"
            # A mapping without Ebs is of the machine's own disks, which end with it.
            disks = {item["DeviceName"]: item["Ebs"] for item in raw.get("BlockDeviceMappings") or () if "Ebs" in item}
            size_gib = int(disks.pop(device, {}).get("VolumeSize") or 1)
            return Image(image_id, raw.get("Architecture") or "x86_64", device, size_gib, tuple(disks))

        return self._once(f"image {image_id}", ask)

    def _once(self, what: str, ask: Callable[[], T]) -> T:
        # Under the lock: sixteen threads that launch nodes shall not ask sixteen times.
        with self._lock:
            if what not in self._known:
                self._known[what] = ask()
            found: T = self._known[what]
            return found


def pick(zones: Sequence[str], owner: str, dag: str, group: str) -> str:
    """Return one of some zones, always the same for the same group; so groups spread."""
    digest = hashlib.sha256(f"{owner}/{dag}/{group}".encode()).digest()
    return zones[int.from_bytes(digest[:8], "big") % len(zones)]

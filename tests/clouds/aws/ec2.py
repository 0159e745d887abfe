"""The EC2 of the double: its parts, and which of them answers which action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.clouds.aws.attachments import Attachments
from tests.clouds.aws.buckets import Buckets
from tests.clouds.aws.catalog import Catalog
from tests.clouds.aws.describe import check_filters
from tests.clouds.aws.errors import Ec2Error, invalid, not_modelled
from tests.clouds.aws.instances import Instances
from tests.clouds.aws.launch import Launcher
from tests.clouds.aws.lifecycle import Lifecycle
from tests.clouds.aws.nodes import Nodes
from tests.clouds.aws.run_command import RunCommand
from tests.clouds.aws.tagging import Tagging
from tests.clouds.aws.tokens import Tokens
from tests.clouds.aws.volumes import Snapshots, Volumes
from tests.clouds.aws.world import World
from tests.clouds.common.stuck import Stuck

Handler = Callable[[dict[str, Any]], dict[str, Any]]

# What moto answers. The filters of the describing ones are checked here, as moto answers 500 to those it lacks.
MOTO: dict[str, frozenset[str]] = {
    "DescribeAvailabilityZones": frozenset(
        ("region-name", "zone-name", "zone-id", "state", "opt-in-status", "group-name", "zone-type")
    ),
    "DescribeRegions": frozenset(("region-name", "endpoint", "opt-in-status")),
    "DescribeSubnets": frozenset(
        (
            "availability-zone",
            "availabilityZone",
            "cidr-block",
            "default-for-az",
            "defaultForAz",
            "owner-id",
            "state",
            "subnet-id",
            "vpc-id",
        )
    ),
    "DescribeVpcs": frozenset(("cidr", "is-default", "isDefault", "owner-id", "state", "vpc-id")),
    "DescribeSecurityGroups": frozenset(("description", "group-id", "group-name", "owner-id", "vpc-id")),
    "DescribeKeyPairs": frozenset(("key-name", "key-pair-id", "fingerprint")),
    "DescribeImages": frozenset(
        (
            "architecture",
            "image-id",
            "is-public",
            "name",
            "owner-alias",
            "owner-id",
            "root-device-type",
            "state",
            "virtualization-type",
        )
    ),
    "DescribeInstanceTypes": frozenset(
        (
            "bare-metal",
            "current-generation",
            "hypervisor",
            "instance-type",
            "processor-info.supported-architecture",
            "vcpu-info.default-vcpus",
        )
    ),
    "DescribeInstanceTypeOfferings": frozenset(("instance-type", "location")),
    **dict.fromkeys(
        (
            "AuthorizeSecurityGroupEgress",
            "AuthorizeSecurityGroupIngress",
            "CreateKeyPair",
            "CreateSecurityGroup",
            "CreateSubnet",
            "CreateVpc",
            "DeleteKeyPair",
            "DeleteSecurityGroup",
            "DeleteSubnet",
            "DeleteVpc",
            "DescribeAccountAttributes",
            "ImportKeyPair",
            "RegisterImage",
        ),
        frozenset[str](),
    ),
}


class Ec2:
    """All of EC2, wired up."""

    def __init__(self, world: World, nodes: Nodes) -> None:
        self.world = world
        self.nodes = nodes
        self.catalog = Catalog()
        self.tokens = Tokens(world)
        self.stuck = Stuck()
        self.buckets = Buckets(world)
        self.run_command = RunCommand(world)
        self.launcher = Launcher(world, self.catalog)
        self.attachments = Attachments(world, self.catalog, nodes, self.stuck)
        self.volumes = Volumes(world, self.catalog, self.tokens, nodes)
        self.lifecycle = Lifecycle(world, self.volumes, self.attachments, nodes, self.tokens)
        self.instances = Instances(
            world, self.catalog, self.tokens, self.launcher, self.lifecycle, (self.attachments, nodes)
        )
        self._handlers = self._table()

    def _table(self) -> dict[str, Handler]:
        tagging, snapshots = Tagging(self.world), Snapshots(self.world, self.nodes)
        return {
            "AttachVolume": self.attachments.attach_volume,
            "CreateSnapshot": snapshots.create_snapshot,
            "CreateTags": tagging.create_tags,
            "CreateVolume": self.volumes.create_volume,
            "DeleteSnapshot": snapshots.delete_snapshot,
            "DeleteTags": tagging.delete_tags,
            "DeleteVolume": self.volumes.delete_volume,
            "DescribeInstanceStatus": self.instances.describe_instance_status,
            "DescribeInstances": self.instances.describe_instances,
            "DescribeSnapshots": snapshots.describe_snapshots,
            "DescribeTags": tagging.describe_tags,
            "DescribeVolumes": self.volumes.describe_volumes,
            "DetachVolume": self.attachments.detach_volume,
            "GetConsoleOutput": self.instances.get_console_output,
            "RunInstances": self.instances.run_instances,
            "StopInstances": self.instances.stop_instances,
            "TerminateInstances": self.instances.terminate_instances,
        }

    def is_motos(self, action: str) -> bool:
        """Return whether moto answers an action."""
        return action in MOTO

    def check_moto(self, action: str, params: dict[str, Any]) -> None:
        """Refuse what moto would answer wrongly."""
        check_filters(params.get("Filters") or [], MOTO[action])
        for image_id in params.get("ImageIds") or () if action == "DescribeImages" else ():
            self.catalog.image(image_id)
        for zone in params.get("ZoneNames") or ():
            if zone not in self.catalog.zones():
                raise invalid(f"Invalid availability zone: [{zone}]")

    def after_moto(self, action: str, params: dict[str, Any]) -> None:
        """Note what moto has forgotten of a call that it answered."""
        if action == "RegisterImage":
            self.catalog.registered(params["Name"], params)

    def answer(self, action: str, params: dict[str, Any]) -> dict[str, Any]:
        """Do what a call asks for, and return the result.

        Raises:
            Ec2Error: EC2 refuses, or the double cannot.
        """
        if action not in self._handlers:
            raise not_modelled(f"the action {action}")
        with self.world.lock:
            self.world.agenda.settle()
            if params.get("DryRun"):
                self._rehearse(action, params)
            result = self._handlers[action](params)
            # What takes no time has happened when the answer is on its way.
            self.world.agenda.settle()
            return result

    def _rehearse(self, action: str, params: dict[str, Any]) -> None:
        """Answer a dry run: the parameters of a launch are looked at, capacity is not."""
        if action == "RunInstances":
            self.launcher.order(params, dry_run=True)
        raise Ec2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)

    def clear(self) -> None:
        """Be as new."""
        with self.world.lock:
            self.world.agenda.clear()
        # Without the lock: what nodes are at takes it to come to its end.
        self.nodes.clear()
        with self.world.lock:
            self.world.clear()
            for part in (self.tokens, self.stuck, self.buckets, self.launcher, self.lifecycle):
                part.clear()
            self.run_command.clear()
        self.catalog.reset()

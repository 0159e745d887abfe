"""The calls about instances."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from tests.clouds.aws.attachments import Attachments
from tests.clouds.aws.catalog import Catalog
from tests.clouds.aws.describe import Filters, page, select
from tests.clouds.aws.errors import Ec2Error, invalid, missing
from tests.clouds.aws.launch import Launcher
from tests.clouds.aws.lifecycle import ENDED, USER, Lifecycle
from tests.clouds.aws.model import STATE_CODES, Instance
from tests.clouds.aws.nodes import Nodes
from tests.clouds.aws.tokens import Tokens
from tests.clouds.aws.world import ACCOUNT, World
from tests.clouds.common.clock import as_datetime

MAX_TERMINATED = 1000  # API:TerminateInstances: "Constraints: Up to 1000 instance IDs."
CONSOLE_LIMIT = 64 * 1024  # API:GetConsoleOutput: "the most recent 64 KB"


# API:DescribeInstances, Filter.N; those that are missing here are not needed by anything yet.
FILTERS: Filters[Instance] = {
    "architecture": lambda i: str(i.facts["Architecture"]),
    "availability-zone": lambda i: i.zone,
    "block-device-mapping.volume-id": lambda i: [a.volume_id for a in i.attachments],
    "client-token": lambda i: i.token,
    "image-id": lambda i: str(i.facts["ImageId"]),
    "instance-id": lambda i: i.id,
    "instance-lifecycle": lambda i: ["spot"] if i.spot else [],
    "instance-state-code": lambda i: str(STATE_CODES[i.state]),
    "instance-state-name": lambda i: i.state,
    "instance-type": lambda i: i.type,
    "key-name": lambda i: i.facts["KeyName"] or [],
    "owner-id": lambda i: ACCOUNT,
    "private-ip-address": lambda i: i.address if i.state != "terminated" else [],
    "reservation-id": lambda i: i.reservation_id,
    "state-reason-code": lambda i: i.state_reason[0],
    "subnet-id": lambda i: i.subnet_id if i.state != "terminated" else [],
    "vpc-id": lambda i: str(i.facts["VpcId"]) if i.state != "terminated" else [],
}


class Instances:
    """RunInstances and what follows it."""

    def __init__(
        self,
        world: World,
        catalog: Catalog,
        tokens: Tokens,
        launcher: Launcher,
        lifecycle: Lifecycle,
        parts: tuple[Attachments, Nodes],
    ) -> None:
        self._world = world
        self._catalog = catalog
        self._tokens = tokens
        self._launcher = launcher
        self._lifecycle = lifecycle
        self._attachments, self._nodes = parts
        self._nodes.view = self.view

    def run_instances(self, params: dict[str, Any]) -> dict[str, Any]:
        """RunInstances: all that were asked for, or none."""
        if known := self._tokens.recall("RunInstances", params):
            there = [self._world.instances[i] for i in known if i in self._world.instances]
            if not there or any(i.state == "terminated" for i in there):
                raise Ec2Error(
                    "IdempotentInstanceTerminated",
                    "The request to launch an instance uses the same client token as a previous request for which the "
                    "instance has been terminated.",
                )
            return self._reservation(there)
        order = self._launcher.order(params)
        for instance in order.instances:
            self._world.add(self._world.instances, instance)
        for instance, device, with_it, volume in order.volumes:
            volume.state = "available"
            self._world.add(self._world.volumes, volume)
            self._attachments.bind(volume, instance, device).delete_on_termination = with_it
        self._tokens.remember("RunInstances", params, tuple(i.id for i in order.instances))
        for instance in order.instances:
            self._lifecycle.begin(instance)
        return self._reservation(order.instances)

    def _reservation(self, instances: Sequence[Instance]) -> dict[str, Any]:
        return {
            "ReservationId": instances[0].reservation_id,
            "OwnerId": ACCOUNT,
            "Groups": [],
            "Instances": [
                {**self.view(i), "Tags": [{"Key": k, "Value": v} for k, v in i.tags.current.items()] or None}
                for i in instances
            ],
        }

    def view(self, instance: Instance) -> dict[str, Any]:
        """Return an instance as answers hold it."""
        code, message = instance.state_reason
        seen: dict[str, Any] = {
            "InstanceId": instance.id,
            "ImageId": instance.facts["ImageId"],
            "State": {"Code": STATE_CODES[instance.state], "Name": instance.state},
            "StateReason": {"Code": code, "Message": message} if code else None,
            "StateTransitionReason": instance.transition_reason,
            "InstanceType": instance.type,
            "KeyName": instance.facts["KeyName"],
            "AmiLaunchIndex": instance.launch_index,
            "LaunchTime": as_datetime(instance.created_at),
            "Placement": {"AvailabilityZone": instance.zone, "GroupName": "", "Tenancy": "default"},
            "Monitoring": {"State": "disabled"},
            "Architecture": instance.facts["Architecture"],
            "RootDeviceType": "ebs",
            "RootDeviceName": instance.root_device,
            "VirtualizationType": "hvm",
            "Hypervisor": "xen",
            "ClientToken": instance.token,
            "InstanceLifecycle": "spot" if instance.spot else None,
            "SpotInstanceRequestId": f"sir-{instance.id[-8:]}" if instance.spot else None,
            "IamInstanceProfile": instance.facts["IamInstanceProfile"],
            "MetadataOptions": instance.facts["MetadataOptions"],
            "Tags": self._world.tag_list(instance),
            "BlockDeviceMappings": [],
            "SecurityGroups": [],
        }
        # A terminated instance shows neither network nor disks any more.
        return seen if instance.state == "terminated" else {**seen, **self._places(instance)}

    def _places(self, instance: Instance) -> dict[str, Any]:
        return {
            "SubnetId": instance.subnet_id,
            "VpcId": instance.facts["VpcId"],
            "PrivateIpAddress": instance.address,
            "PrivateDnsName": f"ip-{instance.address.replace('.', '-')}.ec2.internal",
            "SecurityGroups": instance.facts["SecurityGroups"],
            "BlockDeviceMappings": [
                {
                    "DeviceName": attachment.device,
                    "Ebs": {
                        "VolumeId": attachment.volume_id,
                        "Status": attachment.state,
                        "AttachTime": as_datetime(attachment.attached_at),
                        "DeleteOnTermination": attachment.delete_on_termination,
                    },
                }
                for attachment in instance.attachments
            ],
        }

    def describe_instances(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeInstances: terminated ones stay listed for about an hour."""
        ids = params.get("InstanceIds")
        found = select(self._world, self._world.instances, ids, params, FILTERS)
        shown, token = page(params, ids, found, id_name="instancesSet")
        by_reservation: dict[str, list[Instance]] = {}
        for instance in shown:
            by_reservation.setdefault(instance.reservation_id, []).append(instance)
        return {
            "Reservations": [
                {"ReservationId": r, "OwnerId": ACCOUNT, "Groups": [], "Instances": [self.view(i) for i in instances]}
                for r, instances in by_reservation.items()
            ],
            "NextToken": token,
        }

    def describe_instance_status(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeInstanceStatus: of running ones, unless all are asked for."""
        ids = params.get("InstanceIds")
        by_status = {**FILTERS, "instance-status.status": self._word}
        found = select(self._world, self._world.instances, ids, params, by_status)
        if not params.get("IncludeAllInstances"):
            found = [i for i in found if i.state == "running"]
        shown, token = page(params, ids, found, id_name="instancesSet")
        return {"InstanceStatuses": [_status(i, self._word(i)) for i in shown], "NextToken": token}

    def _word(self, instance: Instance) -> str:
        """Return the status of an instance: that of its system, as far as EC2 can see it from outside."""
        settings = self._world.settings
        if instance.state != "running":
            return "not-applicable"
        if self._world.now() < instance.created_at + settings.launch_s + settings.status_check_s:
            return "initializing"
        return "impaired" if instance.impaired else "ok"

    def _named(self, params: dict[str, Any]) -> list[Instance]:
        """Return the instances that a call names; one that is unknown fails the whole call (API:TerminateInstances)."""
        ids = params.get("InstanceIds")
        if not ids:
            raise missing("InstanceId")
        return [self._world.find(self._world.instances, i) for i in dict.fromkeys(ids)]

    def terminate_instances(self, params: dict[str, Any]) -> dict[str, Any]:
        """TerminateInstances: idempotent as long as the instance is listed."""
        if len(params.get("InstanceIds") or ()) > MAX_TERMINATED:
            raise invalid(f"At most {MAX_TERMINATED} instances in one call, found {len(params['InstanceIds'])}")
        changes = []
        for instance in self._named(params):
            before = instance.state
            self._lifecycle.end(instance, USER, self._lifecycle.stamp("User initiated"))
            changes.append(_change(instance, before))
        return {"TerminatingInstances": changes}

    def stop_instances(self, params: dict[str, Any]) -> dict[str, Any]:
        """StopInstances."""
        found = self._named(params)
        for instance in found:
            if instance.state in ENDED:
                raise Ec2Error(
                    "IncorrectInstanceState",
                    f"This instance '{instance.id}' is not in a state from which it can be stopped.",
                )
        changes = []
        for instance in found:
            before = instance.state
            if before in ("pending", "running"):
                self._lifecycle.stop(instance, USER, self._lifecycle.stamp("User initiated"))
            changes.append(_change(instance, before))
        return {"StoppingInstances": changes}

    def get_console_output(self, params: dict[str, Any]) -> dict[str, Any]:
        """GetConsoleOutput: what was buffered around the last transition, or with Latest all up to now."""
        if not params.get("InstanceId"):
            raise missing("InstanceId")
        instance = self._world.find(self._world.instances, params["InstanceId"])
        latest = bool(params.get("Latest"))
        if latest and self._catalog.instance_type(instance.type).get("Hypervisor") != "nitro":
            # API:GetConsoleOutput: "Latest … supported for instances built on the Nitro System"
            raise Ec2Error(
                "UnsupportedOperation", "This instance type does not support retrieving the latest console logs."
            )
        shown = latest or instance.state not in ("pending", "running")
        text = self._nodes.console(instance) if shown and not instance.console_lost else b""
        return {
            "InstanceId": instance.id,
            "Timestamp": as_datetime(self._world.now()),
            "Output": base64.b64encode(text[-CONSOLE_LIMIT:]).decode() if text else None,
        }


def _change(instance: Instance, before: str) -> dict[str, Any]:
    return {
        "InstanceId": instance.id,
        "PreviousState": {"Code": STATE_CODES[before], "Name": before},
        "CurrentState": {"Code": STATE_CODES[instance.state], "Name": instance.state},
    }


def _status(instance: Instance, word: str) -> dict[str, Any]:
    return {
        "InstanceId": instance.id,
        "AvailabilityZone": instance.zone,
        "InstanceState": {"Code": STATE_CODES[instance.state], "Name": instance.state},
        "SystemStatus": {"Status": "ok" if word != "not-applicable" else word},
        "InstanceStatus": {"Status": word},
    }

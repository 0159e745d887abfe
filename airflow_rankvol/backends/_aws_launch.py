"""From a node's request to the parameters of RunInstances."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.backends._aws_places import Image
from airflow_rankvol.backends._aws_userdata import user_data
from airflow_rankvol.backends._aws_view import REPORT_TAG, ROOT_TAG, VOLUMES_TAG, tag_list
from airflow_rankvol.backends._found import subnet_in
from airflow_rankvol.backends.base import NodeRequest
from airflow_rankvol.records import TAG_PREFIX, Tags
from airflow_rankvol.spec.templates import NodeTemplate, ReportChannel

DEFAULT_ROOT_TYPE = "gp3"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a node is to run: what differs from one try to the next."""

    type: str
    image: Image
    zone: str | None


def launching(request: NodeRequest, machine: Machine) -> dict[str, Any]:
    """Return the parameters of RunInstances for one node."""
    return {
        **shape(request.template, machine),
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": user_data(request.script),
        # 64 characters. A call for another type or zone is another call.
        "ClientToken": hashlib.sha256(
            f"{request.token}/{request.tags.key}/{request.name}/{machine.type}/{machine.zone}".encode()
        ).hexdigest(),
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": tag_list(node_tags(request))},
            {"ResourceType": "volume", "Tags": tag_list(root_tags(request))},
        ],
    }


def shape(template: NodeTemplate, machine: Machine) -> dict[str, Any]:
    """Return what a template and a place say of an instance; what a node runs comes on top."""
    parameters: dict[str, Any] = {
        "ImageId": machine.image.id,
        "InstanceType": machine.type,
        # A node ends itself by shutting down; the default would leave it stopped, with its boot disk billed.
        "InstanceInitiatedShutdownBehavior": "terminate",
        # The node reads its address and, in a rendezvous, its tags there.
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        "BlockDeviceMappings": _disks(template, machine.image),
    }
    subnet = subnet_in(template, machine.zone, "aws")
    if subnet:
        parameters["SubnetId"] = subnet
    elif machine.zone:
        parameters["Placement"] = {"AvailabilityZone": machine.zone}  # the default VPC's subnet there
    if template.security_groups:
        parameters["SecurityGroupIds"] = list(template.security_groups)
    if template.instance_profile:
        kind = "Arn" if template.instance_profile.startswith("arn:") else "Name"
        parameters["IamInstanceProfile"] = {kind: template.instance_profile}
    if template.key_name:
        parameters["KeyName"] = template.key_name
    if template.spot:
        parameters["InstanceMarketOptions"] = _spot(template)
    return parameters


def node_tags(request: NodeRequest) -> dict[str, str]:
    """Return all tags of a new instance."""
    ours = {VOLUMES_TAG: str(len(request.attachments)), **report_tags(request.template)}
    return {**request.template.tags, "Name": request.name, **request.tags.to_dict(), **ours}


def report_tags(template: NodeTemplate) -> dict[str, str]:
    """Return the tag that says how a node reports, where that is not by its console."""
    return {} if template.report is ReportChannel.CONSOLE else {REPORT_TAG: str(template.report)}


def root_tags(request: NodeRequest) -> Mapping[str, str]:
    """Return the tags of the disk that a node boots from: whose it is, and no key, so that it is no rank's volume."""
    wanted = ("owner", "dag", "run", "group", "expiry")
    ours = {name: value for name, value in request.tags.to_dict().items() if name.removeprefix(TAG_PREFIX) in wanted}
    return {**request.template.tags, "Name": f"{request.name}-root", **ours, ROOT_TAG: request.name}


def tag_count(template_tags: Mapping[str, str], tags: Tags) -> int:
    """Return how many tags an instance of a template has, before it is told of its peers."""
    return len({*template_tags, "Name", VOLUMES_TAG, *tags.to_dict()})


def _disks(template: NodeTemplate, image: Image) -> list[dict[str, Any]]:
    """Return the boot disk, and that no further disk of the image stays when its node ends.

    "To change the value at launch", RunInstances takes a mapping with nothing but DeleteOnTermination (EC2 User Guide,
    "Preserve data when an instance is terminated"); size, type and snapshot remain the image's.
    """
    data = [{"DeviceName": device, "Ebs": {"DeleteOnTermination": True}} for device in image.data_devices]
    return [{"DeviceName": image.root_device, "Ebs": _root(template, image)}, *data]


def _root(template: NodeTemplate, image: Image) -> dict[str, Any]:
    disk: dict[str, Any] = {
        "DeleteOnTermination": True,
        "Encrypted": True,
        "VolumeType": template.root_type or DEFAULT_ROOT_TYPE,
    }
    if template.root_size_gib is not None:
        disk["VolumeSize"] = max(math.ceil(template.root_size_gib), image.root_size_gib)
    return disk


def _spot(template: NodeTemplate) -> dict[str, Any]:
    options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
    if template.max_price:
        options["MaxPrice"] = template.max_price
    return {"MarketType": "spot", "SpotOptions": options}

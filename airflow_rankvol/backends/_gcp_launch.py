"""From a node's request to the body of instances.insert."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.backends._found import subnet_in
from airflow_rankvol.backends._gcp_labels import description_of, labels_of
from airflow_rankvol.backends._gcp_places import Image, Places, region_of
from airflow_rankvol.backends._gcp_types import WITH_ACCELERATORS, boot_type_of, family_of, moves
from airflow_rankvol.backends._gcp_view import ROOT_LABEL, split
from airflow_rankvol.backends.base import NodeRequest
from airflow_rankvol.records import Attachment, Tags
from airflow_rankvol.spec.templates import NodeTemplate, ReclaimPolicy

#: The boot disk's name on the node: no volume can have it, because no disk's name has an underscore.
BOOT_DEVICE = "rankvol_boot"
#: What a service account may use: all that IAM allows it (Compute Engine's documentation, "Service accounts", best
#: practice).
DEFAULT_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_SCOPE = "https://www.googleapis.com/auth/"
#: What gcloud calls scopes by another name than their own ("gcloud compute instances create", --scopes).
_ALIASES = {
    "compute-ro": "compute.readonly",
    "compute-rw": "compute",
    "logging-write": "logging.write",
    "monitoring-read": "monitoring.read",
    "monitoring-write": "monitoring.write",
    "sql-admin": "sqlservice.admin",
    "storage-full": "devstorage.full_control",
    "storage-ro": "devstorage.read_only",
    "storage-rw": "devstorage.read_write",
    "trace": "trace.append",
    "userinfo-email": "userinfo.email",
}
#: Compute Engine's documentation, "Limit the run time of a VM": 30 seconds to 120 days.
SHORTEST_S, LONGEST_S = 30, 120 * 24 * 3600
#: The rank of the disk that a node boots from. Lists of ranks' volumes are filtered by it.
NO_RANK = -1
#: So much later than the node's own timer Compute Engine ends it: what ends by itself leaves its report.
GRACE_S = 300


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a node is to run: what differs from one try to the next."""

    type: str
    image: Image
    zone: str


def launching(request: NodeRequest, machine: Machine, places: Places) -> dict[str, Any]:
    """Return the body of instances.insert for one node."""
    template = request.template
    gpus = takes_accelerators(template, machine.type)
    body: dict[str, Any] = {
        "name": request.name,
        "description": description_of(request.tags),
        "labels": labels_of(request.tags, template.tags),
        "machineType": places.gce.link(f"zones/{machine.zone}/machineTypes/{machine.type}"),
        "disks": [_boot(request, machine, places), *(_data(item, places) for item in request.attachments)],
        "networkInterfaces": [_network(template, machine.zone, places)],
        "metadata": {"items": [{"key": key, "value": value} for key, value in _metadata(request).items()]},
        "scheduling": _scheduling(request, stays=gpus or not moves(machine.type)),
    }
    if gpus:
        kind = places.gce.link(f"zones/{machine.zone}/acceleratorTypes/{template.accelerator}")
        body["guestAccelerators"] = [{"acceleratorCount": template.gpus_per_node, "acceleratorType": kind}]
    if machine.image.shielded:
        # Drivers of accelerators are mostly not signed.
        secure = not (gpus or family_of(machine.type) in WITH_ACCELERATORS)
        body["shieldedInstanceConfig"] = {
            "enableSecureBoot": secure, "enableVtpm": True, "enableIntegrityMonitoring": True
        }  # fmt: skip
    if template.service_account:
        body["serviceAccounts"] = [{"email": template.service_account, "scopes": scopes_of(template)}]
    if template.network_tags:
        body["tags"] = {"items": list(template.network_tags)}
    return body


def takes_accelerators(template: NodeTemplate, machine_type: str) -> bool:
    """Say whether accelerators are added to a machine; some families bring theirs."""
    return bool(template.accelerator) and family_of(machine_type) not in WITH_ACCELERATORS


def scopes_of(template: NodeTemplate) -> list[str]:
    """Return the scopes of a node's service account, short names and gcloud's aliases as whole ones."""
    wanted = template.scopes or DEFAULT_SCOPES
    return [scope if scope.startswith("https://") else f"{_SCOPE}{_ALIASES.get(scope, scope)}" for scope in wanted]


def _boot(request: NodeRequest, machine: Machine, places: Places) -> dict[str, Any]:
    template, size_gib = request.template, request.template.root_size_gib
    tags = root_tags(request.tags)
    kind = template.root_type or boot_type_of(machine.type)
    params: dict[str, Any] = {
        "sourceImage": machine.image.link,
        "diskType": places.gce.link(f"zones/{machine.zone}/diskTypes/{kind}"),
        "labels": {**labels_of(tags, template.tags), ROOT_LABEL: request.name},
        "description": description_of(tags),
    }
    if size_gib is not None:
        params["diskSizeGb"] = str(max(math.ceil(size_gib), machine.image.size_gib))
    return {"boot": True, "autoDelete": True, "deviceName": BOOT_DEVICE, "initializeParams": params}


def root_tags(node: Tags) -> Tags:
    """Return the tags of the disk that a node boots from: of no rank, and nothing that anybody would miss."""
    return Tags(
        owner=node.owner, dag=node.dag, run=node.run, group=node.group, key=node.key, rank=NO_RANK, expiry=node.expiry,
        reclaim=ReclaimPolicy.DELETE_ALWAYS,
    )  # fmt: skip


def _data(item: Attachment, places: Places) -> dict[str, Any]:
    zone, name = split(item.volume_id)
    return {
        "source": places.gce.link(f"zones/{zone}/disks/{name}"),
        "deviceName": name,
        # Gather's, too, which are mounted read-only: the journal of a disk whose node was cut off cannot be applied on
        # a device that refuses every write, and its rank's record would count as missing.
        "mode": "READ_WRITE",
        "autoDelete": False,
    }


def _network(template: NodeTemplate, zone: str, places: Places) -> dict[str, Any]:
    subnet = subnet_in(template, zone, "gcp")
    found: dict[str, Any] = {"network": places.network(template.network)}
    if subnet:
        found = {"subnetwork": places.subnet(subnet, region_of(zone))}
    if template.external_ip:
        found["accessConfigs"] = [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]
    return found


def _metadata(request: NodeRequest) -> dict[str, str]:
    return {
        "startup-script": request.script,
        # The node reports by them.
        "enable-guest-attributes": "TRUE",
        # What it printed can be read in Cloud Logging when it is gone.
        "serial-port-logging-enable": "TRUE",
    }


def _scheduling(request: NodeRequest, *, stays: bool) -> dict[str, Any]:
    spot = request.template.spot
    lifetime_s = min(max(math.ceil(request.lifetime_s) + GRACE_S, SHORTEST_S), LONGEST_S)
    return {
        "provisioningModel": "SPOT" if spot else "STANDARD",
        # A node that starts again would start its job again.
        "automaticRestart": False,
        # Neither a spot instance nor one with accelerators or on bare metal can move to another host.
        "onHostMaintenance": "TERMINATE" if spot or stays else "MIGRATE",
        "maxRunDuration": {"seconds": str(lifetime_s)},
        # Of a spot instance that is taken back as well (discovery document: one field for both). Its volumes stay:
        # their autoDelete is false.
        "instanceTerminationAction": "DELETE",
    }

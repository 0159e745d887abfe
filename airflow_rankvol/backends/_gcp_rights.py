"""The rights that a job needs, as ``docs/gcp-role.yaml`` has them, and which of them are missing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.errors import AuthDenied, BackendError

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan

log = logging.getLogger(__name__)

#: What every job needs; docs/gcp-role.yaml is the role that users get.
ALWAYS = frozenset(
    {
        "compute.disks.create",
        "compute.disks.delete",
        "compute.disks.get",
        "compute.disks.list",
        "compute.disks.setLabels",
        "compute.disks.use",
        "compute.instances.create",
        "compute.instances.delete",
        "compute.instances.get",
        "compute.instances.getGuestAttributes",
        "compute.instances.getSerialPortOutput",
        "compute.instances.list",
        "compute.instances.setLabels",
        "compute.instances.setMetadata",
        "compute.machineTypes.list",
        "compute.regions.get",
        "compute.subnetworks.use",
        "compute.zoneOperations.get",
        "compute.zones.list",
    }
)
#: What only some jobs need.
AT_TIMES = frozenset(
    {
        "compute.images.get",
        "compute.images.getFromFamily",
        "compute.images.useReadOnly",
        "compute.instances.attachDisk",
        "compute.instances.setServiceAccount",
        "compute.instances.setTags",
        "compute.machineTypes.get",
        "compute.networks.get",
        "compute.snapshots.get",
        "compute.snapshots.useReadOnly",
        "compute.subnetworks.get",
        "compute.subnetworks.useExternalIp",
        "compute.zoneOperations.list",
    }
)


def needed(plan: Plan) -> frozenset[str]:
    """Return the rights that a plan needs in its own project."""
    job = plan.job
    nodes = [job.node, *([job.gather_node] if job.gather_node else [])]
    wanted = {
        "compute.instances.setServiceAccount": any(node.service_account for node in nodes),
        "compute.instances.setTags": any(node.network_tags for node in nodes),
        "compute.snapshots.useReadOnly": any(volume.template.snapshot for volume in plan.volumes()),
        "compute.subnetworks.useExternalIp": any(node.external_ip for node in nodes),
        "compute.zoneOperations.list": any(node.spot for node in nodes),
    }
    return ALWAYS | {right for right, needs in wanted.items() if needs}


def check_rights(plan: Plan, gce: Gce) -> None:
    """Refuse a plan for which rights are missing, and name all of them at once.

    Rights on a network of another project, on a service account or on a bucket are their owners' to give; they are not
    looked at.

    Raises:
        AuthDenied: names the rights.
    """
    wanted = sorted(needed(plan))
    url = f"{gce.session.base('cloudresourcemanager')}/v1/projects/{gce.project}:testIamPermissions"
    try:
        answer = gce.fetch("POST", url, "check", gce.project, body={"permissions": wanted}, action="testIamPermissions")
    except BackendError as exc:
        # The Resource Manager's API is mostly switched on, but nothing else here needs it.
        log.info("rights are not checked beforehand: %s", exc)
        return
    missing = sorted(set(wanted) - set(answer.get("permissions") or ()))
    if missing:
        raise AuthDenied(
            f"the connection's identity lacks {', '.join(missing)} in project {gce.project}. docs/gcp-role.yaml is a "
            "role with all that is needed; give it to the identity on the project",
            backend="gcp",
            verb="check",
            resource=gce.project,
        )

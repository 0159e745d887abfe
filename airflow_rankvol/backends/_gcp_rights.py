"""The rights that a job needs, as ``docs/gcp-role.yaml`` has them, and which of them are missing."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_check_nodes import subnets_of
from airflow_rankvol.backends._gcp_creation import partial
from airflow_rankvol.backends._gcp_launch import takes_accelerators
from airflow_rankvol.backends._gcp_machines import is_custom
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
        "compute.instances.attachDisk",
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
        "compute.acceleratorTypes.list",
        "compute.images.get",
        "compute.images.getFromFamily",
        "compute.images.useReadOnly",
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


def needed(plan: Plan, project: str) -> frozenset[str]:
    """Return the rights that a plan needs in its own project; those on what lies in another are its owner's to give."""
    job = plan.job
    nodes = [job.node, *([job.gather_node] if job.gathers_on_node and job.gather_node else [])]
    volumes = [volume.template for volume in plan.volumes()]

    def own(names: Iterable[str | None]) -> list[str]:
        return [name for name in names if name and _lies_in(name, project)]

    images, sources = own(node.image for node in nodes), own(volume.image for volume in volumes)
    snapshots = own(volume.snapshot for volume in volumes)
    wanted = {
        "compute.acceleratorTypes.list": any(
            takes_accelerators(node, name) for node in nodes for name in node.machine_types
        ),
        # A plain name is looked for among this project's images and families first.
        "compute.images.get": any("/family/" not in name for name in [*images, *sources]),
        "compute.images.getFromFamily": any("/" not in name for name in images)
        or any("/family/" in name for name in [*images, *sources]),
        # Whether a node's plain name is a public image's only looking for it tells.
        "compute.images.useReadOnly": sources or any("/" in name for name in images),
        "compute.machineTypes.get": job.gathers_on_node
        or any(is_custom(name) for node in nodes for name in node.machine_types),
        "compute.networks.get": own(node.network for node in nodes),
        "compute.snapshots.get": snapshots,
        "compute.subnetworks.get": own(name for node in nodes for name in subnets_of(node)),
        "compute.instances.setServiceAccount": any(node.service_account for node in nodes),
        "compute.instances.setTags": any(node.network_tags for node in nodes),
        "compute.snapshots.useReadOnly": snapshots,
        "compute.subnetworks.useExternalIp": any(node.external_ip for node in nodes),
        "compute.zoneOperations.list": any(node.spot for node in nodes),
    }
    return ALWAYS | {right for right, needs in wanted.items() if needs}


def _lies_in(name: str, project: str) -> bool:
    """Say whether a name or a link is one of a project's own things."""
    link = partial(name)
    return not link.startswith("projects/") or link.startswith(f"projects/{project}/")


def check_rights(plan: Plan, gce: Gce) -> None:
    """Refuse a plan for which rights are missing, and name all of them at once.

    Rights on a network of another project, on a service account or on a bucket are their owners' to give; they are not
    looked at.

    Raises:
        AuthDenied: names the rights.
    """
    wanted = sorted(needed(plan, gce.project))
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

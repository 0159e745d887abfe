"""From what Compute Engine describes to volumes and nodes.

An id is ``zone/name``: names are unique in a project's zone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_rankvol.backends._gcp_labels import PREFIX, tags_of
from airflow_rankvol.backends._gcp_wire import GO_KEY
from airflow_rankvol.records import Node, NodeState, Tags, Volume, VolumeState

Raw = Mapping[str, Any]

#: On the disk that a node boots from: its node. It is no rank's volume.
ROOT_LABEL = f"{PREFIX}root"

#: What a disk may be made of (discovery document, Disk): only one that has none of these is blank.
_SOURCES = (
    *("sourceImage", "sourceMachineImage", "sourceSnapshot", "sourceInstantSnapshot", "sourceDisk"),
    "sourceStorageObject",
)
#: What is asked of lists: an instance's metadata hold its script, which is large.
DISK_FIELDS = (
    "id,name,zone,region,status,sizeGb,type,provisionedIops,provisionedThroughput,users,labels,labelFingerprint,description,"
    f"creationTimestamp,lastAttachTimestamp,{','.join(_SOURCES)}"
)
INSTANCE_FIELDS = (
    "id,name,zone,status,labels,description,creationTimestamp,networkInterfaces(networkIP),"
    "disks(source,deviceName,autoDelete,boot),scheduling(provisioningModel),metadata(fingerprint,items(key))"
)

# UNAVAILABLE ("currently unavailable and cannot be accessed, attached or detached", discovery document) passes.
_VOLUME_STATES = {
    "CREATING": VolumeState.CREATING,
    "RESTORING": VolumeState.CREATING,
    "UNAVAILABLE": VolumeState.CREATING,
    "DELETING": VolumeState.DELETING,
    "FAILED": VolumeState.ERROR,
}
# Discovery document, Instance.status. A node of ours that is not on its way up has ended, whatever it is called.
_NODE_STATES = {
    "PENDING": NodeState.PENDING,
    "PROVISIONING": NodeState.PENDING,
    "STAGING": NodeState.PENDING,
    "RUNNING": NodeState.RUNNING,
    "PENDING_STOP": NodeState.RUNNING,
}
#: Operations that end a spot node. Others' nodes are not asked about: each that finishes would cost a share of a list.
REASONS = {
    "compute.instances.preempted": "Compute Engine took the spot capacity back",
    "compute.instances.hostError": "its host failed",
}
#: What to do about some of them.
STEPS = {
    "compute.instances.preempted": (
        "That may happen to any spot node: give the task retries, so that it goes on by itself; where it happens "
        "often, name other machine types, or drop spot"
    ),
}


def last(link: str) -> str:
    """Return the name at a link's end."""
    return link.rpartition("/")[2]


def zone_of(raw: Raw) -> str:
    """Return a resource's zone."""
    return last(str(raw.get("zone", "")))


def id_of(raw: Raw) -> str:
    """Return a resource's id."""
    return f"{zone_of(raw)}/{raw['name']}"


def id_at(link: str) -> str:
    """Return the id of a disk or an instance that a link leads to."""
    parts = link.split("/")
    return f"{parts[-3]}/{parts[-1]}"


def split(resource_id: str) -> tuple[str, str]:
    """Return the zone and the name of an id."""
    zone, _, name = resource_id.partition("/")
    return zone, name


def our_tags(raw: Raw) -> Tags | None:
    """Return a resource's tags of ours; None where it has none, or somebody has made them unreadable."""
    return tags_of(raw.get("labels") or {}, str(raw.get("description") or ""))


def volume_of(raw: Raw) -> Volume:
    """Return a described disk; in use from the moment that an instance is launched with it."""
    users = raw.get("users") or ()
    state = _VOLUME_STATES.get(str(raw.get("status", "")))
    return Volume(
        id=id_of(raw),
        name=str(raw["name"]),
        state=state or (VolumeState.ATTACHED if users else VolumeState.AVAILABLE),
        size_gib=int(raw["sizeGb"]),
        type=last(str(raw.get("type", ""))),
        created_at=_utc(raw.get("creationTimestamp")),
        tags=our_tags(raw),
        zone=zone_of(raw),
        attached_to=id_at(users[0]) if users else None,
        blank=not any(raw.get(source) for source in _SOURCES),
        iops=_number(raw.get("provisionedIops")),
        throughput_mibps=_number(raw.get("provisionedThroughput")),
        attached_at=_utc(raw["lastAttachTimestamp"]) if users and raw.get("lastAttachTimestamp") else None,
    )


def node_of(raw: Raw, *, exit_code: int | None = None) -> Node:
    """Return a described instance.

    Args:
        exit_code: what its report says, where that was read.
    """
    state = state_of(raw)
    interface: Raw = next(iter(raw.get("networkInterfaces") or ()), {})
    address = str(interface.get("networkIP", ""))
    return Node(
        id=id_of(raw),
        name=str(raw["name"]),
        state=state,
        created_at=_utc(raw.get("creationTimestamp")),
        tags=our_tags(raw),
        zone=zone_of(raw),
        address=address,
        # It runs once its disks are there; a message that comes before the node waits for it stays.
        ready=state is NodeState.RUNNING and bool(address),
        released=is_released(raw),
        exit_code=exit_code if state is NodeState.ENDED else None,
    )


def state_of(raw: Raw) -> NodeState:
    """Return an instance's state."""
    return _NODE_STATES.get(str(raw.get("status", "")), NodeState.ENDED)


def is_released(raw: Raw) -> bool:
    """Say whether a node was told of its peers."""
    return any(item.get("key") == GO_KEY for item in (raw.get("metadata") or {}).get("items") or ())


def is_spot(raw: Raw) -> bool:
    """Say whether Compute Engine may take an instance back."""
    return bool((raw.get("scheduling") or {}).get("provisioningModel") == "SPOT")


def number_of(raw: Raw) -> str:
    """Return a resource's number, which never comes again; its id where it has none yet."""
    return str(raw.get("id") or id_of(raw))


def is_root(raw: Raw) -> bool:
    """Say whether a disk is one that a node of ours boots from, or booted."""
    return ROOT_LABEL in (raw.get("labels") or {})


def _number(text: Any) -> int | None:
    return None if text is None else int(text)  # 64-bit numbers travel as text


def _utc(stamp: Any) -> datetime:
    # RFC 3339, with the offset of Google's own time.
    return datetime.fromisoformat(stamp).astimezone(UTC) if stamp else datetime.now(UTC)

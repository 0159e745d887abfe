"""From what EC2 describes to volumes and nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from airflow_rankvol.backends._aws_errors import TABLE, Meaning
from airflow_rankvol.backends.base import BY_A_CALL, BY_ITSELF
from airflow_rankvol.errors import FinalError, NoCapacity
from airflow_rankvol.records import Node, NodeState, Tags, Volume, VolumeState, to_iso

#: How many volumes a node is to get; a node of a rendezvous is ready when it has them all.
VOLUMES_TAG = "rankvol:volumes"
#: How a node reports, where that is not by its console.
REPORT_TAG = "rankvol:report"
#: On the disk that a node boots from: its node. It carries no ``rankvol:key``, so it is no rank's volume.
ROOT_TAG = "rankvol:root"

_SPECIAL = re.compile(r"[*?\\]")
_AFTER_CREATION = re.compile(r"\+(\d{1,9})s")

_VOLUME_STATES = {
    "creating": VolumeState.CREATING,
    "available": VolumeState.AVAILABLE,
    "deleting": VolumeState.DELETING,
    "error": VolumeState.ERROR,
}
# "busy": the detach was asked for while the disk was mounted (EC2 API Reference, VolumeAttachment).
_ATTACHMENT_STATES = {
    "attaching": VolumeState.ATTACHING,
    "attached": VolumeState.ATTACHED,
    "detaching": VolumeState.DETACHING,
    "busy": VolumeState.DETACHING,
    "detached": VolumeState.DETACHING,
}
_NODE_STATES = {
    "pending": NodeState.PENDING,
    "running": NodeState.RUNNING,
    "stopping": NodeState.ENDED,
    "stopped": NodeState.ENDED,
    "shutting-down": NodeState.ENDED,
    "terminated": NodeState.ENDED,
}
#: States in which a node costs nothing and ends by itself.
GOING = frozenset({"shutting-down", "terminated"})
#: Only this says that a node has let go of its volumes: of one that ends, what it was given last may not be shown yet.
GONE = "terminated"
#: How a node of ours ends when all is well: its bootstrap shuts it down.
SHUT_DOWN = "Client.InstanceInitiatedShutdown"

#: ``StateReason`` codes (EC2 API Reference, StateReason) in words.
REASONS = {
    SHUT_DOWN: BY_ITSELF,
    "Client.InstanceTerminated": "it was terminated while an image was made of it",
    "Client.InternalError": "EC2 could not start it; often its identity may not use the KMS key of an encrypted disk",
    "Client.InvalidSnapshot.NotFound": "the snapshot of its boot disk does not exist",
    "Client.UserInitiatedHibernate": "it was hibernated by a call",
    "Client.UserInitiatedShutdown": BY_A_CALL,
    "Client.VolumeLimitExceeded": "the storage quota left no room for its boot disk",
    "Server.InsufficientInstanceCapacity": "EC2 had no capacity for it",
    "Server.InternalError": "EC2 ended it because of an internal error",
    "Server.ScheduledStop": "EC2 stopped it to retire its hardware",
    "Server.SpotInstanceShutdown": "EC2 stopped it to take the spot capacity back",
    "Server.SpotInstanceTermination": "EC2 took the spot capacity back",
}
_SPOT = (
    "That may happen to any spot node: give the task retries, so that it goes on by itself; where it happens often, "
    "name other machine types, or drop spot"
)
#: What to do about some of them, where no call is answered by the same code.
STEPS = {
    "Client.InternalError": (
        "Give the connection's identity the rights that docs/aws.md lists for kms_key: the boot disk's key is the "
        "account's default one for EBS, or the image's"
    ),
    "Client.InvalidSnapshot.NotFound": "Name another image (NodeTemplate.image)",
    "Server.SpotInstanceShutdown": _SPOT,
    "Server.SpotInstanceTermination": _SPOT,
}


def tags_dict(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return a resource's tags."""
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in raw.get("Tags") or ()}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags in EC2's form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def our_tags(raw: Mapping[str, Any]) -> Tags | None:
    """Return a resource's tags of ours; None where it has none, or somebody has made them unreadable."""
    try:
        return Tags.from_dict(tags_dict(raw))
    except ValueError:
        return None


def name_of(raw: Mapping[str, Any]) -> str:
    """Return a resource's name: its Name tag."""
    return tags_dict(raw).get("Name", "")


def volume_of(raw: Mapping[str, Any]) -> Volume:
    """Return a described volume."""
    state, attachment = _volume_state(raw)
    created_at = _utc(raw.get("CreateTime"))
    return Volume(
        id=raw["VolumeId"],
        name=name_of(raw),
        state=state,
        size_gib=raw["Size"],
        type=raw.get("VolumeType", ""),
        created_at=created_at,
        tags=_dated(our_tags(raw), created_at),
        zone=raw.get("AvailabilityZone"),
        attached_to=attachment.get("InstanceId"),
        blank=not raw.get("SnapshotId") and not raw.get("SourceVolumeId"),
        iops=raw.get("Iops"),
        throughput_mibps=raw.get("Throughput"),
        attached_at=attachment.get("AttachTime"),
    )


def _dated(tags: Tags | None, created_at: datetime) -> Tags | None:
    """Turn an expiry that counts from the creation (``_aws_creation``) into a moment."""
    found = _AFTER_CREATION.fullmatch(tags.expiry) if tags else None
    if tags is None or found is None:
        return tags
    return tags.with_(expiry=to_iso(created_at + timedelta(seconds=int(found[1]))))


def _volume_state(raw: Mapping[str, Any]) -> tuple[VolumeState, Mapping[str, Any]]:
    """Return the state and the attachment. Only EC2 says that a volume is free, whatever became of its node."""
    state = raw.get("State", "")
    if state in _VOLUME_STATES:
        return _VOLUME_STATES[state], {}
    attachment = next(iter(raw.get("Attachments") or ()), None)
    if attachment is None:
        return VolumeState.DETACHING, {}  # in use, without saying by whom: between two states
    return _ATTACHMENT_STATES.get(attachment.get("State", ""), VolumeState.ATTACHED), attachment


def instance_state(raw: Mapping[str, Any]) -> str:
    """Return EC2's own word for an instance's state."""
    return str(raw.get("State", {}).get("Name", ""))


def node_of(raw: Mapping[str, Any], *, attached: int = 0, released: bool = False, exit_code: int | None = None) -> Node:
    """Return a described instance.

    Args:
        attached: how many of its volumes are attached by now.
        released: whether it was told to go (rendezvous).
        exit_code: what its report says, where that was read.
    """
    state = _NODE_STATES.get(instance_state(raw), NodeState.PENDING)
    wanted = tags_dict(raw).get(VOLUMES_TAG, "")
    complete = wanted.isdigit() and attached >= int(wanted)
    ended = state is NodeState.ENDED
    refusal = refusal_of(raw) if ended else None
    return Node(
        id=raw["InstanceId"],
        name=name_of(raw),
        state=state,
        created_at=_utc(raw.get("LaunchTime")),
        tags=our_tags(raw),
        zone=raw.get("Placement", {}).get("AvailabilityZone"),
        address=raw.get("PrivateIpAddress", "") or "",
        ready=state is NodeState.RUNNING and complete and bool(raw.get("PrivateIpAddress")),
        released=released,
        exit_code=exit_code if ended else None,
        reason=reason_of(raw) if ended else "",
        step=step_of(raw) if ended else "",
        error=refusal.error if refusal else None,
        gone=instance_state(raw) == GONE,
    )


def reason_of(raw: Mapping[str, Any]) -> str:
    """Say why an instance ended."""
    code = _reason_code(raw)
    if code in REASONS:
        return REASONS[code]
    return str((raw.get("StateReason") or {}).get("Message") or raw.get("StateTransitionReason") or "")


def refusal_of(raw: Mapping[str, Any]) -> Meaning | None:
    """Return what it means that EC2 accepted a launch and refused it later; None where an instance ended otherwise.

    Its StateReason has the code that a refused call is answered by, after ``Server.`` or ``Client.``. One that only
    says to call again, such as ``InternalError``, is no refusal.
    """
    meaning = TABLE.get(_reason_code(raw).partition(".")[2])
    return meaning if meaning and issubclass(meaning.error, NoCapacity | FinalError) else None


def step_of(raw: Mapping[str, Any]) -> str:
    """Say what to do about an instance's end; empty where there is nothing but to go on with another one."""
    refusal = refusal_of(raw)
    return STEPS.get(_reason_code(raw)) or (refusal.step if refusal else "")


def full_types(nodes: Iterable[Mapping[str, Any]], tags: Tags) -> set[str]:
    """Return the machine types that EC2 had no room for after it had accepted an earlier attempt of the same rank.

    Other ranks' nodes do not count: they may end at any moment, and whoever repeats a launch whose answer was lost has
    to try the types in the same order, since the call's token is of the type.
    """
    whose = attrgetter("owner", "key", "role", "rank")
    refused = [raw for raw in nodes if (refusal := refusal_of(raw)) and refusal.error is NoCapacity]
    return {
        str(raw["InstanceType"])
        for raw in refused
        if (found := our_tags(raw)) and whose(found) == whose(tags) and found.attempt < tags.attempt
    }


def _reason_code(raw: Mapping[str, Any]) -> str:
    return str((raw.get("StateReason") or {}).get("Code", ""))


def ended_by_itself(raw: Mapping[str, Any]) -> bool:
    """Say whether the node's own bootstrap (or its commands) shut it down, as opposed to EC2 or a call."""
    return _reason_code(raw) in ("", SHUT_DOWN)


def devices_of(raw: Mapping[str, Any]) -> set[str]:
    """Return the device names that an instance uses."""
    return {mapping["DeviceName"] for mapping in raw.get("BlockDeviceMappings") or ()} | {raw.get("RootDeviceName", "")}


def filters(**wanted: str | Sequence[str] | None) -> list[dict[str, Any]]:
    r"""Return EC2 filters; None leaves one out. ``tag_owner`` stands for ``tag:rankvol:owner``, ``_`` for ``-``.

    Values mean themselves: "Use a backslash to escape special characters" (EC2 API, Filter): ``*``, ``?`` and ``\``.
    """
    found = []
    for name, values in wanted.items():
        if values is None:
            continue
        key = f"tag:rankvol:{name[4:]}" if name.startswith("tag_") else name.replace("_", "-")
        texts = [values] if isinstance(values, str) else sorted(values)
        found.append({"Name": key, "Values": [_SPECIAL.sub(r"\\\g<0>", text) for text in texts]})
    return found


def _utc(moment: Any) -> datetime:
    return moment.astimezone(UTC) if isinstance(moment, datetime) else datetime.now(UTC)

"""EC2 instances: launched once, ended only when ours, told of their peers by tags, read by their console."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_rankvol.backends._aws_calls import PAGE, Ec2, code
from airflow_rankvol.backends._aws_launch import Machine, launching
from airflow_rankvol.backends._aws_memory import Memory, Raw
from airflow_rankvol.backends._aws_places import Places
from airflow_rankvol.backends._aws_run_command import RunCommand
from airflow_rankvol.backends._aws_view import (
    GOING,
    GONE,
    REPORT_TAG,
    ended_by_itself,
    filters,
    full_types,
    instance_state,
    name_of,
    node_of,
    our_tags,
    tag_list,
    tags_dict,
)
from airflow_rankvol.backends._aws_wire import go_tags
from airflow_rankvol.backends._console import log_of, report_of
from airflow_rankvol.backends.base import Guard, LogPart, NodeRequest
from airflow_rankvol.errors import BackendError, FinalError, NotOurs, NotReady, RetryableError
from airflow_rankvol.records import Node, NodeState, Volume, VolumeState
from airflow_rankvol.spec.templates import ReportChannel

GO_TAG = "rankvol:go"
#: Another machine type of the list may be had where these say that this one cannot.
_NEXT_TYPE = frozenset(
    {"InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity", "Unsupported",
     "UnfulfillableCapacity", "SpotMaxPriceTooLow", "InvalidInstanceType", "MaxSpotInstanceCountExceeded",
     "VcpuLimitExceeded"}
)  # fmt: skip
#: A node was launched with the same token before; the second says of it that it has ended.
_TOKEN_USED = frozenset({"IdempotentParameterMismatch", "IdempotentInstanceTerminated"})


@dataclass(frozen=True, slots=True)
class Nodes:
    """The verbs of nodes.

    Args:
        unanswered: by a launch's token the machine type that it may have got, although no answer has said so.
    """

    ec2: Ec2
    memory: Memory
    places: Places
    unanswered: dict[str, str] = field(default_factory=dict)

    def create(self, request: NodeRequest) -> Node:
        """Launch a node, or return the one of that name and key."""
        known = self.memory.node_named(request.name, request.tags)
        if known is not None:
            return node_of(known)
        zone = request.zone or self._zone_of(request)
        raw = self._launch(request, zone)
        self.memory.made_node(raw)
        return node_of(raw)

    def delete(self, node_id: str, guard: Guard) -> None:
        """Start ending a node of ours; one that ends or has ended takes no call."""
        raw = self.memory.node(node_id) or self.ec2.node(node_id, "delete_node")
        if raw is None:
            return
        name = name_of(raw) or node_id
        guard.check(tags=our_tags(raw), name=name, backend="aws", verb="delete_node")
        if instance_state(raw) not in GOING:
            try:
                self.ec2.call("TerminateInstances", "delete_node", f"{name} ({node_id})", InstanceIds=[node_id])
            except BackendError as exc:
                if code(exc) != "InvalidInstanceID.NotFound":
                    raise
                self._check_unknown(node_id, name, exc)
                return
        self.memory.deleted_node(node_id)

    def tell(self, node_ids: Sequence[str], message: Mapping[str, str]) -> None:
        """Hand variables to nodes of ours as tags, which they read from their metadata service."""
        for node_id in node_ids:
            raw = self.memory.node(node_id) or self.ec2.node(node_id, "tell_nodes")
            if raw is not None and our_tags(raw) is None:
                text = "refused: it carries no tags of ours"
                raise NotOurs(text, backend="aws", verb="tell_nodes", resource=node_id)
        tags = tag_list(go_tags(message))
        # Every rank that steps on the same observation says the same; EC2 shows the tags a moment later.
        told = f"told:{hash((tuple(node_ids), tuple(message.items())))}"
        if not self.memory.is_due(told):
            return
        for start in range(0, len(node_ids), PAGE):
            ids = list(node_ids[start : start + PAGE])
            self.ec2.call("CreateTags", "tell_nodes", ", ".join(ids), Resources=ids, Tags=tags)
        self.memory.looked_up([told])

    def read_report(self, node_id: str) -> str | None:
        """Return a node's report; read once, when the node has ended."""
        raw = self.memory.last_node(node_id) or self.ec2.node(node_id, "read_report")
        if raw is None:
            return self.memory.known_report(node_id)
        if node_of(raw).state is not NodeState.ENDED:
            return self._report(raw)
        return self.memory.report(node_id, lambda: self._last_report(raw))

    def console(self, node_id: str) -> str:
        """Return the text of a node's serial console, empty when there is none."""
        try:
            answer = self.ec2.call("GetConsoleOutput", "read_report", node_id, InstanceId=node_id, Latest=True)
        except BackendError as exc:
            if code(exc) == "InvalidInstanceID.NotFound":
                return ""
            if code(exc) not in ("UnsupportedOperation", "Unsupported"):
                raise
            # Only Nitro types give the latest output (EC2 API Reference, GetConsoleOutput).
            answer = self.ec2.call("GetConsoleOutput", "read_report", node_id, InstanceId=node_id)
        return str(answer.get("Output") or "")

    def read_log(self, node_id: str, position: int) -> LogPart:
        """Return what the console showed when the report was read: no call is spent on what people see."""
        lines = log_of(self.memory.take_console(node_id)).splitlines() if position == 0 else []
        return LogPart(tuple(lines), len(lines))

    def log(self, node_id: str) -> str:
        """Return what a node's job printed, as far as EC2 or Run Command show it, for people."""
        raw = self.memory.last_node(node_id) or self.ec2.node(node_id, "read_report")
        shown = RunCommand(self.ec2).output(node_id, name_of(raw)) if raw is not None and _by_ssm(raw) else ""
        return shown or log_of(self.console(node_id))

    def views(self, found: Iterable[Raw], volumes: Iterable[Volume]) -> tuple[Node, ...]:
        """Return described instances as nodes: without those that this process has deleted and that have let go."""
        attached = Counter(volume.attached_to for volume in volumes if volume.state is VolumeState.ATTACHED)
        holding = {volume.attached_to for volume in volumes}
        nodes = []
        for raw in found:
            deleted = self.memory.was_deleted(raw["InstanceId"])
            if deleted and instance_state(raw) == GONE and raw["InstanceId"] not in holding:
                continue
            nodes.append(self._view(_ended(raw) if deleted else raw, attached[raw["InstanceId"]]))
        return tuple(nodes)

    def _check_unknown(self, node_id: str, name: str, refusal: BackendError) -> None:
        """Raise unless EC2 neither lists a node that it did not know: for a moment after its launch, it may do both."""
        if self.memory.just_launched(node_id):
            raise refusal
        listed = self.ec2.node(node_id, "delete_node")
        if listed is not None and instance_state(listed) not in GOING:
            text = f"EC2 lists it as {instance_state(listed)}, and yet does not know it; it is tried again"
            raise NotReady(text, backend="aws", verb="delete_node", resource=f"{name} ({node_id})") from refusal

    def _view(self, raw: Raw, attached: int) -> Node:
        released = GO_TAG in tags_dict(raw)
        node = node_of(raw, attached=attached, released=released)
        if node.state is not NodeState.ENDED:
            return node
        if released:  # its peers have to know whether it succeeded
            self._quietly_read(node.id)
        return node_of(raw, attached=attached, released=released, exit_code=_exit_code(self.memory, node.id))

    def _quietly_read(self, node_id: str) -> None:
        try:
            self.read_report(node_id)
        except NotReady:
            return  # the next look reads it

    def _last_report(self, raw: Raw) -> str | None:
        """Read the report of a node that has ended; a node's last words may take a moment to get there."""
        node_id = raw["InstanceId"]
        report = self._report(raw)
        if report is None and ended_by_itself(raw) and self.memory.is_first(f"console:{node_id}"):
            text = "the node has ended, and there is no report of it yet; it is read once more"
            raise NotReady(text, backend="aws", verb="read_report", resource=f"{name_of(raw)} ({node_id})")
        return report

    def _report(self, raw: Raw) -> str | None:
        """Return a node's report from where it sends it; a copy of one by Run Command is on the console, too."""
        node_id = raw["InstanceId"]
        refused: FinalError | None = None
        if _by_ssm(raw):
            try:
                report = RunCommand(self.ec2).report(node_id, name_of(raw))
            except FinalError as exc:
                report, refused = None, exc
            if report is not None:
                return report
        console = self.console(node_id)
        self.memory.keep_console(node_id, console)
        report = report_of(console)
        if report is None and refused is not None:
            raise refused
        return report

    def _launch(self, request: NodeRequest, zone: str | None) -> Raw:
        """Launch on the first machine type of the list that can be had."""
        refusals: list[BackendError] = []
        for machine_type in self._types(request, zone):
            try:
                image = self.places.image(request.template.image, machine_type)
                raw = self._run(request, Machine(machine_type, image, zone))
            except BackendError as exc:
                if code(exc) not in _NEXT_TYPE:
                    self.unanswered[request.token] = machine_type
                    raise
                refusals.append(exc)
            else:
                self.unanswered.pop(request.token, None)
                return raw
        self.unanswered.pop(request.token, None)
        # What may be had later counts more than what never will.
        told = next((refusal for refusal in refusals if isinstance(refusal, RetryableError)), refusals[-1])
        for refusal in refusals:
            if refusal is not told:
                told.add_note(f"another machine type: {refusal}")
        raise told

    def _types(self, request: NodeRequest, zone: str | None) -> list[str]:
        """Return the machine types to try; last those that an earlier attempt was given and then had no room for.

        First comes one that this process has asked for without an answer: EC2 repeats that by the same token, which is
        of the type.
        """
        full = full_types(self.memory.nodes(), request.tags)
        asked = self.unanswered.get(request.token)
        return sorted(self.places.types_of(request.template, zone), key=lambda name: (name != asked, name in full))

    def _run(self, request: NodeRequest, machine: Machine) -> Raw:
        parameters = launching(request, machine)
        where = f"{request.name} ({machine.type} in {machine.zone or 'any zone'})"
        try:
            answer = self.ec2.call("RunInstances", "create_node", where, **parameters)
        except BackendError as exc:
            if code(exc) not in _TOKEN_USED:
                raise
            return self._launched_by_another(parameters["ClientToken"], where, exc)
        raw: dict[str, Any] = answer["Instances"][0]
        specification = parameters["TagSpecifications"][0]
        return {**raw, "Tags": raw.get("Tags") or specification["Tags"]}

    def _launched_by_another(self, token: str, where: str, refusal: BackendError) -> Raw:
        """Return the node that another process, of a rendezvous or killed since, has launched with the same token.

        The token is of this attempt, so it may have ended since; who asks sees that, and does not wait for it.
        """
        found = self.ec2.nodes("create_node", where, filters(client_token=token))
        self.memory.saw_nodes(found)
        if not found:
            text = "it was launched by another process, and is not listed yet; it is looked for again"
            raise NotReady(text, backend="aws", verb="create_node", resource=where) from refusal
        return found[0]

    def _zone_of(self, request: NodeRequest) -> str | None:
        """Return the zone of a node whose job names none: that of its volumes."""
        ids = [item.volume_id for item in request.attachments]
        seen = {volume_id: self.memory.volume(volume_id) for volume_id in ids}
        unknown = [volume_id for volume_id, raw in seen.items() if raw is None]
        asked = self.ec2.volumes_by("volume-id", unknown, "create_node", request.name)
        zones = sorted({raw["AvailabilityZone"] for raw in (*seen.values(), *asked) if raw is not None})
        if len(zones) > 1:
            raise FinalError(
                f"its volumes lie in the zones {', '.join(zones)}; EBS attaches only within a zone. Give the job one "
                "zone (NodeTemplate.zones), or adopt volumes of one zone",
                backend="aws", verb="create_node", resource=request.name,
            )  # fmt: skip
        if zones:
            return str(zones[0])
        return self.places.zone_for(request.tags.owner, request.tags.dag, request.tags.group)


def _by_ssm(raw: Raw) -> bool:
    return tags_dict(raw).get(REPORT_TAG) == ReportChannel.SSM


def _ended(raw: Raw) -> Raw:
    """Show a deleted instance as ended although EC2 may not say so yet: nothing calls it back."""
    return raw if instance_state(raw) in GOING else {**raw, "State": {"Name": "shutting-down"}}


def _exit_code(memory: Memory, node_id: str) -> int | None:
    report = memory.known_report(node_id)
    if report is None:
        return None
    try:
        found = json.loads(report).get("exit_code")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None

"""Instances: launched once with their disks, ended only when ours, told of their peers by metadata."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_errors import code
from airflow_rankvol.backends._gcp_insert import Insertion, insert
from airflow_rankvol.backends._gcp_launch import Machine, launching
from airflow_rankvol.backends._gcp_memory import Memory, changed_hands, once, same
from airflow_rankvol.backends._gcp_places import Places
from airflow_rankvol.backends._gcp_report import Reports
from airflow_rankvol.backends._gcp_view import (
    Raw,
    id_of,
    is_released,
    last,
    node_of,
    number_of,
    our_tags,
    split,
    state_of,
)
from airflow_rankvol.backends._gcp_volumes import TRIES, together
from airflow_rankvol.backends._gcp_wire import GO_KEY, go_value
from airflow_rankvol.backends.base import Guard, LogPart, NodeRequest
from airflow_rankvol.errors import (
    BackendError,
    CredentialsRefused,
    FinalError,
    NoCapacity,
    NotOurs,
    NotReady,
    RetryableError,
)
from airflow_rankvol.records import Node, NodeState

log = logging.getLogger(__name__)

#: On serial port 1: our bootstrap's lines, and the guest agent's when it runs startup scripts.
_LIFE = re.compile(r"RANKVOL-|startup-script|google_metadata_script_runner|GCEMetadataScripts")
#: Another machine type of the list may be had where these say that this one cannot.
_NEXT_TYPE = frozenset(
    {"UNSUPPORTED_OPERATION", "QUOTA_EXCEEDED", "quotaExceeded", "CPU_QUOTA_EXCEEDED", "GPU_QUOTA_EXCEEDED"}
)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The verbs of nodes."""

    gce: Gce
    memory: Memory
    places: Places
    reports: Reports

    def create(self, request: NodeRequest) -> Node:
        """Launch a node with its volumes, or return the one of that name and key."""
        zone = self._zone_of(request)
        known = self.memory.node(f"{zone}/{request.name}")
        if known is None or not same(known, request.tags) or self.memory.was_deleted(known):
            self.memory.asks_for(zone, request.tags)
            known = self._launch(request, zone)
        self.memory.saw_nodes([known])
        return node_of(known)

    def delete(self, node_id: str, guard: Guard) -> None:
        """Start ending a node of ours; its volumes stay."""
        # As it is now: what a rank has computed goes with it where somebody has let it.
        raw = self._get(node_id, "delete_node")
        if raw is None:
            return
        name = str(raw["name"])
        guard.check(tags=our_tags(raw), name=name, backend="gcp", verb="delete_node")
        self._check_disks(raw)
        try:
            self.gce.call("DELETE", _path(node_id), "delete_node", node_id, requestId=once())
        except BackendError as exc:
            going = code(exc) == "resourceNotReady" and self.memory.was_deleted(raw)
            if code(exc) != "notFound" and not going:
                raise
        self.memory.deleted_node(raw)

    def tell(self, node_ids: Sequence[str], message: Mapping[str, str]) -> None:
        """Hand variables to nodes of ours as metadata, which they read from their metadata server."""
        value = go_value(message)
        # Every rank that steps on the same observation says the same.
        told = f"told:{hash((tuple(node_ids), value))}"
        if not self.memory.is_due(told):
            return
        together(list(node_ids), lambda node_id: self._tell(node_id, value))
        self.memory.looked_up([told])

    def read_report(self, node_id: str) -> str | None:
        """Return a node's report; read once, when the node has ended."""
        raw = self.memory.last_node(node_id) or self._get(node_id, "read_report")
        if raw is None:
            return None
        if state_of(raw) is not NodeState.ENDED:
            return self.reports.report(_path(node_id))
        return self.memory.report(number_of(raw), lambda: self._last_report(raw))

    def read_log(self, node_id: str, position: int) -> LogPart:
        """Return new lines of a node that runs; a report among them is kept: nobody can read it there later."""
        raw = self.memory.last_node(node_id)
        if raw is not None and state_of(raw) is NodeState.ENDED:
            return LogPart(next=position)
        found = self.reports.new_lines(_path(node_id), position)
        if found.report is not None and raw is not None:
            self.memory.report(number_of(raw), lambda: found.report)
        return LogPart(found.lines, found.next)

    def boot_trouble(self, node_id: str) -> str:
        """Say why a node that runs has not come up; empty when it has: Compute Engine itself cannot tell."""
        try:
            if _LIFE.search(self.reports.console(_path(node_id))) or self.reports.report(_path(node_id)):
                return ""
        except FinalError as exc:
            log.warning("Whether node %s has booted cannot be asked: %s", node_id, exc)
            return ""
        return "its serial port shows nothing of the guest agent, which runs startup scripts"

    def log(self, node_id: str) -> str:
        """Return what a node's job printed, as far as Compute Engine shows it, for people."""
        return self.reports.log(_path(node_id))

    def views(self, found: Iterable[Raw]) -> tuple[Node, ...]:
        """Return described instances as nodes; one that this process has deleted counts as ended until it is gone."""
        return tuple(map(self._view, found))

    def _view(self, raw: Raw) -> Node:
        if self.memory.is_going(raw):
            raw = {**raw, "status": "STOPPING"}
        if state_of(raw) is not NodeState.ENDED:
            return node_of(raw)
        unread = self._quietly_read(raw) if is_released(raw) else ""  # its peers have to know whether it succeeded
        node = node_of(raw, exit_code=_exit_code(self.memory.known_report(number_of(raw))))
        return replace(node, reason=unread) if unread else node

    def _quietly_read(self, raw: Raw) -> str:
        """Read a node's report, and return why that is refused: whoever removes nodes has to see it all the same."""
        try:
            self.read_report(id_of(raw))
        except RetryableError:
            return ""  # the next look reads it
        except CredentialsRefused:
            raise  # no other call works either
        except FinalError as exc:
            if self.memory.is_first(f"refused report:{number_of(raw)}"):
                log.warning("The report of node %s cannot be read: %s", id_of(raw), exc)
            return f"its report cannot be read: {exc}"
        return ""

    def _last_report(self, raw: Raw) -> str | None:
        """Read the report of a node that has ended; its last words may take a moment to get there."""
        node_id = id_of(raw)
        report = self.reports.report(_path(node_id))
        if report is None and self.memory.is_first(f"report:{number_of(raw)}"):
            text = "the node has ended, and there is no report of it yet; it is read once more"
            raise NotReady(text, backend="gcp", verb="read_report", resource=node_id)
        return report

    def _launch(self, request: NodeRequest, zone: str) -> Raw:
        """Launch on the first machine type of the list that can be had."""
        refusals: list[BackendError] = []
        for machine_type in self.places.types_of(request.template):
            machine = Machine(machine_type, self.places.image(request.template.image, machine_type), zone)
            try:
                return self._insert(request, machine)
            except BackendError as exc:
                if not isinstance(exc, NoCapacity) and code(exc) not in _NEXT_TYPE and not _no_such_type(exc):
                    raise
                refusals.append(exc)
        # What may be had later counts more than what never will.
        told = next((refusal for refusal in refusals if isinstance(refusal, RetryableError)), refusals[-1])
        for refusal in refusals:
            if refusal is not told:
                told.add_note(f"another machine type: {refusal}")
        raise told

    def _insert(self, request: NodeRequest, machine: Machine) -> Raw:
        zone = machine.zone
        token = f"instances.insert/{request.token}/{request.tags.key}/{zone}/{request.name}/{machine.type}"
        body = launching(request, machine, self.places)
        wanted = Insertion(f"zones/{zone}/instances", body, "RUNNING", token, "create_node")
        try:
            return insert(self.gce, self.memory, wanted, request.tags)
        except BackendError as exc:
            exc.resource = f"{request.name} ({machine.type} in {zone})"
            raise

    def _tell(self, node_id: str, value: str) -> None:
        seen = self.memory.last_node(node_id)
        for attempt in range(TRIES):
            # Whole: what it has besides is set again.
            raw = self._get(node_id, "tell_nodes")
            if raw is None:
                return
            if our_tags(raw) is None:
                raise _error(NotOurs, "tell_nodes", node_id, "refused: it carries no tags of ours")
            if changed_hands(raw, seen):
                text = "refused: since it was looked at, its name is another node's, or the node another owner's"
                raise _error(NotOurs, "tell_nodes", node_id, text)
            metadata = raw.get("metadata") or {}
            items = [item for item in metadata.get("items") or () if item.get("key") != GO_KEY]
            body = {"fingerprint": metadata.get("fingerprint", ""), "items": [*items, {"key": GO_KEY, "value": value}]}
            try:
                path = f"{_path(node_id)}/setMetadata"
                operation = self.gce.call("POST", path, "tell_nodes", node_id, body=body, requestId=once())
                self.gce.wait(operation, "tell_nodes", node_id)
            except BackendError as exc:
                if code(exc) != "conditionNotMet" or attempt == TRIES - 1:
                    raise
            else:
                return

    def _get(self, node_id: str, verb: str) -> Raw | None:
        return self.gce.find(_path(node_id), verb, node_id)

    @staticmethod
    def _check_disks(raw: Raw) -> None:
        """Refuse to end a node whose volumes somebody has made to go with it."""
        for disk in raw.get("disks") or ():
            if disk.get("autoDelete") and not disk.get("boot"):
                name = last(str(disk.get("source", "")))
                raise _error(
                    FinalError, "delete_node", id_of(raw),
                    f"refused: disk {name} would be deleted with it (autoDelete is set, which we never do). Run gcloud "
                    f"compute instances set-disk-auto-delete {raw['name']} --no-auto-delete --disk {name}, then clear "
                    "this task",
                )  # fmt: skip

    def _zone_of(self, request: NodeRequest) -> str:
        """Return the zone of a node: that of its volumes, whose ids tell."""
        zones = sorted({split(item.volume_id)[0] for item in request.attachments})
        if len(zones) > 1 or (zones and request.zone and zones != [request.zone]):
            raise _error(
                FinalError, "create_node", request.name,
                f"its volumes lie in {', '.join(zones)}, it is to run in {request.zone or 'one zone'}; a disk attaches "
                "only within its zone. Give the job one zone (NodeTemplate.zones), or adopt volumes of one zone",
            )  # fmt: skip
        return zones[0] if zones else request.zone or self.places.zone_for(request.tags)


def _path(node_id: str) -> str:
    zone, name = split(node_id)
    return f"zones/{zone}/instances/{name}"


def _no_such_type(error: BackendError) -> bool:
    """Say whether a zone does not have a machine type: Compute Engine tells it as a wrong value."""
    return code(error) in ("invalid", "notFound") and "achineType" in str(error)


def _exit_code(report: str | None) -> int | None:
    try:
        found = json.loads(report or "{}").get("exit_code")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def _error(kind: type[BackendError], verb: str, resource: str, text: str) -> BackendError:
    return kind(text, backend="gcp", verb=verb, resource=resource)

"""Google Cloud: volumes are persistent disks or Hyperdisk, nodes are Compute Engine instances.

A thin adapter: policy, retries and tokens live in the engine; the truth is in the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_rankvol.backends._gcp_calls import Gce, all_of, any_of
from airflow_rankvol.backends._gcp_connection import DEFAULT_POLL_INTERVAL_S, Session
from airflow_rankvol.backends._gcp_labels import label_key, short
from airflow_rankvol.backends._gcp_launch import NO_RANK
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._gcp_names import filters_of
from airflow_rankvol.backends._gcp_nodes import Nodes
from airflow_rankvol.backends._gcp_places import Places
from airflow_rankvol.backends._gcp_reasons import LISTS_PER_TURN, Reasons
from airflow_rankvol.backends._gcp_report import Reports
from airflow_rankvol.backends._gcp_staging import GcsStaging
from airflow_rankvol.backends._gcp_view import DISK_FIELDS, INSTANCE_FIELDS, Raw, is_root, our_tags, volume_of
from airflow_rankvol.backends._gcp_volumes import TOGETHER, Volumes
from airflow_rankvol.backends._looks import Looks
from airflow_rankvol.backends.base import Clock, Guard, LogPart, NodeRequest, Selector, VolumeRequest
from airflow_rankvol.records import Group, Node, Observation, Tags, Volume
from airflow_rankvol.spec.templates import NodeTemplate

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan

#: The filter that takes ranks' volumes and leaves out what nodes boot from, on the server. Every resource of ours has
#: the label, so it says nothing of absent ones: of these the discovery document has only ``:*``, which asks for
#: presence.
OF_RANKS = f'labels.{label_key("rank")} != "{NO_RANK}"'


class GcpBackend:
    """Disks and instances in one project. All verbs may be called from several threads.

    Args:
        session: the connection's authorised HTTP.
        memory: what the process saw and did lately; a new one is that of a new process.
    """

    name = "gcp"
    platform = "gce"
    supports_rendezvous = True
    concurrency = TOGETHER
    #: What an accepted call makes is listed at once, as far as anybody has seen; this is to be sure.
    listing_lag_s = 10.0

    def __init__(
        self,
        session: Session,
        *,
        poll_interval_s: float = DEFAULT_POLL_INTERVAL_S,
        clock: Clock | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.session = session
        self.poll_interval_s = poll_interval_s
        self.log_interval_s: float | None = poll_interval_s
        self.clock = clock or Clock()
        self.memory = memory or Memory()
        self.looks = Looks[Observation](
            poll_interval_s, now=lambda: self.clock.now().timestamp(), sleep=self.clock.sleep
        )
        self.gce = Gce(session)
        self.stager = GcsStaging(self.gce)
        self.places = Places(self.gce)
        self.volumes = Volumes(self.gce, self.memory, self.places)
        self.nodes = Nodes(self.gce, self.memory, self.places, Reports(self.gce))
        self.reasons = Reasons(self.gce, self.memory)

    def __repr__(self) -> str:
        return f"GcpBackend({self.session.conn_id!r})"

    def default_owner(self) -> None:
        """Return None: a project has many users, so the owner has to be configured."""

    @property
    def where(self) -> str:
        """The project's id."""
        return self.gce.project

    def check(self, plan: Plan) -> None:
        """Refuse what this project cannot do; creates nothing."""
        from airflow_rankvol.backends._gcp_check import check

        check(plan, self.gce, self.places, self.stager)

    def max_volumes(self, template: NodeTemplate) -> int:
        """Return how many volumes a node can hold besides the disk that it boots from."""
        return self.places.attachments(template)

    def choose_zone(self, plan: Plan) -> str:
        """Return a zone that offers the plan's machine types."""
        from airflow_rankvol.backends._gcp_zones import choose_zone

        return choose_zone(plan, self.places)

    def observe(self, group: Group) -> Observation:
        """Return the group's volumes and nodes, and the volumes of ``group.names``; a call for each 500.

        Threads that ask at the same time share the answer. Volumes that only their names tell, and why nodes ended, are
        asked for in turns of their own: each makes no more lists than a look.
        """
        key = repr(group)

        def turn() -> AbstractContextManager[None]:
            return self.looks.turn(key)

        def complete(seen: Observation) -> Observation:
            whole = self._with_named(group, seen, turn)
            self.memory.saw_whole(group, whole)
            return replace(whole, nodes=self.reasons.explain(whole.nodes, turn))

        return self.looks.look(key, lambda: self._observe(group), complete)

    def _observe(self, group: Group) -> Observation:
        # What a node boots from is no volume of a rank: there are as many of these, and they would fill half of a page.
        wanted = all_of(_of(group.owner, sorted(group.keys)), OF_RANKS)
        # Side by side: a look takes the time of one call.
        with ThreadPoolExecutor(1, thread_name_prefix="rankvol-look") as other:
            later = other.submit(self._volumes_by, wanted, "observe", _name(group), self.memory.zones(group))
            nodes = self._nodes_of(group)
            volumes = [raw for raw in later.result() if _is_of(group, raw) and not is_root(raw)]
        self.memory.saw_volumes(volumes, lambda raw: _is_of(group, raw))
        return self._observation(volumes, nodes)

    def _nodes_of(self, group: Group) -> list[Raw]:
        wanted = _of(group.owner, [group.key])
        found = self._nodes_by(wanted, "observe", _name(group), self.memory.zones(group))
        nodes: list[Raw] = [raw for raw in found if _is_of(group, raw)]
        self.memory.saw_nodes(nodes, lambda raw: _is_of(group, raw))
        return nodes

    def _with_named(
        self, group: Group, seen: Observation, turn: Callable[[], AbstractContextManager[None]]
    ) -> Observation:
        """Add the volumes that carry no tags of the group's: adopted ones, and what somebody else has of their names.

        The nodes are listed once more after them: a volume that is held now, its new node holds.
        """
        zones = self.memory.zones(group)
        names = set(group.names)
        if zones is not None:  # at first all are asked for: several zones may have a name
            names -= {volume.name for volume in seen.volumes}
        if not names:
            return seen
        filters = filters_of(sorted(names))
        found: list[Raw] = []
        nodes: list[Raw] = []
        for begin in range(0, len(filters) + 1, LISTS_PER_TURN):
            with turn():
                for filter_ in filters[begin : begin + LISTS_PER_TURN]:
                    found += self._volumes_by(filter_, "observe", _name(group), zones)
                if begin + LISTS_PER_TURN > len(filters):
                    nodes = self._nodes_of(group)
        named = [raw for raw in found if raw["name"] in names]
        self.memory.saw_volumes(named, lambda raw: raw["name"] in names)
        asked = self._observation(named, nodes)
        # What is not listed any more is as it was: what somebody has shows with who has it.
        volumes = {volume.id: volume for volume in (*seen.volumes, *asked.volumes)}
        both = {node.id: node for node in (*seen.nodes, *asked.nodes)}
        return Observation(volumes=tuple(volumes.values()), nodes=tuple(both.values()))

    def list_owned(self, selector: Selector) -> Observation:
        """Return what carries the owner's tags."""
        wanted = all_of(
            _label("owner", selector.owner),
            _label("dag", selector.dag) if selector.dag is not None else "",
            _label("run", selector.run) if selector.run is not None else "",
        )

        def ours(raw: Raw) -> bool:
            tags = our_tags(raw)
            return tags is not None and _selected(tags, selector)

        # The disk that a node boots from goes with it; one without a node is left over.
        volumes = [
            raw
            for raw in self._volumes_by(wanted, "list_owned", selector.owner)
            if ours(raw) and not (is_root(raw) and raw.get("users"))
        ]
        nodes = [raw for raw in self._nodes_by(wanted, "list_owned", selector.owner) if ours(raw)]
        self.memory.saw_volumes(volumes)
        self.memory.saw_nodes(nodes)
        seen = self._observation(volumes, nodes)
        return replace(seen, nodes=self.reasons.explain(seen.nodes, nullcontext))

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create a volume with all its tags; the one of that name and key is returned when it exists."""
        return self.volumes.create(request)

    def delete_volume(self, volume_id: str, guard: Guard) -> None:
        """Start deleting a volume; absent is success."""
        self.volumes.delete(volume_id, guard)

    def tag_volumes(
        self, volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None
    ) -> frozenset[str]:
        """Set tags on volumes of ours, a call for each; return the ids of those that are gone."""
        return self.volumes.tag(volume_ids, tags, held_by)

    def create_node(self, request: NodeRequest) -> Node:
        """Launch a node with its volumes attached."""
        return self.nodes.create(request)

    def delete_node(self, node_id: str, guard: Guard) -> None:
        """Start ending a node; absent is success."""
        self.nodes.delete(node_id, guard)

    def attach(self, volume_id: str, node_id: str) -> None:
        """Attach a volume to a running node."""
        self.volumes.attach(volume_id, node_id)

    def tell_nodes(self, node_ids: Sequence[str], message: Mapping[str, str]) -> None:
        """Hand variables to nodes that wait for their peers."""
        self.nodes.tell(node_ids, message)

    def boot_trouble(self, node_id: str, late_since: datetime) -> str:  # noqa: ARG002 - asked anew for each node
        """Say why a node that runs has not come up, by its serial port."""
        return self.nodes.boot_trouble(node_id)

    def read_report(self, node_id: str) -> str | None:
        """Return the report that a node wrote to its guest attributes, or its serial port."""
        return self.nodes.read_report(node_id)

    def read_log(self, node_id: str, position: int) -> LogPart:
        """Return what a node that runs printed on its serial port from a position on."""
        return self.nodes.read_log(node_id, position)

    def holds_result(self, volume_id: str, key: str) -> bool | None:  # noqa: ARG002 - nobody is shown a disk's content
        """Return None: what lies on a disk only a node can tell."""
        return None

    def log_text(self, node_id: str) -> str:
        """Return what a node's job printed, as far as it is shown."""
        return self.nodes.log(node_id)

    def _volumes_by(
        self, wanted: str, verb: str, where: str, zones: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        return self.gce.everywhere("disks", verb, where, filter_=wanted, fields=DISK_FIELDS, known=zones)

    def _nodes_by(
        self, wanted: str, verb: str, where: str, zones: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        return self.gce.everywhere("instances", verb, where, filter_=wanted, fields=INSTANCE_FIELDS, known=zones)

    def _observation(self, volumes: Iterable[Raw], nodes: Iterable[Raw]) -> Observation:
        seen = tuple(volume_of(raw) for raw in volumes)
        return Observation(volumes=seen, nodes=self.nodes.views(nodes))


def _label(name: str, text: str) -> str:
    """Return a filter by one of our labels; several texts may have the same hash, so the caller compares them."""
    return any_of(f"labels.{label_key(name)}", [short(text)])


def _of(owner: str, keys: Sequence[str]) -> str:
    return all_of(_label("owner", owner), any_of(f"labels.{label_key('key')}", [short(key) for key in keys]))


def _is_of(group: Group, raw: Raw) -> bool:
    tags = our_tags(raw)
    return tags is not None and tags.owner == group.owner and tags.key in group.keys


def _name(group: Group) -> str:
    return f"group {group.group}"


def _selected(tags: Tags, selector: Selector) -> bool:
    return (
        tags.owner == selector.owner
        and selector.dag in (None, tags.dag)
        and selector.run in (None, tags.run)
    )  # fmt: skip

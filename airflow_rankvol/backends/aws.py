"""AWS: volumes are EBS volumes, nodes are EC2 instances.

A thin adapter: policy, retries and tokens live in the engine. What is kept here is what this process saw and did in
the last minute, because EC2's listings are eventually consistent; the truth is in the tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_rankvol.backends._aws_boot import Boots
from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.backends._aws_connection import DEFAULT_POLL_INTERVAL_S, Clients
from airflow_rankvol.backends._aws_memory import UNSEEN_S, Memory, Raw
from airflow_rankvol.backends._aws_nodes import Nodes
from airflow_rankvol.backends._aws_places import Places
from airflow_rankvol.backends._aws_staging import S3Staging
from airflow_rankvol.backends._aws_used_up import UsedUp
from airflow_rankvol.backends._aws_view import filters, instance_state, name_of, our_tags, volume_of
from airflow_rankvol.backends._aws_volumes import Volumes
from airflow_rankvol.backends._looks import Looks
from airflow_rankvol.backends.base import Clock, Guard, LogPart, NodeRequest, Selector, VolumeRequest
from airflow_rankvol.records import Group, Node, Observation, Volume
from airflow_rankvol.spec.templates import NodeTemplate

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan

#: Every state of an instance but ``terminated``.
_NOT_GONE = ("pending", "running", "shutting-down", "stopping", "stopped")


class AwsBackend:
    """EBS volumes and EC2 instances in one account and region. All verbs may be called from several threads.

    Args:
        clients: the connection's clients.
        memory: what the process saw and did lately; a new one is that of a new process.
    """

    name = "aws"
    platform = "ec2"
    supports_rendezvous = True
    #: What a test of the connection says besides: EC2 judges such calls only by the very volume or node.
    not_tried = "not tried: the rights to tag, attach, read and remove them (docs/aws.md lists all)"
    concurrency = 64
    listing_lag_s = UNSEEN_S
    #: GetConsoleOutput gives the whole console, one instance a call: it is read with the report, when a node has ended.
    log_interval_s: float | None = None

    def __init__(
        self,
        clients: Clients,
        *,
        poll_interval_s: float = DEFAULT_POLL_INTERVAL_S,
        clock: Clock | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.clients = clients
        self.poll_interval_s = poll_interval_s
        self.clock = clock or Clock()
        self.memory = memory or Memory()
        self.looks = Looks[Observation](
            poll_interval_s, now=lambda: self.clock.now().timestamp(), sleep=self.clock.sleep
        )
        self.ec2 = Ec2(clients)
        self.stager = S3Staging(self.ec2)
        self.places = Places(self.ec2)
        used_up = UsedUp(self.ec2, self.memory, self.clock.now, poll_interval_s)
        self.volumes = Volumes(self.ec2, self.memory, self.places, used_up)
        self.nodes = Nodes(self.ec2, self.memory, self.places)
        self.boots = Boots(self.ec2, self.clock.now, self.nodes.console)

    def __repr__(self) -> str:
        return f"AwsBackend({self.clients.conn_id!r})"

    def default_owner(self) -> None:
        """Return None: an account has many users, so the owner has to be configured."""

    @property
    def where(self) -> str:
        """The region."""
        return self.ec2.clients.region

    def check(self, plan: Plan) -> None:
        """Refuse what this account and region cannot do; creates nothing."""
        from airflow_rankvol.backends._aws_check import check

        check(plan, self.ec2, self.places, self.stager)

    def max_volumes(self, template: NodeTemplate) -> int:
        """Return how many volumes a node can hold besides the disk that it boots from."""
        return self.places.attachments(template)

    def choose_zone(self, plan: Plan) -> str:
        """Return a zone that offers the plan's machine types, and whose subnet has addresses left."""
        from airflow_rankvol.backends._aws_zones import choose_zone

        return choose_zone(plan, self.places)

    def observe(self, group: Group) -> Observation:
        """Return the group's volumes and nodes, and the volumes of ``group.names``; a call for each thousand.

        Adopted volumes carry nothing by which a listing could show them. One that a running node of the group has
        attached is where that node says it is. The others are asked for by name, with one call more: those that nobody
        has yet, or any more, or that somebody has taken away. Threads that ask at the same time share the answer.
        """
        return self.looks.look(repr(group), lambda: self._observe(group))

    def _observe(self, group: Group) -> Observation:
        where = f"group {group.group}"

        def ours(raw: Raw) -> bool:
            tags = our_tags(raw)
            return tags is not None and tags.owner == group.owner and tags.key in group.keys

        # Side by side: a look takes the time of one call.
        with ThreadPoolExecutor(1, thread_name_prefix="rankvol-look") as other:
            mine = filters(tag_owner=group.owner, tag_key=[*group.keys])
            later = other.submit(self.ec2.volumes, "observe", where, mine)
            nodes = self.ec2.nodes("observe", where, filters(tag_owner=group.owner, tag_key=group.key))
            volumes = later.result()
        names = frozenset(group.names)
        absent = names - {name_of(raw) for raw in volumes}
        held = [raw for raw in self.memory.held(nodes) if name_of(raw) in absent]
        asked = absent - {name_of(raw) for raw in held}
        volumes += self.ec2.volumes_named(asked, "observe", where)
        known = asked | (names - absent)
        self.memory.looked_up([*(f"key:{key}" for key in group.keys), *(f"name:{name}" for name in known)])
        return self._observation(
            self.memory.list_volumes(volumes, lambda raw: ours(raw) or name_of(raw) in names, held),
            self.memory.list_nodes(nodes, ours),
        )

    def list_owned(self, selector: Selector) -> Observation:
        """Return what carries the owner's tags; nodes that have ended for good are history."""
        wanted = filters(tag_owner=selector.owner, tag_dag=selector.dag, tag_run=selector.run)
        states = [{"Name": "instance-state-name", "Values": list(_NOT_GONE)}]

        def ours(raw: Raw) -> bool:
            tags = our_tags(raw)
            return (
                tags is not None
                and tags.owner == selector.owner
                and selector.dag in (None, tags.dag)
                and selector.run in (None, tags.run)
            )

        volumes = self.ec2.volumes("list_owned", selector.owner, wanted)
        nodes = self.ec2.nodes("list_owned", selector.owner, wanted + states)
        # The disks that nodes boot from carry the owner, but are no volumes of any group.
        listed = self.memory.list_volumes(filter(ours, volumes), ours)
        self.memory.saw_nodes(nodes)
        return self._observation(listed, [raw for raw in nodes if ours(raw) and instance_state(raw) != "terminated"])

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create a volume with all its tags; the one of that name and key is returned when it exists."""
        return self.volumes.create(request)

    def delete_volume(self, volume_id: str, guard: Guard) -> None:
        """Start deleting a volume; absent is success."""
        self.volumes.delete(volume_id, guard)

    def tag_volumes(
        self, volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None
    ) -> frozenset[str]:
        """Set tags on volumes of ours, a call for each thousand; return the ids of those that are gone."""
        if held_by is None:
            return self.volumes.tag(volume_ids, tags)
        self.volumes.claim(volume_ids, tags, held_by)
        return frozenset()

    def create_node(self, request: NodeRequest) -> Node:
        """Launch a node; its volumes are attached once it runs."""
        return self.nodes.create(request)

    def delete_node(self, node_id: str, guard: Guard) -> None:
        """Start ending a node; absent is success, and one that has ended takes no call."""
        self.nodes.delete(node_id, guard)

    def attach(self, volume_id: str, node_id: str) -> None:
        """Attach a volume to a running node."""
        self.volumes.attach(volume_id, node_id)

    def tell_nodes(self, node_ids: Sequence[str], message: Mapping[str, str]) -> None:
        """Hand variables to nodes that wait for their peers."""
        self.nodes.tell(node_ids, message)

    def boot_trouble(self, node_id: str, late_since: datetime) -> str:
        """Say why a node that runs has not come up, by EC2's status checks and its console."""
        return self.boots.trouble(node_id, late_since)

    def read_report(self, node_id: str) -> str | None:
        """Return the report that a node wrote to its console."""
        return self.nodes.read_report(node_id)

    def read_log(self, node_id: str, position: int) -> LogPart:
        """Return what a node that has ended printed on its console."""
        return self.nodes.read_log(node_id, position)

    def holds_result(self, volume_id: str, key: str) -> bool | None:  # noqa: ARG002 - EC2 shows nobody a disk's content
        """Return None: what lies on a disk only a node can tell."""
        return None

    def log_text(self, node_id: str) -> str:
        """Return what a node wrote to its console."""
        return self.nodes.log(node_id)

    def _observation(self, volumes: Sequence[Raw], nodes: Sequence[Raw]) -> Observation:
        seen = tuple(volume_of(raw) for raw in volumes)
        return Observation(volumes=seen, nodes=self.nodes.views(nodes, seen))

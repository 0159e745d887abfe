"""Find and remove what runs left behind, by tag; nothing else is ever touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from airflow_rankvol.backends.base import Backend, Guard, Selector
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.teardown import (
    NODES_TIMEOUT_S,
    VOLUMES_TIMEOUT_S,
    delete_nodes,
    delete_volumes,
    never_handed_out,
)
from airflow_rankvol.records import Node, NodeState, Observation, Role, Tags, Volume, from_iso, to_iso
from airflow_rankvol.spec.templates import ReclaimPolicy, Scope


class RunState(StrEnum):
    """What is known about the run that a resource belongs to."""

    LIVE = "live"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ReapRules:
    """What may be removed beyond the standing rules, by the operator's word.

    Args:
        names: exact names of volumes to remove, whatever their scope; never those of a live run.
        older_than: leave what is younger than this.
        expired_only: remove only what has expired, even of ended runs.
    """

    names: frozenset[str] = frozenset()
    older_than: timedelta = timedelta()
    expired_only: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One resource of ours with the verdict on it; ``unfinished`` when it rests on a rank that never ended."""

    kind: str
    resource: Volume | Node
    run_state: RunState
    remove: bool
    reason: str
    unfinished: bool = False

    @property
    def tags(self) -> Tags:
        """The resource's tags; every finding has them."""
        assert self.resource.tags is not None  # noqa: S101 - survey() makes findings only of what has tags
        return self.resource.tags


RunStateOf = Callable[[str, str], RunState]


def survey(
    backend: Backend, selector: Selector, run_state_of: RunStateOf, rules: ReapRules | None = None
) -> list[Finding]:
    """Return every resource of the owner with the verdict on it; removes nothing.

    Args:
        run_state_of: tells from a DAG id and a run id whether that run lives.
    """
    observation = patiently(backend, backend.list_owned, selector)
    now = backend.clock.now()
    rules = rules or ReapRules()
    states: dict[tuple[str, str], RunState] = {}

    def state(tags: Tags) -> RunState:
        where = (tags.dag, tags.run)
        if where not in states:
            states[where] = run_state_of(*where)
        return states[where]

    def used(tags: Tags) -> RunState:
        """A volume that outlives runs may have been made by one run and be in use by another."""
        user = state(tags.with_(run=tags.used_by)) if tags.used_by else RunState.UNKNOWN
        return RunState.LIVE if user is RunState.LIVE else state(tags)

    # The backend filters by owner already; what would be removed by mistake cannot be brought back.
    findings = [
        _judge_node(node, node.tags, state(node.tags), now, rules)
        for node in observation.nodes
        if node.tags and node.tags.owner == selector.owner
    ]
    going = frozenset(finding.resource.id for finding in findings if finding.remove)
    why = partial(_why_nothing_ended, observation.nodes, remembers=backend.keeps_ended_nodes)
    return findings + [
        _judge_volume(volume, volume.tags, used(volume.tags), going, why(volume.tags), now, rules)
        for volume in observation.volumes
        if volume.tags and volume.tags.owner == selector.owner
    ]


def reap(backend: Backend, selector: Selector, findings: Sequence[Finding]) -> tuple[list[str], dict[str, str]]:
    """Remove what the findings say, nodes first; return what went, and by name what did not and why.

    What a rank finished since the survey stays: the results of a run that has ended are on its volume alone.
    """
    problems: dict[str, str] = {}
    findings = _look_again(backend, selector, findings)
    _keep_for_good(backend, findings)
    nodes = [f.resource for f in findings if f.remove and isinstance(f.resource, Node)]
    doomed = [
        (f.resource, Guard(owner=f.tags.owner, key=f.tags.key))
        for f in findings
        if f.remove and isinstance(f.resource, Volume)
    ]

    def observe() -> Observation:
        return backend.list_owned(selector)

    gone = delete_nodes(backend, nodes, observe, problems, timeout_s=NODES_TIMEOUT_S)
    gone += delete_volumes(backend, doomed, observe, problems, timeout_s=VOLUMES_TIMEOUT_S)
    return gone, problems


def _expired(tags: Tags, now: datetime) -> bool:
    expiry = from_iso(tags.expiry)
    return expiry is not None and expiry <= now


def _judge_node(node: Node, tags: Tags, state: RunState, now: datetime, rules: ReapRules) -> Finding:
    def verdict(remove: bool, reason: str) -> Finding:
        return Finding("node", node, state, remove, reason)

    if state is RunState.LIVE:
        return verdict(False, "its run lives")
    if node.created_at > now - rules.older_than:
        return verdict(False, "younger than asked for")
    if _expired(tags, now):
        return verdict(True, f"expired {tags.expiry}")
    if state is RunState.ENDED and not rules.expired_only:
        return verdict(True, "its run has ended")
    return verdict(False, f"expires {tags.expiry}")


def _judge_volume(
    volume: Volume, tags: Tags, state: RunState, going: frozenset[str], unused: str, now: datetime, rules: ReapRules
) -> Finding:
    def verdict(remove: bool, reason: str) -> Finding:
        return Finding("volume", volume, state, remove, reason)

    in_use = _in_use(volume, state, going)
    if in_use:
        return verdict(False, in_use)
    if volume.name in rules.names:
        return verdict(True, "named")
    if volume.created_at > now - rules.older_than:
        return verdict(False, "younger than asked for")
    if tags.scope != Scope.RUN:
        return verdict(False, f"scope {tags.scope}: goes only when named")
    if tags.reclaim in (ReclaimPolicy.RETAIN, ReclaimPolicy.SNAPSHOT):
        return verdict(False, f"reclaim policy {tags.reclaim}: goes only when named")
    if _expired(tags, now):
        return verdict(True, f"expired {tags.expiry}")
    return _judge_unexpired(volume, tags, state, unused, rules)


def _in_use(volume: Volume, state: RunState, going: frozenset[str]) -> str:
    if state is RunState.LIVE:
        return "its run lives"
    if volume.attached_to and volume.attached_to not in going:
        return f"attached to {volume.attached_to}, a node that stays"
    return ""


def _judge_unexpired(volume: Volume, tags: Tags, state: RunState, unused: str, rules: ReapRules) -> Finding:
    def goes(why: str, *, unfinished: bool = False) -> Finding:
        return Finding("volume", volume, state, True, f"its run has ended{why}", unfinished)

    if state is not RunState.ENDED or rules.expired_only:
        return Finding("volume", volume, state, False, f"expires {tags.expiry}")
    if tags.collected:
        return goes(" and its results were collected")
    if never_handed_out(tags):
        return goes(" before any rank could use it")
    if tags.reclaim == ReclaimPolicy.DELETE_ALWAYS:
        return goes("; reclaim policy delete_always")
    if unused and not tags.kept:
        return goes(f" {unused}", unfinished=True)
    return Finding("volume", volume, state, False, f"results not collected; expires {tags.expiry}")


def _why_nothing_ended(nodes: Sequence[Node], tags: Tags, *, remembers: bool) -> str:
    """Say how it is known that no try of a volume's rank ever came to its end; empty where one did, or may have.

    Only what is seen counts. A node that still runs is the try that its run's end cut off, and every earlier try must
    be listed with the exit code of a failure. Where no node is listed at all, a backend that lists ended nodes until
    they are deleted had none; the teardown, which deletes them, marks the volumes that it keeps (``Tags.kept``).

    Args:
        remembers: whether the backend lists ended nodes until they are deleted.
    """
    tries = [
        node
        for node in nodes
        if node.tags and (node.tags.key, node.tags.rank, node.tags.role) == (tags.key, tags.rank, Role.RANK)
    ]
    if not tries:
        return "before its rank started" if remembers else ""
    ended = [node for node in tries if node.state is NodeState.ENDED]
    running = [node.tags.attempt for node in tries if node not in ended and node.tags]
    if not running or max(running) != len(ended) + 1 or any(node.exit_code in (None, 0) for node in ended):
        return ""
    return "before its rank did"


def _look_again(backend: Backend, selector: Selector, findings: Sequence[Finding]) -> list[Finding]:
    """Drop the verdict on a volume whose rank has ended since it was judged: its result may just have been written."""
    nodes = patiently(backend, backend.list_owned, selector).nodes
    ended = {node.id for node in nodes if node.state is NodeState.ENDED}
    late = {
        (f.tags.key, f.tags.rank)
        for f in findings
        if isinstance(f.resource, Node) and f.resource.state is not NodeState.ENDED and f.resource.id in ended
    }
    return [
        replace(f, remove=False, reason=f"its rank has just ended; expires {f.tags.expiry}")
        if f.unfinished and (f.tags.key, f.tags.rank) in late
        else f
        for f in findings
    ]


def _keep_for_good(backend: Backend, findings: Sequence[Finding]) -> None:
    """Mark the volumes that stay although their run has ended: the nodes that tell why go now."""
    ids = [
        f.resource.id
        for f in findings
        if isinstance(f.resource, Volume)
        and not f.remove
        and f.run_state is RunState.ENDED
        and f.tags.scope == Scope.RUN
        and not f.tags.kept
    ]
    if ids:
        patiently(backend, backend.tag_volumes, ids, {"rankvol:kept": to_iso(backend.clock.now())})

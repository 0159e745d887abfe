"""Find and remove what runs left behind, by tag; nothing else is ever touched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache

from airflow_rankvol.backends.base import Backend, Guard, Selector
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.marks import never_handed_out
from airflow_rankvol.engine.removal import NODES_TIMEOUT_S, VOLUMES_TIMEOUT_S, delete_nodes, delete_volumes
from airflow_rankvol.errors import BackendError, VolumeBusy
from airflow_rankvol.records import Node, Observation, Role, Tags, Volume, from_iso
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
        older_than: leave what is younger than this, named or not.
        expired_only: remove only what has expired, even of ended runs.
    """

    names: frozenset[str] = frozenset()
    older_than: timedelta = timedelta()
    expired_only: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One resource of ours with the verdict on it.

    Where a volume goes because its rank left no record, ``unfinished`` holds the ids of all the rank's volumes: none of
    them has one.
    """

    kind: str
    resource: Volume | Node
    run_state: RunState
    remove: bool
    reason: str
    unfinished: tuple[str, ...] = ()

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
        if not tags.user_is_known:
            return RunState.LIVE
        user = state(tags.with_(dag=tags.used_dag, run=tags.used_run)) if tags.used_run else RunState.UNKNOWN
        return RunState.LIVE if user is RunState.LIVE else state(tags)

    # The backend filters by owner already; what would be removed by mistake cannot be brought back.
    findings = [
        _judge_node(node, node.tags, state(node.tags), now, rules)
        for node in observation.nodes
        if node.tags and node.tags.owner == selector.owner
    ]
    going = frozenset(finding.resource.id for finding in findings if finding.remove)

    of_rank: dict[tuple[str, str, str, int], list[Volume]] = defaultdict(list)
    for volume in observation.volumes:
        if volume.tags:
            of_rank[_rank_of(volume.tags)].append(volume)

    def unfinished(tags: Tags) -> tuple[str, ...]:
        mates = of_rank[_rank_of(tags)]
        return tuple(mate.id for mate in mates) if _is_unfinished(backend, tags, mates, observation) else ()

    return findings + [
        _judge_volume(volume, volume.tags, used(volume.tags), going, unfinished, now, rules)
        for volume in observation.volumes
        if volume.tags and volume.tags.owner == selector.owner
    ]


def reap(
    backend: Backend, selector: Selector, findings: Sequence[Finding], run_state_of: RunStateOf | None = None
) -> tuple[list[str], dict[str, str]]:
    """Remove what the findings say, nodes first; return what went, and by name what did not and why.

    Nodes take minutes to go, and a run may live and end again meanwhile, because somebody cleared a task of it. So each
    run is asked about once more right before its nodes go, and again before its volumes do. A volume goes only if it is
    as it was found, with the same tags: what was made anew meanwhile, or kept by a teardown, stays, and so does what a
    rank has finished. Those are in neither answer.

    Args:
        run_state_of: asks anew, with every call, whether a run lives.
    """
    problems: dict[str, str] = {}
    asked = run_state_of and cache(run_state_of)
    nodes = [f.resource for f in findings if f.remove and isinstance(f.resource, Node) and not _lives(f, asked)]

    def observe() -> Observation:
        return backend.list_owned(selector)

    gone = delete_nodes(backend, nodes, observe, problems, timeout_s=NODES_TIMEOUT_S)
    volumes = [(f, f.resource) for f in findings if f.remove and isinstance(f.resource, Volume)]
    same = _unchanged(backend, [volume for _, volume in volumes], observe, problems)
    asked = run_state_of and cache(run_state_of)
    doomed = [
        (volume, Guard(owner=finding.tags.owner, key=finding.tags.key))
        for finding, volume in volumes
        if volume.id in same and _still_goes(backend, finding, asked, problems)
    ]
    gone += delete_volumes(backend, doomed, observe, problems, timeout_s=VOLUMES_TIMEOUT_S)
    return gone, problems


def _unchanged(
    backend: Backend, volumes: Sequence[Volume], observe: Callable[[], Observation], problems: dict[str, str]
) -> set[str]:
    """Return the ids of the volumes that are now what they were when they were judged, or gone."""
    if not volumes:
        return set()
    try:
        now = {volume.id: _as_judged(volume) for volume in patiently(backend, observe).volumes}
    except BackendError as exc:
        problems.update((volume.label, f"whether it has changed could not be told: {exc}") for volume in volumes)
        return set()
    return {volume.id for volume in volumes if now.get(volume.id, _as_judged(volume)) == _as_judged(volume)}


def _as_judged(volume: Volume) -> tuple[datetime, Tags | None]:
    return volume.created_at, volume.tags


def _still_goes(backend: Backend, finding: Finding, run_state_of: RunStateOf | None, problems: dict[str, str]) -> bool:
    if _lives(finding, run_state_of):
        return False
    if not finding.unfinished:
        return True
    try:
        return all(patiently(backend, backend.holds_result, i, finding.tags.key) is False for i in finding.unfinished)
    except BackendError as exc:
        problems[finding.resource.label] = f"whether its rank had finished could not be told: {exc}"
        return False


def _lives(finding: Finding, run_state_of: RunStateOf | None) -> bool:
    tags = finding.tags
    runs = {(tags.dag, tags.run), *([(tags.used_dag, tags.used_run)] if tags.used_run else [])}
    return run_state_of is not None and any(run_state_of(*run) is RunState.LIVE for run in runs)


def _expired(tags: Tags, now: datetime) -> bool:
    try:
        expiry = from_iso(tags.expiry)
    except ValueError:  # somebody has changed it
        return False
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
    volume: Volume,
    tags: Tags,
    state: RunState,
    going: frozenset[str],
    unfinished: Callable[[Tags], tuple[str, ...]],
    now: datetime,
    rules: ReapRules,
) -> Finding:
    def verdict(remove: bool, reason: str) -> Finding:
        return Finding("volume", volume, state, remove, reason)

    in_use = _in_use(volume, tags, state, going)
    if in_use:
        return verdict(False, in_use)
    if volume.created_at > now - rules.older_than:
        return verdict(False, "younger than asked for")
    if volume.name in rules.names:
        return verdict(True, "named")
    if state is RunState.ENDED and never_handed_out(tags) and not rules.expired_only:
        return verdict(True, "its run has ended before any rank could use it")
    on_purpose = _kept_on_purpose(tags)
    if on_purpose:
        return verdict(False, f"{on_purpose}: goes only when named")
    if _expired(tags, now):
        return verdict(True, f"expired {tags.expiry}")
    return _judge_unexpired(volume, tags, state, unfinished, rules)


def _kept_on_purpose(tags: Tags) -> str:
    if tags.scope != Scope.RUN:
        return f"scope {tags.scope}"
    return f"reclaim policy {tags.reclaim}" if tags.reclaim in (ReclaimPolicy.RETAIN, ReclaimPolicy.SNAPSHOT) else ""


def _in_use(volume: Volume, tags: Tags, state: RunState, going: frozenset[str]) -> str:
    if not tags.user_is_known:
        return (
            "a run has it whose id cannot be read: empty the tags rankvol:used_dag and rankvol:used_run if it is over"
        )
    if state is RunState.LIVE:
        return "its run lives"
    if volume.attached_to and volume.attached_to not in going:
        return f"attached to {volume.attached_to}, a node that stays"
    return ""


def _judge_unexpired(
    volume: Volume, tags: Tags, state: RunState, unfinished: Callable[[Tags], tuple[str, ...]], rules: ReapRules
) -> Finding:
    def goes(why: str, mates: tuple[str, ...] = ()) -> Finding:
        return Finding("volume", volume, state, True, f"its run has ended{why}", mates)

    if state is not RunState.ENDED or rules.expired_only:
        return Finding("volume", volume, state, False, f"expires {tags.expiry}")
    if tags.collected:
        return goes(" and its results were collected")
    if tags.reclaim == ReclaimPolicy.DELETE_ALWAYS:
        return goes("; reclaim policy delete_always")
    mates = () if tags.kept else unfinished(tags)
    if mates:
        return goes(" before its rank had finished", mates)
    return Finding("volume", volume, state, False, f"results not collected; expires {tags.expiry}")


def _rank_of(tags: Tags) -> tuple[str, str, str, int]:
    """Return what the volumes of one rank of one run have in common: its record lies on one of them."""
    return tags.dag, tags.run, tags.group, tags.rank


def _is_unfinished(backend: Backend, tags: Tags, mates: Sequence[Volume], observation: Observation) -> bool:
    """Say whether it can be seen that a rank has not finished: none of its volumes holds a completion record.

    While a rank's node has one, that is taken for granted; whoever deletes the node looks again.
    """
    for mate in mates:
        try:
            if backend.holds_result(mate.id, tags.key) is not False:
                return False
        except VolumeBusy:
            holder = observation.node(mate.attached_to)
            if holder is None or holder.tags is None or holder.tags.role != Role.RANK:
                return False
        except BackendError:
            return False  # one that cannot be looked at stays, and hides no other
    return True

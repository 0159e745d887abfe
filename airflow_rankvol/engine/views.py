"""From an observation to the situation that ``decide`` knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from airflow_rankvol.engine.decide import Gang, NodeView, Others, Overdue, Situation, VolumeView
from airflow_rankvol.engine.twins import chosen, is_settled
from airflow_rankvol.engine.whose import volume_view
from airflow_rankvol.engine.work import Work
from airflow_rankvol.records import Node, NodeState, Observation, Role, VolumeState, from_iso

_NODE_VIEWS = {
    NodeState.PENDING: NodeView.PENDING,
    NodeState.RUNNING: NodeView.RUNNING,
    NodeState.ENDED: NodeView.ENDED,
}
_WORST_FIRST = tuple(VolumeView)
#: So far a worker's clock may go behind the cloud's.
CLOCKS = timedelta(seconds=10)


def own_node(work: Work, observation: Observation) -> Node | None:
    """Return the node of exactly this attempt, or None; of several, the one that counts."""
    nodes = own_nodes(work, observation)
    return chosen(nodes, work.volume_ids, observation) if nodes else None


def own_nodes(work: Work, observation: Observation) -> tuple[Node, ...]:
    """Return all nodes of exactly this attempt; more than one where a launch was repeated in another way."""
    return tuple(node for node in siblings(work, observation) if _is_of(work, node))


def spare_nodes(work: Work, observation: Observation) -> tuple[Node, ...]:
    """Return the nodes of this attempt that are one too many, once it is sure which of them counts."""
    nodes = own_nodes(work, observation)
    if len(nodes) < 2:
        return ()
    own = chosen(nodes, work.volume_ids, observation)
    return tuple(node for node in nodes if node is not own) if is_settled(own, work.volume_ids, observation) else ()


def _is_of(work: Work, node: Node) -> bool:
    return _same_handout(work, node) and attempt_of(node) == work.attempt


def _same_handout(work: Work, node: Node) -> bool:
    """Say whether a node came after the hand-out that this work's volumes are of.

    Tries are counted anew where a run was deleted and another one has got its id; what nodes of its attempts did, which
    may still be listed, says nothing of this run.
    """
    return node.tags is not None and node.tags.handout == work.handout


def attempt_of(node: Node) -> int:
    """Return the attempt in a node's tags."""
    return node.tags.attempt if node.tags else 0


def siblings(work: Work, observation: Observation) -> tuple[Node, ...]:
    """Return the nodes of this rank (or of gather), whatever their attempt."""
    return observation.nodes_of(work.group.key, work.role, work.rank)


def gang_nodes(work: Work, observation: Observation) -> tuple[Node, ...]:
    """Return the nodes of this attempt's whole gang, one for each rank."""
    of_rank: dict[int, list[Node]] = {}
    for node in attempt_nodes(work, observation):
        of_rank.setdefault(rank_of(node), []).append(node)
    volume_ids = dict(enumerate(work.gang))
    return tuple(chosen(nodes, volume_ids.get(rank, ()), observation) for rank, nodes in of_rank.items())


def attempt_nodes(work: Work, observation: Observation) -> tuple[Node, ...]:
    """Return all ranks' nodes of this attempt; of one rank more than one where a launch was repeated in another way."""
    return tuple(node for node in observation.rank_nodes(work.group.key) if _is_of(work, node))


def newest_attempt(work: Work, observation: Observation) -> int:
    """Return the newest attempt of the gang since its volumes were handed out; 0 without any."""
    nodes = observation.rank_nodes(work.group.key)
    return max((attempt_of(node) for node in nodes if _same_handout(work, node)), default=0)


def _is_older(work: Work, observation: Observation, node: Node, *, may_launch: bool) -> bool:
    """Say whether a node of the same rank comes before this work's own, by its attempt or by an earlier hand-out.

    Hand-outs have no order by themselves. Of two nodes the younger is newer; so is one that is about to be launched
    than what was there when its task began. Who waits for a node that is gone, and cannot launch, knows nothing of the
    others.
    """
    if _same_handout(work, node):
        return attempt_of(node) < work.attempt
    own = own_node(work, observation)
    return node.created_at <= own.created_at if own else may_launch and _was_there(work, node)


def _was_there(work: Work, node: Node) -> bool:
    """Say whether a node was launched before this work's task began, as far as the two clocks agree."""
    begun = from_iso(work.begun)
    return begun is not None and node.created_at <= begun + CLOCKS


def _is_newer(work: Work, observation: Observation, node: Node) -> bool:
    if _same_handout(work, node):
        return attempt_of(node) > work.attempt
    own = own_node(work, observation)
    return own is not None and node.created_at > own.created_at


def older_nodes(work: Work, observation: Observation, *, may_launch: bool) -> tuple[Node, ...]:
    """Return the nodes that have to go before this attempt may hold the volumes.

    For a rank, its earlier attempts (in a gang, everybody's), of its own attempt what is one too many, and a gather
    node that has its volumes. For gather, its earlier attempts, also other parts of those that have its volumes, and
    any rank's node that nobody watches any more; the released nodes of a gang are left to finish by themselves, because
    a restarted gang computes its finished ranks again, too. A node that has ended and holds nothing is history: EC2
    lists it for another hour, whatever is asked of it.
    """
    older = [n for n in _pool(work, observation) if _is_older(work, observation, n, may_launch=may_launch)]
    older += spare_nodes(work, observation)
    older += [n for n in _other_parts(work, observation) if _is_older(work, observation, n, may_launch=may_launch)]
    if work.role is Role.GATHER:
        own = own_node(work, observation)
        # Gather's task begins when all of theirs have ended. One that came later is of a rank that was cleared since.
        ranks = [
            node
            for node in observation.rank_nodes(work.group.key)
            if _was_there(work, node) and (node.created_at <= own.created_at if own else may_launch)
        ]
        older += [node for node in ranks if node.state is NodeState.ENDED or not node.released]
    older = [node for node in older if node.state is not NodeState.ENDED or node.id in observation.holders]
    return (*older, *_stale_gather(work, observation))


def _pool(work: Work, observation: Observation) -> tuple[Node, ...]:
    return observation.rank_nodes(work.group.key) if work.rendezvous else siblings(work, observation)


def _other_parts(work: Work, observation: Observation) -> list[Node]:
    """Return gather's nodes of another part's number that hold volumes of this part.

    The parts of one attempt share no volume: these are of one that was split in another way.
    """
    if work.role is not Role.GATHER:
        return []
    holders = _holders(observation, work.volume_ids)
    nodes = observation.rank_nodes(work.group.key, Role.GATHER)
    return [node for node in nodes if node.id in holders and rank_of(node) != work.rank]


def _stale_gather(work: Work, observation: Observation) -> list[Node]:
    """Return the gather node that holds this rank's volumes: it gathers what is about to change."""
    if work.role is Role.GATHER:
        return []
    nodes = observation.rank_nodes(work.group.key, Role.GATHER)
    if not nodes:
        return []
    holders = _holders(observation, {*work.volume_ids, *(volume_id for ids in work.gang for volume_id in ids)})
    return [node for node in nodes if node.id in holders]


def _holders(observation: Observation, volume_ids: Iterable[str]) -> set[str | None]:
    return {volume.attached_to for volume in map(observation.volume, volume_ids) if volume}


def is_failed(node: Node) -> bool:
    """Say whether a node ended without success."""
    return node.state is NodeState.ENDED and node.exit_code != 0


def rank_of(node: Node) -> int:
    """Return the rank in a node's tags."""
    return node.tags.rank if node.tags else -1


def culprit(work: Work, observation: Observation) -> str:
    """Name the rank that broke the gang, and how; empty when it is whole."""
    nodes = gang_nodes(work, observation)
    first = failed_peer(work, observation)
    if first:
        code = "was lost" if first.exit_code is None else f"ended with exit code {first.exit_code}"
        why = f": {first.reason}" if first.exit_code is None and first.reason else ""
        return f"rank {rank_of(first)} {code} ({first.label}{why})"
    present = {rank_of(node) for node in nodes}
    if any(node.released for node in nodes) and len(present) < work.nodes:
        gone = min(set(range(work.nodes)) - present)
        return f"the node of rank {gone} is gone"
    return ""


def failed_peer(work: Work, observation: Observation) -> Node | None:
    """Return the node that broke the gang: one with an exit code, then one that the cloud refused, then one it lost.

    Its peers are ended because of it, and may be listed as lost, too.
    """
    failed = [node for node in gang_nodes(work, observation) if is_failed(node)]
    return min(failed, key=lambda node: (node.exit_code is None, node.error is None, rank_of(node)), default=None)


def _gang_view(work: Work, observation: Observation, node: Node | None) -> Gang:
    if not work.rendezvous:
        return Gang.NONE
    if culprit(work, observation):
        return Gang.BROKEN
    if node is None:
        return Gang.NONE
    nodes = gang_nodes(work, observation)
    if len(nodes) < work.nodes:
        return Gang.PARTIAL
    # Also those whose message was lost half-way: a rank whose own node was told may be the only one that steps.
    waiting = [peer for peer in nodes if not peer.released and peer.state is not NodeState.ENDED]
    if not waiting:
        return Gang.NONE
    return Gang.READY if all(peer.ready for peer in waiting) else Gang.WAITING


def free_mounts(work: Work, observation: Observation) -> list[tuple[str, Node]]:
    """Return each volume that waits to be attached, with its running node; in a gang, those of other ranks then.

    The tasks of the other ranks may not have started, and nothing starts before every node has its volumes. Where they
    have, each sees to its own first, so that N tasks make about N calls.
    """
    own = own_node(work, observation)
    free = _free([(own, work.volume_ids)] if own else [], observation)
    if free or not work.rendezvous:
        return free
    peers = {rank_of(node): node for node in gang_nodes(work, observation)}
    return _free([(peers[rank], ids) for rank, ids in enumerate(work.gang) if rank in peers], observation)


def _free(wanted: Iterable[tuple[Node, Sequence[str]]], observation: Observation) -> list[tuple[str, Node]]:
    return [
        (volume_id, node)
        for node, ids in wanted
        if node.state is NodeState.RUNNING
        for volume_id in ids
        if (volume := observation.volume(volume_id)) and volume.state is VolumeState.AVAILABLE
    ]


def _volumes_view(work: Work, observation: Observation, node: Node | None, now: datetime) -> VolumeView:
    views = {volume_view(work, observation, observation.volume(volume_id), node, now) for volume_id in work.volume_ids}
    if work.role is Role.GATHER:
        views.discard(VolumeView.ABSENT)  # a rank without a volume is missing, not fatal by itself
    if not views:
        return VolumeView.HERE if node is not None else VolumeView.FREE
    worst = next(view for view in _WORST_FIRST if view in views)
    return VolumeView.FREE if worst is VolumeView.HERE and free_mounts(work, observation) else worst


def _others(work: Work, observation: Observation, *, may_launch: bool) -> Others:
    if any(_is_newer(work, observation, node) for node in _pool(work, observation)):
        return Others.NEWER
    return Others.OLDER if older_nodes(work, observation, may_launch=may_launch) else Others.NONE


def _overdue(work: Work, node: Node | None, now: datetime) -> Overdue:
    if now > work.deadline:
        return Overdue.LIFETIME
    started = node.created_at if node else work.deadline - timedelta(seconds=work.lifetime_s)
    if node is not None and now > started + timedelta(seconds=work.lifetime_s):
        return Overdue.LIFETIME
    if node is None:
        return Overdue.BOOT if now > started else Overdue.NO
    return Overdue.BOOT if now > started + timedelta(seconds=work.boot_timeout_s) else Overdue.NO


def _node_view(node: Node | None) -> NodeView:
    if node is None:
        return NodeView.ABSENT
    return NodeView.STUCK if node.trouble and node.state is NodeState.RUNNING else _NODE_VIEWS[node.state]


def situation_of(work: Work, observation: Observation, now: datetime, *, may_launch: bool) -> Situation:
    """Reduce what was observed to what the decision needs."""
    node = own_node(work, observation)
    return Situation(
        node=_node_view(node),
        volume=_volumes_view(work, observation, node, now),
        others=_others(work, observation, may_launch=may_launch),
        overdue=_overdue(work, node, now),
        gang=_gang_view(work, observation, node),
        may_launch=may_launch,
    )

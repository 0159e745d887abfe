"""Which of the nodes of one rank and one attempt counts: a launch that was repeated may have made two.

On EC2 a launch is repeated by its token, and the token is of the machine type: a process that does not know which type
of the job's list the one before it got may get another one, while what it looks for is not listed yet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from airflow_rankvol.backends.base import Backend
from airflow_rankvol.records import Node, NodeState, Observation


def chosen(nodes: Sequence[Node], volume_ids: Collection[str], observation: Observation) -> Node:
    """Return the one that counts, whoever asks and in whatever order they are listed.

    It is the one that was told to go or has reported, then the one that has the rank's volumes, then one that has not
    ended, then the oldest.

    Args:
        nodes: at least one.
    """
    if len(nodes) == 1:
        return nodes[0]

    def order(node: Node) -> tuple[bool, bool, bool, datetime, str]:
        holds = _holds(node, volume_ids, observation)
        return not _began(node), not holds, node.state is NodeState.ENDED, node.created_at, node.id

    return min(nodes, key=order)


def is_settled(node: Node, volume_ids: Collection[str], observation: Observation) -> bool:
    """Say whether the one that counts will stay that: it has, or had, the rank's volumes.

    Before, somebody who sees another node only may give them to that one, and whoever ends one of both may end the
    wrong one.
    """
    return _began(node) or _holds(node, volume_ids, observation)


def reported(backend: Backend, node: Node, nodes: Sequence[Node]) -> tuple[Node, str | None]:
    """Return the node that has ended with its report; of several, only the one that had the volumes has one.

    Args:
        node: the one that counts.
        nodes: all of the same rank and attempt.
    """
    for each in (node, *(other for other in nodes if other is not node and other.state is NodeState.ENDED)):
        raw = backend.read_report(each.id)
        if raw:
            return each, raw
    return node, None


def _began(node: Node) -> bool:
    return node.released or node.exit_code is not None


def _holds(node: Node, volume_ids: Collection[str], observation: Observation) -> bool:
    return any((volume := observation.volume(each)) and volume.attached_to == node.id for each in volume_ids)

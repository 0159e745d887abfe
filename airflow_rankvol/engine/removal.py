"""Deletions of nodes and volumes, each verified: what is still there is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airflow_rankvol.backends.base import Backend, Guard
from airflow_rankvol.engine.calls import in_parallel, patiently, wait_until
from airflow_rankvol.errors import BackendError
from airflow_rankvol.records import Node, NodeState, Observation, Volume

# EC2 takes up to a few minutes to terminate an instance; a volume is free only after that.
NODES_TIMEOUT_S = 600.0
VOLUMES_TIMEOUT_S = 180.0


def delete_nodes(
    backend: Backend,
    nodes: Sequence[Node],
    observe: Callable[[], Observation],
    problems: dict[str, str],
    *,
    timeout_s: float,
) -> list[str]:
    """Delete nodes of ours and verify that each is gone and holds no volume any more; return their labels.

    That a deletion was accepted is not enough: it may fail later, and a node that had ended before looks the same then.
    """

    def delete(node: Node) -> None:
        assert node.tags is not None  # noqa: S101 - callers pass only nodes that carry our tags
        guard = Guard(owner=node.tags.owner, key=node.tags.key)
        try:
            patiently(backend, backend.delete_node, node.id, guard)
        except BackendError as exc:
            problems[node.label] = str(exc)

    in_parallel(backend, nodes, delete)
    ids = {node.id for node in nodes if node.label not in problems}
    left: dict[str, str] = {}

    def gone() -> bool:
        left.clear()
        seen = patiently(backend, observe)
        for node in seen.nodes:
            if node.id in ids and (why := _stays(node, seen)):
                left[node.label] = f"{why} after {timeout_s:.0f} s"
        return not left

    if ids and not wait_until(backend, gone, timeout_s=timeout_s):
        problems.update(left)
    return [node.label for node in nodes if node.label not in problems]


def _stays(node: Node, observation: Observation) -> str:
    """Say what is left of a node; empty when nothing is: one that has ended lets go of its volumes a moment later."""
    if node.state is not NodeState.ENDED:
        return f"still {node.state}"
    if node.id in observation.holders:
        held = [volume.label for volume in observation.volumes if volume.attached_to == node.id]
        return f"ended, but still holds {', '.join(held)}"
    return "" if node.gone else "ended, but still there"


def delete_volumes(
    backend: Backend,
    doomed: Sequence[tuple[Volume, Guard]],
    observe: Callable[[], Observation],
    problems: dict[str, str],
    *,
    timeout_s: float,
) -> list[str]:
    """Delete volumes and verify that each is gone; return the names of those that are."""

    def delete(item: tuple[Volume, Guard]) -> None:
        volume, guard = item
        try:
            patiently(backend, backend.delete_volume, volume.id, guard)
        except BackendError as exc:
            problems[volume.label] = str(exc)

    in_parallel(backend, doomed, delete)
    ids = {volume.id: volume.label for volume, _ in doomed if volume.label not in problems}
    left: dict[str, str] = {}

    def gone() -> bool:
        left.clear()
        for volume in patiently(backend, observe).volumes:
            if volume.id in ids:
                left[ids[volume.id]] = f"still {volume.state} {timeout_s:.0f} s after its deletion was accepted"
        return not left

    if ids and not wait_until(backend, gone, timeout_s=timeout_s):
        problems.update(left)
    return [volume.name for volume, _ in doomed if volume.label not in problems]

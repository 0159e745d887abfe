"""Why spot nodes have ended: a zone's operations tell, which are asked in turns, as looks are made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from airflow_rankvol.backends._gcp_calls import Gce, all_of, any_of
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._gcp_view import REASONS, STEPS, Raw, id_of, is_spot, number_of, zone_of
from airflow_rankvol.errors import CredentialsRefused, FinalError
from airflow_rankvol.records import Node, NodeState

log = logging.getLogger(__name__)

#: As many lists are made in one turn, a zone's operations each: a look takes one of disks and one of instances.
LISTS_PER_TURN = 2
#: As many nodes are asked about with one list: other people's operations are not listed with theirs, so it is one page,
#: and its filter is a few thousand characters long.
NODES_PER_LIST = 100
_WANTED = any_of("operationType", [*REASONS])

Turn = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Reasons:
    """What is known of nodes' ends, and the asking for it."""

    gce: Gce
    memory: Memory

    def explain(self, nodes: Sequence[Node], turn: Turn) -> tuple[Node, ...]:
        """Return the nodes with the reasons why they ended; where those are not known, by a call for many of a zone.

        Args:
            turn: entered for no more calls than a look makes.
        """
        ended = {node.id: raw for node in nodes if (raw := self._ended(node)) is not None}
        parts = _parts(raw for raw in ended.values() if self._is_unknown(raw))
        for begin in range(0, len(parts), LISTS_PER_TURN):
            with turn():
                for part in parts[begin : begin + LISTS_PER_TURN]:
                    self._ask([raw for raw in part if self._is_unknown(raw)])  # another thread may have asked meanwhile
        return tuple(self._explained(node, ended.get(node.id)) for node in nodes)

    def _ended(self, node: Node) -> Raw | None:
        return self.memory.last_node(node.id) if node.state is NodeState.ENDED else None

    def _is_unknown(self, raw: Raw) -> bool:
        """Say whether nothing tells yet why a node has ended: neither a report, nor what this process did itself."""
        number = number_of(raw)
        return (
            is_spot(raw)
            and raw.get("status") in ("STOPPING", "TERMINATED")
            and self.memory.reason(number) is None
            and self.memory.known_report(number) is None
            and not self.memory.was_deleted(raw)
        )

    def _ask(self, raws: Sequence[Raw]) -> None:
        """Ask once why nodes have ended; where that is refused it stays unknown, for nothing but messages needs it."""
        if not raws:
            return
        wanted = {number_of(raw): raw for raw in raws}
        filter_ = all_of(_WANTED, any_of("targetId", [*wanted]))
        names = ", ".join(sorted(map(id_of, wanted.values())))
        try:
            found = self.gce.listed(f"zones/{zone_of(raws[0])}/operations", "observe", names, filter=filter_)
        except CredentialsRefused:
            raise  # no other call works either
        except FinalError as exc:
            log.warning("Why %s ended cannot be asked: %s", names, exc)
            for number in wanted:
                self.memory.ended_because(number, "")
            return
        told = {str(operation.get("targetId")): str(operation.get("operationType")) for operation in found}
        for number, raw in wanted.items():
            # While it goes, the operation may not be shown yet.
            if number in told or raw.get("status") == "TERMINATED":
                self.memory.ended_because(number, told.get(number, ""))

    def _explained(self, node: Node, raw: Raw | None) -> Node:
        why = self.memory.reason(number_of(raw)) if raw is not None else None
        return replace(node, reason=REASONS.get(why, ""), step=STEPS.get(why, "")) if why else node


def _parts(raws: Iterable[Raw]) -> list[list[Raw]]:
    """Return what one list each is made for: nodes of one zone, and not too many."""
    by_zone: dict[str, list[Raw]] = {}
    for raw in raws:
        by_zone.setdefault(zone_of(raw), []).append(raw)
    return [
        of_zone[begin : begin + NODES_PER_LIST]
        for _, of_zone in sorted(by_zone.items())
        for begin in range(0, len(of_zone), NODES_PER_LIST)
    ]

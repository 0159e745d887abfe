"""When the process of one rank of a gang launches the nodes of the others: each rank's own task comes first."""

from __future__ import annotations

from datetime import timedelta

from airflow_rankvol.backends.base import Backend
from airflow_rankvol.engine.decide import Action, decide
from airflow_rankvol.engine.views import gang_nodes, own_node, rank_of, situation_of
from airflow_rankvol.engine.work import Work
from airflow_rankvol.records import Node, Observation

#: As many poll intervals pass without a new node before the first process launches the nodes of others.
GRACE_POLLS = 2
#: No more than such a part of boot_timeout, which counts from the launch of a process' own node.
GRACE_PART = 0.05


class Peers:
    """The other ranks of one work's gang, as its process sees them come.

    Launching is idempotent, so this is about the number of calls alone: N tasks that begin together launch a node each,
    and where fewer can run, one of those that do launches what is missing.
    """

    def __init__(self, backend: Backend, work: Work) -> None:
        self._clock = backend.clock
        self._work = work
        self._grace = timedelta(seconds=min(GRACE_POLLS * backend.poll_interval_s, GRACE_PART * work.boot_timeout_s))
        self._known = 0
        self._quiet_since = self._clock.now()
        self._helped = False

    def come_first(self, observation: Observation) -> bool:
        """Say whether nodes are missing that the tasks of their ranks, or a process before this one, may launch yet."""
        nodes, now = gang_nodes(self._work, observation), self._clock.now()
        if len(nodes) > self._known:
            self._known, self._quiet_since = len(nodes), now
        own = own_node(self._work, observation)
        if not self._work.rendezvous or own is None:
            return False
        if decide(situation_of(self._work, observation, now, may_launch=True)) is not Action.LAUNCH:
            return False
        if now - self._quiet_since < self._grace * self._turns(own, nodes):
            return True
        self._helped, self._quiet_since = True, now
        return False

    def _turns(self, own: Node, nodes: tuple[Node, ...]) -> int:
        """Return for how many times the grace this process leaves it to others.

        The one whose node is the oldest comes first, and goes on without a pause. The others come one after the other
        and, the later, the more of them at once: who should have come first may be gone, and boot_timeout runs.
        """
        before = sum((node.created_at, rank_of(node)) < (own.created_at, rank_of(own)) for node in nodes)
        return before.bit_length() + (not self._helped)

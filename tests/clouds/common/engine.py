"""The engine on a cloud's backend, with nodes that do not really run: whole jobs, what they leave, what they cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.calls import PATIENCE_S
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.engine.step import mark_collected
from airflow_rankvol.errors import BackendError, RankFailed
from airflow_rankvol.records import Node, NodeState, Observation
from tests.clouds.common.lab import BackendLab
from tests.unit.engine.engine_kit import Rig

AnyLab = BackendLab[Any, Any, Any]


def left(lab: AnyLab) -> Observation:
    """Return what somebody who knows nothing of this process finds a while later."""
    lab.settle(120)
    found: Observation = lab.process().list_owned(Selector(lab.owner))
    return found


def collect(rig: Rig) -> None:
    """Mark every rank's results as stored, as gather does."""
    mark_collected(rig.backend, rig.gather_work(), range(rig.plan.job.nodes))


class EngineTests(ABC):
    """The tests of a backend, once it has said what its calls are called; they take the backend's ``lab``."""

    #: ``module:function`` by which a node succeeds, in the double.
    succeed: ClassVar[str]
    #: The calls that a rank costs, once each; the first creates its volume, the second its node.
    once: ClassVar[tuple[str, ...]]
    #: The kind of volumes in the double's state.
    volumes: ClassVar[str]
    #: The calls that tell a gang of three to start, and hand its volumes out.
    told: ClassVar[tuple[str, int]]
    #: What is said of a node whose host failed.
    lost_because: ClassVar[str]
    #: How much there is of two ranks a day later.
    after_a_day: ClassVar[int]
    #: What is said when only two volumes can be had.
    too_few: ClassVar[str]

    @abstractmethod
    def handle(self, node: Node) -> str:
        """Return what the double calls a node."""

    @abstractmethod
    def fail(self, lab: Any, node: Node, exit_code: int) -> None:
        """Let a node end by itself, with the report of a failure."""

    @abstractmethod
    def allow_two(self, lab: Any) -> None:
        """Let only two volumes be had."""

    def test_a_job_runs_and_leaves_nothing(self, lab: AnyLab) -> None:
        lab.double("end_nodes", script=self.succeed, after_s=30.0)
        rig = lab.rig(3)
        rig.create()
        outcomes = [rig.run_rank(rank) for rank in range(3)]
        assert [outcome.error for outcome in outcomes] == [None] * 3
        assert [outcome.result.output for outcome in outcomes] == [{"rank": rank} for rank in range(3)]
        collect(rig)
        assert rig.teardown().kept == ()
        assert left(lab) == Observation()
        assert {name: lab.count(name) for name in self.once} == dict.fromkeys(self.once, 3)
        assert lab.double.state()[self.volumes] == {}

    def test_a_rank_whose_node_was_lost_goes_on_with_the_same_volume(self, lab: AnyLab) -> None:
        rig = lab.rig(1)
        (slot,) = rig.create()
        work = rig.begin(0)
        assert rig.launch(work) is None
        rig.until_attached(work)
        (node,) = rig.observe().nodes
        lab.double("die", instance=self.handle(node))
        (lost,) = rig.until_end(work)
        assert isinstance(lost.error, RankFailed)
        assert self.lost_because in str(lost.error)
        lab.double("end_nodes", script=self.succeed, after_s=30.0)
        again = rig.run_rank(0, 2)
        assert again.error is None
        assert again.result.volumes[0].id == slot.volumes[0].id
        assert lab.count(self.once[0]) == 1

    @pytest.mark.parametrize("later_s", [120, 2 * 3600], ids=["at once", "later"])
    def test_another_run_with_the_same_id_computes_anew(self, lab: AnyLab, later_s: int) -> None:
        """A deleted run's ended nodes, listed or forgotten, answer neither for it nor in its place."""
        lab.double("end_nodes", script=self.succeed, after_s=30.0)
        nodes: list[set[str]] = []
        for command in ("first", "second"):
            rig = lab.rig(2, commands=[command])
            rig.backend = lab.process()
            rig.create()
            outcomes = [rig.run_rank(rank) for rank in range(2)]
            assert [outcome.error for outcome in outcomes] == [None, None]
            nodes.append({outcome.result.node_id for outcome in outcomes})
            collect(rig)
            assert rig.teardown().kept == ()
            lab.settle(later_s)
        assert len(nodes[0] | nodes[1]) == 4
        assert lab.count(self.once[1]) == 4

    @pytest.mark.parametrize("scope", ["run", "dag", "global"])
    @pytest.mark.parametrize("own_id", [True, False], ids=["runs", "runs of a deleted one's id"])
    def test_run_after_run_makes_its_volumes_in_its_first_try(self, lab: AnyLab, scope: str, own_id: bool) -> None:
        """Those of the runs before are gone; a cloud may still remember that it was asked for these."""
        lab.double("end_nodes", script=self.succeed, after_s=30.0)
        for turn in range(3):
            template = {"scope": scope, "reclaim": "delete"}
            rig = lab.rig(1, run=f"run-{turn if own_id else 0}", volume_template=template)
            rig.backend = lab.process()
            before = rig.backend.clock.now()
            rig.create()
            assert rig.backend.clock.now() - before < timedelta(seconds=PATIENCE_S + 20)
            assert rig.run_rank(0).error is None
            collect(rig)
            assert rig.teardown().kept == ()
            lab.settle(120)
        assert lab.double.state()[self.volumes] == {}

    def test_a_gang_starts_together_and_fails_as_one(self, lab: AnyLab) -> None:
        rig = lab.rig(3, rendezvous=True)
        rig.create()
        works = [rig.begin(rank) for rank in range(3)]
        for work in works:
            assert rig.launch(work) is None
        assert lab.count(self.once[1]) == 3
        for _ in range(100):
            if all(node.released for node in rig.observe().nodes):
                break
            assert [rig.step(work) for work in works] == [None] * 3
            lab.settle(1)
        action, times = self.told
        assert lab.count(action) == times
        nodes = {node.tags.rank: node for node in rig.observe().nodes if node.tags}
        self.fail(lab, nodes[1], 9)
        lab.settle()
        first, second, _ = rig.until_end(*works)
        assert "rank 1 ended with exit code 9" in str(first.error)
        assert second.result.exit_code == 9
        assert {node.state for node in rig.observe().nodes} == {NodeState.ENDED}
        rig.teardown()

    def test_an_interrupted_run_is_found_by_its_tags_alone(self, lab: AnyLab) -> None:
        rig = lab.rig(2)
        rig.create()
        for rank in range(2):
            assert rig.launch(rig.begin(rank)) is None
        elsewhere = lab.rig(2)
        elsewhere.backend = lab.process()
        lab.settle(25 * 3600)
        gone, problems = elsewhere.reap(RunState.ENDED)
        assert (len(gone), problems) == (self.after_a_day, {})
        assert left(lab) == Observation()
        assert elsewhere.reap(RunState.ENDED) == ([], {})

    def test_creation_is_rolled_back_as_a_whole(self, lab: AnyLab) -> None:
        self.allow_two(lab)
        with pytest.raises(BackendError, match=self.too_few):
            lab.rig(4).create()
        assert left(lab) == Observation()
        assert lab.double.state()[self.volumes] == {}

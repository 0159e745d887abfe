"""One run's whole way, stage by stage, with a journal of what is done: what Airflow's database is to its tasks.

Each stage stands for a task (or for the triggerer) in a process of its own: it begins with a backend that has seen
nothing. A stage that did not come to its end is done again at its next try; what comes after it, for the first time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.loop import Watch, launch
from airflow_rankvol.engine.reap import RunState, reap, survey
from airflow_rankvol.engine.step import Outcome, choose_attempt, mark_collected
from airflow_rankvol.engine.teardown import TeardownReport, teardown
from airflow_rankvol.engine.work import Work
from airflow_rankvol.records import Slot
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.common.client import Process
from tests.clouds.common.clocks import AnyClock, OnlyClock, RealClock
from tests.clouds.common.crash.ground import OWNER, Ground
from tests.unit.engine.engine_kit import Rig, a_plan

RANKS = 4
POLL_S = 5.0
#: What nodes that really run do; disks.py stands in for it otherwise.
COMMAND = 'echo "{\\"rank\\": $NODE_RANK}" | tee "$VOLUME_PATH/part" > "$RANKVOL_RESULT"'
GATHER = 'echo "[$(cat "$RANKS_PATH"/*/data_volume/part | paste -sd, -)]" > "$RANKVOL_RESULT"'


class Journal:
    """What was done, on disk: a process that dies leaves it whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def write(self, name: str, value: Any) -> None:
        self.entries[name] = value
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self.entries))
        os.replace(new, self._path)

    def begin(self, stage: str) -> int:
        """Return the number of this try of a stage."""
        number = int(self.entries.get(f"try of {stage}", 0)) + 1
        self.write(f"try of {stage}", number)
        return number


@dataclass
class Way:
    """The stages of a run on the double, with one volume and one node per rank.

    Args:
        real: whether the nodes really run.
    """

    ground: Ground
    double: Process
    journal: Journal
    real: bool = False
    clock: AnyClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = RealClock() if self.real else OnlyClock(self.double)
        self._connection = self.ground.connect(self.double, self.clock)

    @property
    def _poll_s(self) -> float:
        return 0.1 if self.real else POLL_S

    def go(self) -> None:
        """Do all stages that are not done."""
        self._stage("create", self._create)
        for rank in range(RANKS):
            self._stage(f"launch {rank}", partial(self._launch, rank))
        self._stage("wait", lambda _: self._wait())
        self._stage("launch gather", self._launch_gather)
        self._stage("gather", lambda _: self._gather())
        self._stage("mark", lambda _: self._mark())
        self._stage("teardown", lambda _: [kept.id for kept in self.teardown().kept])

    def teardown(self) -> TeardownReport:
        """Delete, as the last task does whatever became of the others."""
        rig = self._rig()
        done = self.journal.entries.get("gather") or {"collected": []}
        return teardown(cast("Any", rig.backend), rig.group, rig.plan, collected=done["collected"])

    def reap(self) -> None:
        """Remove what a run that has ended left behind."""
        selector = Selector(OWNER)
        backend = self._backend()
        _, problems = reap(backend, selector, survey(backend, selector, lambda _dag, _run: RunState.ENDED))
        assert problems == {}, problems

    def _stage(self, name: str, act: Callable[[int], Any]) -> None:
        if name not in self.journal.entries:
            self.journal.write(name, act(self.journal.begin(name)))

    def _backend(self) -> Any:
        return self.ground.backend(self._connection, self.clock, self._poll_s)

    def _rig(self) -> Rig:
        node = NodeTemplate(machine_type=self.ground.machine_type, zones=(self.ground.zone,))
        commands: dict[str, Any] = {}
        if self.real:
            commands = {"commands": [COMMAND], "gather": [GATHER], "volume_template": {"size": self.ground.size}}
        rig = Rig(self._backend(), a_plan(RANKS, owner=OWNER, node=node, **commands))
        rig.slots = [Slot.from_dict(raw) for raw in self.journal.entries.get("create", ())]
        return rig

    def _create(self, number: int) -> list[dict[str, Any]]:
        return [slot.to_dict() for slot in self._rig().create(number)]

    def _launch(self, rank: int, number: int) -> dict[str, Any]:
        rig = self._rig()
        seen = rig.observe()
        work = choose_attempt(rig.work(rank, number), seen, number)
        outcome = launch(rig.backend, work, rig.launcher(rank=rank), seen)
        assert outcome is None, outcome
        return work.to_dict()

    def _wait(self) -> bool:
        """Watch all ranks as one triggerer does; what has ended is stored at once."""
        works = [Work.from_dict(self.journal.entries[f"launch {rank}"]) for rank in range(RANKS)]
        self._watch([work for work in works if f"output {work.rank}" not in self.journal.entries])
        return True

    def _launch_gather(self, number: int) -> dict[str, Any]:
        rig = self._rig()
        work = rig.gather_work(number)
        outcome = rig.launch(work)
        assert outcome is None, outcome
        return work.to_dict()

    def _gather(self) -> dict[str, Any]:
        (outcome,) = self._watch([Work.from_dict(self.journal.entries["launch gather"])])
        assert outcome.report is not None
        return {"result": outcome.result.output, "collected": list(outcome.report.collected)}

    def _watch(self, works: list[Work]) -> list[Outcome]:
        rig = self._rig()
        ended: list[Outcome] = []
        watches = {work.rank: Watch(rig.backend, work) for work in works}
        for _ in range(1000):
            observation = rig.observe()
            for work in [*works]:
                outcome = watches[work.rank].step(observation)
                if outcome is None:
                    continue
                assert outcome.error is None, outcome.error
                self.journal.write(f"output {work.rank}", outcome.result.output)
                ended.append(outcome)
                works.remove(work)
            if not works:
                return ended
            self.clock.sleep(self._poll_s)
        raise AssertionError(f"they did not end: {works}")

    def _mark(self) -> bool:
        rig = self._rig()
        mark_collected(cast("Any", rig.backend), rig.gather_work(), self.journal.entries["gather"]["collected"])
        return True

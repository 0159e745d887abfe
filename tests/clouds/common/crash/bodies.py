"""The crash test's bodies: what has to hold on every cloud.

The points are the calls of a run that does not crash. After each crash the run goes on as Airflow lets it, with the
next try of the stage that died and with what comes after it; or only the teardown follows, and the reaper.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import pytest

from tests.clouds.common.crash.ground import Ground
from tests.clouds.common.crash.scene import Point, Scene, scene_of
from tests.clouds.common.crash.way import RANKS, Journal
from tests.clouds.nodes.host import why_not

DAY_S = 86_400.0


def retried(scene: Scene, point: Point, when: str) -> None:
    """After a crash the next try makes up for it: nothing is lost, made twice or left."""
    journal = scene.new()
    theirs = scene.strangers()
    scene.dies(point, when, journal)
    scene.nursery.begin(journal)
    assert scene.nursery.ends() == 0, f"the retry has failed; see {scene.folder}/nursery.log"
    done = Journal(journal).entries
    outputs = [done[f"output {rank}"] for rank in range(RANKS)]
    assert [output["rank"] for output in outputs] == list(range(RANKS))
    assert done["gather"]["result"] == outputs
    assert done["teardown"] == []
    assert scene.ours(theirs) == (set(), set())
    assert scene.made_twice() == {}
    assert scene.ground.bugs(scene.double) == []


def torn_down(scene: Scene, point: Point, when: str) -> None:
    """After a crash a teardown alone leaves what its report names, until that expires."""
    journal = scene.new()
    theirs = scene.strangers()
    scene.dies(point, when, journal)
    after = scene.after(journal)
    kept = after.teardown().kept
    assert scene.ours(theirs) == ({item.id for item in kept}, set())
    assert all(item.expiry for item in kept)
    after.clock.sleep(0)  # time has passed
    after.reap()
    assert scene.ours(theirs)[0] <= {item.id for item in kept}
    after.clock.sleep(2 * DAY_S)
    after.reap()
    assert scene.ours(theirs) == (set(), set())
    assert scene.made_twice() == {}
    assert scene.ground.bugs(scene.double) == []


FOLLOWED_BY = {"retry": retried, "teardown": torn_down}
Follow = Callable[[Scene, Point, str], None]


class CrashTests:
    """The tests of a cloud, once it has said what it is."""

    ground: ClassVar[Ground]
    #: How many calls of each action a run makes. Another number is no fault, but a change of cost that somebody should
    #: want.
    calls: ClassVar[Mapping[str, int]]
    #: `make test` tries the one in the middle of these actions' calls.
    sampled: ClassVar[tuple[str, ...]]

    @pytest.fixture(scope="class")
    @classmethod
    def scene(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
        with scene_of(cls.ground, tmp_path_factory.mktemp("crash")) as scene:
            yield scene

    @pytest.fixture(scope="class")
    @classmethod
    def real(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
        """The same with nodes that really run."""
        if why_not():
            pytest.skip(f"nodes of a double cannot run here: {why_not()}")
        with scene_of(cls.ground, tmp_path_factory.mktemp("crash"), real=True) as scene:
            yield scene

    @pytest.fixture(scope="class")
    @classmethod
    def points(cls, scene: Scene) -> list[Point]:
        """Return the calls of a run that nobody disturbs."""
        journal = scene.new()
        scene.nursery.begin(journal)
        assert scene.nursery.ends() == 0, (scene.folder / "nursery.log").read_text()[-2000:]
        seen: Counter[tuple[str, str]] = Counter()
        found = []
        for call in scene.double.calls():
            key = (call["service"], call["action"])
            seen[key] += 1
            found.append(Point(*key, seen[key]))
        return found

    def test_the_points_are_the_calls_of_a_whole_run(
        self, points: list[Point], capsys: pytest.CaptureFixture[str]
    ) -> None:
        counts = dict(Counter(point.action for point in points))
        with capsys.disabled():
            sys.stdout.write(f"\n{len(points)} calls of a run with {RANKS} ranks to crash at: {counts}\n")
        assert counts == self.calls

    @pytest.mark.parametrize("follow", FOLLOWED_BY.values(), ids=FOLLOWED_BY.keys())
    def test_after_a_crash_at_one_call_of_each_action_nothing_is_lost_or_left(
        self, scene: Scene, points: list[Point], follow: Follow
    ) -> None:
        for turn, point in enumerate(self._sample(points)):
            follow(scene, point, ("after", "before")[turn % 4 == 3])

    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("follow", FOLLOWED_BY.values(), ids=FOLLOWED_BY.keys())
    def test_after_a_crash_at_any_call_nothing_is_lost_or_left(
        self, scene: Scene, points: list[Point], follow: Follow, when: str
    ) -> None:
        failed = {}
        for point in points:
            try:
                follow(scene, point, when)
            except AssertionError as error:
                failed[str(point)] = str(error)[:500]
        assert failed == {}

    def _sample(self, points: list[Point]) -> list[Point]:
        """Return the middle one of the calls of each action that changes something, or that tells a result."""
        last = {point.action: point for point in points}
        return [Point(last[action].service, action, (last[action].nth + 1) // 2) for action in self.sampled]

"""The crash test's bodies: what has to hold on every cloud.

The points are the calls of a run that does not crash. After each crash the run goes on as Airflow lets it, with the
next try of the stage that died and with what comes after it; or only the teardown follows, and the reaper.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airflow_rankvol.engine.creation import EARLIER_TRIES
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
    _goes_on(scene, journal, theirs)


def retried_blindly(scene: Scene, point: Point) -> None:
    """The same while no listing shows what the one that died has made."""
    journal = scene.new(seen=False)
    theirs = scene.strangers()
    scene.dies(point, "after", journal)
    _goes_on(scene, journal, theirs, seen=False)


def retried_late(scene: Scene, point: Point) -> None:
    """The same when so many tries lie between that no token tells of what the first has made."""
    journal = scene.new()
    theirs = scene.strangers()
    scene.dies(point, "after", journal)
    Journal(journal).write("try of create", 1 + EARLIER_TRIES + 1)
    _goes_on(scene, journal, theirs)


def unanswered(scene: Scene, point: Point) -> None:
    """The answer to a call is lost, and no listing shows what it made: the same process asks again, and gets that."""
    journal = scene.new(seen=False)
    theirs = scene.strangers()
    scene.double.fault("lose", point.action, service=point.service, nth=point.nth, when="after")
    _goes_on(scene, journal, theirs)
    tokens = {call["token"] for call in scene.double.calls(point.action) if call["made"]}
    assert "" not in tokens
    assert len(tokens) == (RANKS if point.action == scene.ground.makers[0] else RANKS + 1)


def _goes_on(scene: Scene, journal: Path, theirs: dict[str, Any], *, seen: bool = True) -> None:
    """Let a run come to its end from where its journal stands."""
    scene.nursery.begin(journal)
    assert scene.nursery.ends() == 0, f"the run has failed; see {scene.folder}/nursery.log"
    done = Journal(journal).entries
    outputs = [done[f"output {rank}"] for rank in range(RANKS)]
    assert [output["rank"] for output in outputs] == list(range(RANKS))
    assert done["gather"]["result"] == outputs
    assert done["teardown"] == []
    assert scene.superfluous(journal, seen=seen) == []
    assert scene.ours(theirs) == (set(), set())
    _nothing_odd(scene, theirs)


def torn_down(scene: Scene, point: Point, when: str) -> None:
    """After a crash a teardown alone leaves what its report names, until that expires."""
    journal = scene.new()
    theirs = scene.strangers()
    scene.dies(point, when, journal)
    results, doubtful = scene.results(theirs)
    after = scene.after(journal)
    kept = after.teardown().kept
    ids = {item.id for item in kept}
    assert results - doubtful <= ids <= results | doubtful
    assert scene.superfluous(journal) == []
    assert scene.ours(theirs) == (ids, set())
    assert all(item.expiry for item in kept)
    after.clock.sleep(0)  # time has passed
    after.reap()
    assert scene.ours(theirs) == (ids, set())  # nobody can look into a volume from outside
    after.clock.sleep(2 * DAY_S)
    after.reap()
    assert scene.ours(theirs) == (set(), set())
    _nothing_odd(scene, theirs)


def _nothing_odd(scene: Scene, theirs: dict[str, Any]) -> None:
    assert scene.made_twice() == {}
    assert scene.touched(theirs) == []
    assert scene.ground.bugs(scene.double) == []


FOLLOWED_BY = {"retry": retried, "teardown": torn_down}
Follow = Callable[[Scene, Point, str], None]
#: What happens after the effect of a call that makes a volume (0) or a node (1).
MADE = {
    "volume unlisted": (retried_blindly, 0),
    "node unlisted": (retried_blindly, 1),
    "volume long ago": (retried_late, 0),
    "volume unanswered": (unanswered, 0),
    "node unanswered": (unanswered, 1),
}
Made = tuple[Callable[[Scene, Point], None], int]


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

    @pytest.mark.parametrize("made", MADE.values(), ids=MADE.keys())
    def test_what_a_call_has_made_is_not_made_again(self, scene: Scene, points: list[Point], made: Made) -> None:
        follow, kind = made
        follow(scene, self._middle(points, self.ground.makers[kind]))

    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    @pytest.mark.parametrize("made", MADE.values(), ids=MADE.keys())
    def test_what_any_call_has_made_is_not_made_again(self, scene: Scene, points: list[Point], made: Made) -> None:
        follow, kind = made
        failed = {}
        for point in points:
            if point.action == self.ground.makers[kind]:
                try:
                    follow(scene, point)
                except AssertionError as error:
                    failed[str(point)] = str(error)[:500]
        assert failed == {}

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
        return [self._middle(points, action) for action in self.sampled]

    @staticmethod
    def _middle(points: list[Point], action: str) -> Point:
        *_, last = (point for point in points if point.action == action)
        return Point(last.service, action, (last.nth + 1) // 2)

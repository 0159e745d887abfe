"""The process dies by SIGKILL at any call of a run with four ranks, before or after the call's effect.

The points are the calls of a run that does not crash. After each crash the run goes on as Airflow lets it, with the
next try of the stage that died and with what comes after it; or only the teardown follows, and the reaper.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clouds.aws.client import Double
from tests.clouds.aws.crash.scene import Nursery, Point, Scene, made_twice, ours, strangers
from tests.clouds.aws.crash.way import RANKS, Journal
from tests.clouds.nodes.host import why_not

DAY_S = 86_400.0
#: How many calls a run makes. Another number is no fault, but a change of cost that somebody should want.
CALLS = 91
#: `make test` tries the one in the middle of each action's calls.
SAMPLED = ("CreateVolume", "CreateTags", "RunInstances", "AttachVolume", "GetConsoleOutput", "DeleteVolume")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("crash")
    with Double(folder / "double") as double:
        nursery = Nursery(double, folder / "nursery.log")
        yield Scene(double, nursery, folder)
        nursery.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The same with nodes that really run."""
    if why_not():
        pytest.skip(f"nodes of EC2's double cannot run here: {why_not()}")
    folder = tmp_path_factory.mktemp("crash")
    with Double(folder / "double", nodes=True) as double:
        nursery = Nursery(double, folder / "nursery.log", "--real")
        yield Scene(double, nursery, folder, real=True)
        nursery.close()


@pytest.fixture(scope="module")
def points(scene: Scene) -> list[Point]:
    """Return the calls of a run that nobody disturbs."""
    journal = scene.new()
    scene.nursery.begin(journal)
    assert scene.nursery.ends() == 0
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for call in scene.double.calls():
        key = (call["service"], call["action"])
        seen[key] += 1
        found.append(Point(*key, seen[key]))
    return found


def retried(scene: Scene, point: Point, when: str) -> None:
    journal = scene.new()
    theirs = strangers(scene)
    scene.dies(point, when, journal)
    scene.nursery.begin(journal)
    assert scene.nursery.ends() == 0, f"the retry has failed; see {scene.folder}/nursery.log"
    done = Journal(journal).entries
    outputs = [done[f"output {rank}"] for rank in range(RANKS)]
    assert [output["rank"] for output in outputs] == list(range(RANKS))
    assert done["gather"]["result"] == outputs
    assert done["teardown"] == []
    assert ours(scene.double, theirs) == (set(), set())
    assert made_twice(scene.double) == {}


def torn_down(scene: Scene, point: Point, when: str) -> None:
    journal = scene.new()
    theirs = strangers(scene)
    scene.dies(point, when, journal)
    after = scene.after(journal)
    kept = after.teardown().kept
    assert ours(scene.double, theirs) == ({item.id for item in kept}, set())
    assert all(item.expiry for item in kept)
    after.clock.sleep(0)  # time has passed
    after.reap()
    assert ours(scene.double, theirs)[0] <= {item.id for item in kept}
    after.clock.sleep(2 * DAY_S)
    after.reap()
    assert ours(scene.double, theirs) == (set(), set())
    assert made_twice(scene.double) == {}


def sample(points: list[Point]) -> list[Point]:
    """Return the middle one of the calls of each action that changes something, or that tells a result."""
    last = {point.action: point for point in points}
    return [Point(last[action].service, action, (last[action].nth + 1) // 2) for action in SAMPLED]


FOLLOWED_BY = {"retry": retried, "teardown": torn_down}


def test_the_points_are_the_calls_of_a_whole_run(points: list[Point], capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counter(point.action for point in points)
    with capsys.disabled():
        sys.stdout.write(f"\n{len(points)} calls of a run with {RANKS} ranks to crash at: {dict(counts)}\n")
    assert len(points) == CALLS
    assert {action: counts[action] for action in ("CreateVolume", "DeleteVolume")} == {
        "CreateVolume": RANKS,
        "DeleteVolume": RANKS,
    }
    assert (counts["RunInstances"], counts["AttachVolume"], counts["GetConsoleOutput"]) == (5, 8, 5)


@pytest.mark.parametrize("follow", FOLLOWED_BY.values(), ids=FOLLOWED_BY.keys())
def test_after_a_crash_at_one_call_of_each_action_nothing_is_lost_or_left(
    scene: Scene, points: list[Point], follow: Any
) -> None:
    for turn, point in enumerate(sample(points)):
        follow(scene, point, ("after", "before")[turn % 4 == 3])


@pytest.mark.root
@pytest.mark.parametrize(
    ("point", "when"),
    [
        (Point("ec2", "AttachVolume", 3), "after"),
        pytest.param(Point("ec2", "RunInstances", 2), "after", marks=pytest.mark.slow),
        pytest.param(Point("ec2", "GetConsoleOutput", 3), "before", marks=pytest.mark.slow),
        pytest.param(Point("ec2", "AttachVolume", 6), "after", marks=pytest.mark.slow),
        pytest.param(Point("ec2", "DeleteVolume", 2), "after", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_after_a_crash_real_nodes_go_on_with_what_lies_on_their_volumes(real: Scene, point: Point, when: str) -> None:
    retried(real, point, when)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("follow", FOLLOWED_BY.values(), ids=FOLLOWED_BY.keys())
def test_after_a_crash_at_any_call_nothing_is_lost_or_left(
    scene: Scene, points: list[Point], follow: Any, when: str
) -> None:
    failed = {}
    for point in points:
        try:
            follow(scene, point, when)
        except AssertionError as error:
            failed[str(point)] = str(error)[:500]
    assert failed == {}

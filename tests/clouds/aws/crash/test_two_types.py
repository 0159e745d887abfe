"""The process dies, or gets no answer, at a launch on the second machine type of a list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clouds.aws.crash.two_types import GROUND
from tests.clouds.common.crash.bodies import FOLLOWED_BY, Follow, retried_blindly, unanswered
from tests.clouds.common.crash.scene import Point, Scene, scene_of

#: Rank 0's on the second type: the first is refused before.
SECOND = Point("ec2", "RunInstances", 2)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_of(GROUND, tmp_path_factory.mktemp("crash")) as scene:
        yield scene


def test_a_launch_without_an_answer_is_repeated_on_the_same_type(scene: Scene) -> None:
    unanswered(scene, SECOND)
    assert scene.double.calls("RunInstances")[1]["params"]["InstanceType"] == "m6i.large"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("follow", FOLLOWED_BY.values(), ids=FOLLOWED_BY.keys())
def test_after_a_crash_at_the_second_type_nothing_is_lost_or_left(scene: Scene, follow: Follow, when: str) -> None:
    follow(scene, SECOND, when)


def test_after_a_crash_that_no_listing_shows_yet_the_next_try_has_one_node(scene: Scene) -> None:
    retried_blindly(scene, SECOND)

"""EC2 cannot compare and set a tag: a claim is a look, the tags, and one more look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.errors import NotReady, VolumeConflict
from tests.clouds.aws.backend.kit import Lab

MINE = {"rankvol:used_by": "mine"}


@pytest.fixture
def right_after_tagging(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens once tags were set, before anything else is asked."""
    happens: list[Callable[[], object]] = []
    call = Ec2.call

    def and_then(self: Ec2, action: str, *args: Any, **parameters: Any) -> Any:
        answer = call(self, action, *args, **parameters)
        while action == "CreateTags" and happens:
            happens.pop()()
        return answer

    monkeypatch.setattr(Ec2, "call", and_then)
    return happens


def user_of(lab: Lab, volume_id: str) -> str:
    lab.settle()
    found = lab.process().observe(lab.group).volume(volume_id)
    assert found is not None
    assert found.tags is not None
    return found.tags.used_by


def test_a_claim_is_refused_where_another_run_was_quicker(lab: Lab) -> None:
    ids = [lab.volume(rank).id for rank in range(2)]
    second = lab.process()
    second.observe(lab.group)
    lab.backend.tag_volumes(ids, {"rankvol:used_by": "theirs"}, held_by="")
    lab.settle()
    with pytest.raises(VolumeConflict, match="another run was handed it"):
        second.tag_volumes(ids, MINE, held_by="")
    assert [user_of(lab, volume_id) for volume_id in ids] == ["theirs", "theirs"]
    second.tag_volumes(ids, MINE, held_by="theirs")
    assert [user_of(lab, volume_id) for volume_id in ids] == ["mine", "mine"]


def test_a_claim_is_lost_to_who_tags_right_after(lab: Lab, right_after_tagging: list[Callable[[], object]]) -> None:
    """Both have looked before; this one sees the other's tags, and the other one its own."""
    made = lab.volume()

    def other() -> None:
        tags = [{"Key": "rankvol:used_by", "Value": "theirs"}]
        lab.double.boto3("ec2").create_tags(Resources=[made.id], Tags=tags)
        lab.settle()

    right_after_tagging.append(other)
    with pytest.raises(VolumeConflict, match="another run was handed it"):
        lab.backend.tag_volumes([made.id], MINE, held_by="")
    assert user_of(lab, made.id) == "theirs"


def test_a_claim_fails_where_a_volume_goes_right_after(
    lab: Lab, right_after_tagging: list[Callable[[], object]]
) -> None:
    ids = [lab.volume(rank).id for rank in range(2)]

    def other() -> None:
        lab.double.boto3("ec2").delete_volume(VolumeId=ids[1])
        lab.settle()

    right_after_tagging.append(other)
    with pytest.raises(VolumeConflict, match="gone, or being deleted"):
        lab.backend.tag_volumes(ids, MINE, held_by="")


def test_a_claim_of_what_is_not_shown_yet_is_tried_again(lab: Lab) -> None:
    lab.double.settings(visible_s=20.0)
    made = lab.backend.create_volume(lab.request())
    with pytest.raises(NotReady, match="does not show it yet"):
        lab.backend.tag_volumes([made.id], MINE, held_by="")
    lab.settle(20.0)
    lab.backend.tag_volumes([made.id], MINE, held_by="")
    lab.settle(20.0)
    assert user_of(lab, made.id) == "mine"

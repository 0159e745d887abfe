"""EC2 cannot compare and set a tag: a claim is a look, the tags, and one more look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.engine import provision as provisioning
from airflow_rankvol.engine.marks import claim
from airflow_rankvol.errors import NotReady, VolumeConflict
from tests.clouds.aws.backend.kit import Lab
from tests.unit.engine.engine_kit import Rig

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
    (raw,) = lab.double.boto3("ec2").describe_volumes(VolumeIds=[volume_id])["Volumes"]
    return str({tag["Key"]: tag["Value"] for tag in raw["Tags"]}["rankvol:used_by"])


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


@pytest.mark.parametrize("answer", ["newer", "older"])
def test_a_run_gets_what_the_run_before_it_has_just_given_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """A DAG's runs follow each other within seconds; to a claim EC2 may show newer tags than before it, or older."""
    first = lab.rig(2, volume_template={"scope": "dag"}, run="first")
    first.create()
    lab.settle(1000.0)
    first.teardown()
    second = Rig(cast("Any", lab.process()), lab.rig(2, volume_template={"scope": "dag"}, run="second").plan)
    # How old tags have to be so that EC2 shows them: first to the look, then to each claim.
    lags = iter([500.0, 0.0, 0.0] if answer == "newer" else [0.0, 500.0, 0.0])
    lab.double.settings(visible_s=next(lags, 0.0))
    seen: list[set[str]] = []

    def in_between(*args: Any) -> None:
        seen.append({volume.tags.used_by for volume, _ in args[2].values()})
        lab.double.settings(visible_s=next(lags, 0.0))
        claim(*args)

    monkeypatch.setattr(provisioning, "claim", in_between)
    made = second.create()
    assert {user_of(lab, volume.id) for slot in made for volume in slot.volumes} == {second.group.key}
    assert seen[0] == ({first.group.key} if answer == "newer" else {""})
    assert seen[-1] == {""}
    assert len(seen) > 1


def test_a_run_does_not_get_what_a_run_that_lives_has_just_got(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes too late is told by whom it is held, and does not wait for it."""
    old = lab.rig(1, volume_template={"scope": "dag"}, run="first")
    ((made,),) = [slot.volumes for slot in old.create()]
    old.teardown()
    lab.settle(20.0)
    rig = lab.rig(1, volume_template={"scope": "dag"}, run="second")
    began = lab.backend.clock.now()

    def in_between(*args: Any) -> None:
        theirs = {"rankvol:used_by": "theirs", "rankvol:used_dag": "dag", "rankvol:used_run": "third"}
        lab.process().tag_volumes([made.id], theirs, held_by="")
        lab.settle()
        claim(*args)

    monkeypatch.setattr(provisioning, "claim", in_between)
    with pytest.raises(VolumeConflict, match="in use by run third of DAG dag, which lives"):
        provisioning.provision(rig.backend, rig.plan, generation=1, lives=lambda _dag, run: run == "third")
    assert (lab.backend.clock.now() - began).total_seconds() < 60
    assert user_of(lab, made.id) == "theirs"


def test_a_claim_of_what_is_not_shown_yet_is_tried_again(lab: Lab) -> None:
    lab.double.settings(visible_s=20.0)
    made = lab.backend.create_volume(lab.request())
    with pytest.raises(NotReady, match="does not show it yet"):
        lab.backend.tag_volumes([made.id], MINE, held_by="")
    lab.settle(20.0)
    lab.backend.tag_volumes([made.id], MINE, held_by="")
    lab.settle(20.0)
    assert user_of(lab, made.id) == "mine"

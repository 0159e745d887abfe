"""Volumes are made once however many tries of create_volumes there were, and whatever each of them had made."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from airflow_rankvol.engine import provision
from airflow_rankvol.engine.creation import EARLIER_TRIES, Creation
from airflow_rankvol.errors import AuthDenied
from tests.clouds.aws.backend.kit import ZONE, Lab
from tests.unit.engine.engine_kit import Rig


class Killed(BaseException):
    """What SIGKILL is here."""


def create(lab: Lab, rig: Rig, generation: int) -> None:
    """Create in a process of its own."""
    process: Any = lab.process()
    rig.backend = process
    rig.create(generation)


def killed_create(lab: Lab, rig: Rig, generation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create in a process that is killed once the volumes are made, and rolls nothing back."""

    def die(*_args: object, **_kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(provision, "_verify_available", die)
        patched.setattr(Creation, "roll_back", lambda *_args, **_kwargs: None)
        with pytest.raises(Killed):
            create(lab, rig, generation)


def volumes(lab: Lab) -> list[dict[str, Any]]:
    return list(lab.double.state()["volumes"].values())


@pytest.mark.parametrize("killed", range(1, EARLIER_TRIES + 4))
def test_a_try_after_a_killed_one_makes_nothing_twice(lab: Lab, monkeypatch: pytest.MonkeyPatch, killed: int) -> None:
    """Each of the tries before made nothing, so the killed one took the oldest token that it knew."""
    lab.double.settings(visible_s=20.0)
    rig = lab.rig(2)
    lab.double("deny", actions=["ec2:CreateVolume"])
    for generation in range(1, killed):
        with pytest.raises(AuthDenied):
            create(lab, rig, generation)
        lab.settle(3600)
    lab.double("deny", actions=[])

    killed_create(lab, rig, killed, monkeypatch)
    lab.settle(5)
    create(lab, rig, killed + 1)
    lab.settle()
    assert set(Counter(volume["Tags"]["Name"] for volume in volumes(lab)).values()) == {1}
    assert {volume["Tags"]["rankvol:attempt"] for volume in volumes(lab)} == {str(killed + 1)}


@pytest.mark.parametrize("order", [1, -1])
def test_a_volume_that_is_being_deleted_is_not_what_its_name_stands_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    """However EC2 lists them."""
    kind = type(lab.backend.ec2)
    listed = kind.volumes
    monkeypatch.setattr(kind, "volumes", lambda *args: listed(*args)[::order])
    rig = lab.rig(1)
    rig.create(1)
    (going,) = volumes(lab)
    lab.double.settings(delete_volume_s=600.0)
    ec2 = lab.double.boto3("ec2")
    ec2.delete_volume(VolumeId=rig.slots[0].volumes[0].id)
    tags = [{"Key": key, "Value": value} for key, value in going["Tags"].items()]
    specification = {"TagSpecifications": [{"ResourceType": "volume", "Tags": tags}]}
    new = ec2.create_volume(AvailabilityZone=ZONE, Size=10, VolumeType="gp3", **specification)["VolumeId"]
    lab.settle()
    create(lab, rig, 2)
    assert rig.slots[0].volumes[0].id == new


def test_of_two_volumes_of_a_name_that_which_a_rank_has_had_counts(lab: Lab) -> None:
    """However EC2 lists them: on the other one nothing can be."""
    rig = lab.rig(1)
    rig.create(1)
    (had,) = volumes(lab)
    twin = {**had["Tags"], "rankvol:attempt": "0"}
    tags = [{"Key": key, "Value": value} for key, value in twin.items()]
    specification = {"TagSpecifications": [{"ResourceType": "volume", "Tags": tags}]}
    for _ in range(3):  # listed before or after it
        lab.double.boto3("ec2").create_volume(AvailabilityZone=ZONE, Size=10, VolumeType="gp3", **specification)
    lab.settle(90)
    id_of_it = rig.slots[0].volumes[0].id
    create(lab, rig, 2)
    assert rig.slots[0].volumes[0].id == id_of_it

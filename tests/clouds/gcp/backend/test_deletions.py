"""Deletions of persistent disks: verified, only of ours, never of what took the place of ours."""

from __future__ import annotations

import pytest

from airflow_rankvol.backends.base import Guard
from airflow_rankvol.errors import (
    NotOurs,
    RetryableError,
    VolumeBusy,
)
from airflow_rankvol.records import VolumeState
from tests.clouds.gcp.backend.kit import ZONE, Lab


def test_deleting_is_verified_by_absence(lab: Lab) -> None:
    made = lab.volume()
    lab.backend.delete_volume(made.id, lab.guard)
    lab.settle()
    lab.backend.delete_volume(made.id, lab.guard)
    assert lab.see().volumes == ()
    assert lab.count("disks.delete") == 1


def test_a_volume_in_use_is_busy(lab: Lab) -> None:
    made = lab.volume()
    lab.node(made)
    with pytest.raises(VolumeBusy, match="already being used"):
        lab.backend.delete_volume(made.id, lab.guard)


@pytest.mark.parametrize(
    "guard", [Guard("somebody", "0a1b2c3d"), Guard("lab", "another"), Guard("", "", "data-1")], ids=repr
)
@pytest.mark.parametrize("known", [True, False])
def test_a_foreign_volume_is_not_deleted(lab: Lab, guard: Guard, known: bool) -> None:
    made = lab.volume()
    with pytest.raises(NotOurs, match="not touched"):
        (lab.backend if known else lab.process()).delete_volume(made.id, guard)
    assert lab.count("disks.delete") == 0


def test_a_volume_that_took_the_name_of_ours_is_not_deleted(lab: Lab) -> None:
    """Names come again, so nobody relies on what was seen under a name that another may have."""
    made = lab.volume(name="data-0")
    lab.see()
    lab.double.rest().delete(f"zones/{ZONE}/disks/data-0")
    lab.settle()
    lab.foreign_disk("data-0")
    with pytest.raises(NotOurs):
        lab.backend.delete_volume(made.id, lab.guard)


@pytest.mark.parametrize("labels", [{}, {"team": "etl"}], ids=["none are left", "those of others"])
def test_a_volume_whose_labels_were_taken_meanwhile_is_nobodys(lab: Lab, labels: dict[str, str]) -> None:
    """A moment ago it was ours; nothing deletes it any more."""
    made = lab.volume()
    lab.see()
    body = {"labels": labels, "labelFingerprint": lab.disk(made)["labelFingerprint"]}
    lab.double.rest().post(f"zones/{ZONE}/disks/{made.name}/setLabels", body)
    lab.settle()
    with pytest.raises(NotOurs, match="no tags of ours"):
        lab.backend.delete_volume(made.id, lab.guard)
    assert lab.count("disks.delete") == 0


@pytest.mark.parametrize("theirs", [False, True], ids=["of the same key", "of another key"])
def test_a_deletion_whose_answer_was_lost_does_not_take_the_next_disk_of_that_name(lab: Lab, theirs: bool) -> None:
    made = lab.volume(name="data-0")
    lab.see()
    lab.double.fault("lose", "disks.delete", when="after")
    with pytest.raises(RetryableError, match="no answer"):
        lab.backend.delete_volume(made.id, lab.guard)
    lab.settle()
    other = lab.other() if theirs else lab
    other.process().create_volume(other.request(name="data-0", token="of another process"))
    if theirs:
        with pytest.raises(NotOurs):
            lab.backend.delete_volume(made.id, lab.guard)
    else:
        lab.backend.delete_volume(made.id, lab.guard)
    lab.settle()
    assert list(lab.double.state()["disks"]) == [made.id]


def test_a_deletion_that_is_sent_again_is_the_same_operation(lab: Lab) -> None:
    """Also from another process; that of the next disk of the name is another one."""
    ids = set()
    for token in ("first", "second"):
        made = lab.volume(token=token)
        lab.double.fault("lose", "disks.delete", when="before", times=2)
        for backend in (lab.backend, lab.process()):
            with pytest.raises(RetryableError, match="no answer"):
                backend.delete_volume(made.id, lab.guard)
        ids |= {call["token"] for call in lab.double.calls("disks.delete")}
        lab.backend.delete_volume(made.id, lab.guard)
        lab.settle()
    assert len(ids) == 2
    assert lab.count("disks.delete") == 6


@pytest.mark.parametrize("other_process", [False, True])
def test_a_deletion_that_failed_late_is_begun_anew(lab: Lab, other_process: bool) -> None:
    """Its requestId is answered with that failure from then on."""
    made = lab.volume()
    lab.double("fail_later", action="disks.delete", code="INTERNAL_ERROR")
    lab.backend.delete_volume(made.id, lab.guard)
    lab.settle()
    assert lab.seen_volume(made).state is VolumeState.AVAILABLE
    (lab.process() if other_process else lab.backend).delete_volume(made.id, lab.guard)
    lab.settle()
    assert lab.see().volumes == ()


def test_labels_that_somebody_has_changed_are_not_ours(lab: Lab) -> None:
    """The description says whose it is, and cannot be changed."""
    made = lab.volume()
    raw = lab.disk(made)
    body = {"labels": {**raw["labels"], "rankvol-run": "run-9"}, "labelFingerprint": raw["labelFingerprint"]}
    lab.double.rest().post(f"zones/{ZONE}/disks/{made.name}/setLabels", body)
    lab.settle()
    with pytest.raises(NotOurs):
        lab.process().delete_volume(made.id, lab.guard)

"""What Compute Engine answers, or does not: each becomes one error of ours, and a zone that is silent is not empty."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.errors import (
    AuthDenied,
    BackendError,
    FinalError,
    NotReady,
    QuotaExceeded,
    RetryableError,
    Throttled,
)
from airflow_rankvol.records import VolumeState
from tests.clouds.gcp.backend.kit import OTHER_ZONE, ZONE, Lab, lab_on


def test_a_zone_that_cannot_be_reached_is_not_taken_for_empty(lab: Lab) -> None:
    lab.volume()
    lab.double("unreachable", zone=ZONE)
    for process in (lab.backend, lab.process()):
        with pytest.raises(RetryableError, match=ZONE):
            process.observe(lab.group)


def test_a_zone_that_cannot_be_reached_does_not_stop_groups_that_lie_elsewhere(lab: Lab) -> None:
    """Whoever has seen the group as a whole knows where it lies; whoever has not waits."""
    made = lab.volume()
    lab.see()
    lab.double("unreachable", zone=OTHER_ZONE)
    assert lab.seen_volume(made).id == made.id
    with pytest.raises(RetryableError, match=OTHER_ZONE):
        lab.process().observe(lab.group)


@pytest.mark.parametrize("code", ["UNREACHABLE", "LIST_OVERHEAD_QUOTA_EXCEED", "PARTIAL_SUCCESS"])
@pytest.mark.parametrize("scope", [f"zones/{ZONE}", ""])
def test_a_list_that_says_that_it_is_not_whole_is_not_taken_for_whole(lab: Lab, code: str, scope: str) -> None:
    """A teardown would have succeeded, with all volumes and nodes still there."""
    rig = lab.rig(2)
    rig.create()
    rig.start(0)
    rig.backend, before = lab.process(), lab.double.state()  # type: ignore[assignment]
    lab.double("warn", code=code, scope=scope)
    for look in (rig.observe, rig.teardown, lambda: lab.process().list_owned(Selector(owner="lab"))):
        with pytest.raises(RetryableError, match=rf"{scope.removeprefix('zones/') or 'the whole list'} \({code}\)"):
            look()
    assert all(lab.double.state()[kind].keys() == before[kind].keys() for kind in ("disks", "instances"))
    lab.double("warn", code="", scope=scope)
    rig.teardown()
    assert lab.double.state()["instances"] == {}


def test_a_list_that_is_not_whole_names_the_quota(lab: Lab) -> None:
    lab.double("warn", code="LIST_OVERHEAD_QUOTA_EXCEED", scope=f"zones/{ZONE}")
    with pytest.raises(RetryableError, match="Filtered list cost overhead"):
        lab.see()


def test_a_list_that_is_not_whole_in_a_zone_does_not_stop_groups_that_lie_elsewhere(lab: Lab) -> None:
    """One that does not tell where stops them all."""
    made = lab.volume()
    lab.see()
    lab.double("warn", code="PARTIAL_SUCCESS", scope=f"zones/{OTHER_ZONE}")
    assert lab.seen_volume(made).id == made.id
    lab.double("warn", code="PARTIAL_SUCCESS")
    with pytest.raises(RetryableError, match="the whole list"):
        lab.see()


@pytest.mark.parametrize("code", ["UNREACHABLE", "PARTIAL_SUCCESS"])
def test_a_region_counts_only_where_its_own_disks_do(lab: Lab, code: str) -> None:
    """They are asked for before a job's volumes are made, whose names they may have."""
    made = lab.volume()
    lab.double("warn", code=code, scope="regions/us-central1")
    assert [volume.id for volume in lab.process().observe(lab.group).volumes] == [made.id]
    with pytest.raises(RetryableError, match=rf"us-central1 \({code}\)"):
        lab.process().check(lab.rig(1).plan)


def test_a_throttled_wait_does_not_hide_why_a_disk_was_not_made(lab: Lab) -> None:
    """The operation goes on meanwhile, and the same requestId leads to it."""
    lab.double.settings(quotas={"SSD_TOTAL_GB": 15.0}, create_disk_s=3.0)
    lab.double.fault("throttle", action="zoneOperations.wait")
    with pytest.raises(Throttled):
        lab.volume(size="20GB")
    with pytest.raises(QuotaExceeded, match="QUOTA_EXCEEDED"):
        lab.volume(size="20GB")


def test_who_made_a_volume_elsewhere_has_not_seen_the_group_as_a_whole(lab: Lab) -> None:
    lab.volume(1, OTHER_ZONE)
    process = lab.process()
    process.create_volume(lab.request(0))
    lab.double("unreachable", zone=OTHER_ZONE)
    with pytest.raises(RetryableError, match=OTHER_ZONE):
        process.observe(lab.group)


def test_a_zone_counts_where_the_answer_to_a_creation_was_lost(lab: Lab) -> None:
    """Nothing of it is known, and it may be there."""
    lab.volume(0)
    lab.see()
    lab.double.fault("lose", "disks.insert", when="after")
    with pytest.raises(RetryableError):
        lab.volume(1, OTHER_ZONE)
    lab.double("unreachable", zone=OTHER_ZONE)
    with pytest.raises(RetryableError, match=OTHER_ZONE):
        lab.see()


def test_a_zone_counts_where_the_answer_to_a_launch_was_lost(lab: Lab) -> None:
    lab.volume(0)
    lab.see()
    lab.double.fault("lose", "instances.insert", when="after")
    with pytest.raises(RetryableError):
        lab.node(zone=OTHER_ZONE)
    lab.double("unreachable", zone=OTHER_ZONE)
    with pytest.raises(RetryableError, match=OTHER_ZONE):
        lab.see()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "throttle"}, Throttled),
        ({"kind": "error"}, RetryableError),
        ({"kind": "lose"}, RetryableError),
        ({"kind": "error", "code": "somethingNew", "status": 400}, FinalError),
        ({"kind": "error", "code": "somethingNew", "status": 503}, RetryableError),
        ({"kind": "error", "code": "somethingNew", "status": 403}, AuthDenied),
    ],
    ids=str,
)
def test_every_answer_becomes_an_error_of_ours(lab: Lab, fault: dict[str, Any], expected: type[BackendError]) -> None:
    lab.double.fault(action="disks.aggregatedList", **fault)
    with pytest.raises(BackendError) as caught:
        lab.see()
    assert type(caught.value) is expected
    assert caught.value.verb == "observe"


def test_a_missing_right_is_named(lab: Lab) -> None:
    lab.double("deny", actions=["compute.disks.create"])
    with pytest.raises(AuthDenied, match=r"right compute\.disks\.create; docs/gcp-role\.yaml"):
        lab.volume()


def test_credentials_that_are_no_good_are_told(lab: Lab) -> None:
    lab.double("credentials", state="invalid")
    with pytest.raises(AuthDenied, match="credentials of the connection"):
        lab.see()


def test_a_connection_that_broke_is_tried_once_more(lab: Lab) -> None:
    """An idle connection may be closed at any time; a call with a requestId does nothing twice."""
    patient = lab_on(lab.double, num_retries=5)
    lab.double.fault("lose", "disks.insert", when="after")
    assert patient.volume().state is VolumeState.AVAILABLE
    lab.double.fault("lose", "disks.aggregatedList")
    assert len(patient.see().volumes) == 1
    assert len(lab.double.state()["disks"]) == 1


def test_an_operation_that_goes_on_is_asked_again(lab: Lab) -> None:
    lab.double.freeze()
    with pytest.raises(NotReady, match="asked again"):
        lab.volume()
    lab.settle()
    assert lab.volume().state is VolumeState.AVAILABLE
    assert len(lab.double.state()["disks"]) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_launch_whose_answer_was_lost_is_the_same_on_another_machine_type(lab: Lab, known: bool) -> None:
    """Its name is unique in its zone, so whoever asks for the first type of the list again gets what there is."""
    lab.double("no_capacity", type="n2-standard-2", times=1)
    request = lab.node_request(lab.volume(), machine_type="n2-standard-2, n2-standard-4")
    lab.double.fault("lose", "instances.insert", when="after", nth=2)
    with pytest.raises(RetryableError):
        lab.backend.create_node(request)
    made = (lab.backend if known else lab.process()).create_node(request)
    lab.settle()
    assert [node.id for node in lab.see().nodes] == [made.id]
    (launched,) = lab.double.state()["instances"].values()
    assert launched["machineType"].endswith("/n2-standard-4")

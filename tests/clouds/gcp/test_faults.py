"""Scripted faults, request quotas, rights and records of the double."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import requests

from tests.clouds.gcp.client import ZONE, Double, Refused, Rest
from tests.clouds.gcp.conftest import wish
from tests.clouds.gcp.model import PROJECT

DISKS, INSTANCES = f"zones/{ZONE}/disks", f"zones/{ZONE}/instances"


def count(double: Double) -> int:
    return len(double.state()["disks"])


def test_the_nth_call_is_throttled(api: Rest, double: Double, refuses: Any) -> None:
    double.fault("throttle", "disks.insert", nth=2, times=2)
    api.post(DISKS, {"name": "disk-0"})
    for _ in range(2):
        with refuses("rateLimitExceeded", 403):
            api.post(DISKS, {"name": "disk-1"})
    api.post(DISKS, {"name": "disk-1"})
    assert count(double) == 2


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_a_call_fails_before_or_after_its_effect(api: Rest, double: Double, refuses: Any, when: str, left: int) -> None:
    double.fault("error", "disks.insert", when=when)
    with refuses("backendError", 503):
        api.post(DISKS, {"name": "disk"})
    assert count(double) == left


def test_something_in_between_answers_without_json(double: Double) -> None:
    double.fault("error", "disks.list", plain=True, status=404, message="default backend - 404")
    answer = requests.get(f"{double.url}/compute/v1/projects/{PROJECT}/{DISKS}", timeout=60)
    assert (answer.status_code, answer.text) == (404, "default backend - 404")


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_an_answer_is_lost_before_or_after_the_effect(api: Rest, double: Double, when: str, left: int) -> None:
    double.fault("lose", "disks.insert", when=when)
    with pytest.raises(requests.ConnectionError):
        api.post(DISKS, {"name": "disk"})
    assert count(double) == left


def test_an_answer_that_refuses_is_lost_as_well(api: Rest, double: Double, make_disk: Any) -> None:
    make_disk("disk")
    double.fault("lose", "disks.insert", when="after")
    with pytest.raises(requests.ConnectionError):
        api.post(DISKS, {"name": "disk"})
    assert count(double) == 1


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_a_call_hangs_until_it_is_released(double: Double, when: str, left: int) -> None:
    double.fault("hang", "disks.insert", when=when)
    answered: list[Any] = []
    caller = threading.Thread(target=lambda: answered.append(double.rest().post(DISKS, {"name": "disk"})))
    caller.start()
    held = double.wait_held()
    assert (held["action"], held["when"], held["params"]["body"]) == ("disks.insert", when, {"name": "disk"})
    assert count(double) == left
    assert not answered
    assert double.release() == 1
    caller.join(10)
    assert answered
    assert count(double) == 1


def test_a_fault_can_be_for_one_resource(api: Rest, double: Double, make_disk: Any, refuses: Any) -> None:
    make_disk("first")
    make_disk("other")
    double.fault("error", "disks.*", resource="first", times=-1, code="internalError", status=500)
    api.delete(f"{DISKS}/other")
    for _ in range(2):
        with refuses("internalError", 500):
            api.delete(f"{DISKS}/first")
    [rule] = double("faults")
    assert (rule["seen"], rule["struck"]) == (2, 2)
    double("clear_faults")
    api.delete(f"{DISKS}/first")


@pytest.mark.parametrize(
    ("path", "query"),
    [("zones", {}), (f"zones/{ZONE}", {}), (f"zones/{ZONE}/operations", {}), (f"{DISKS}/x", {"http": "DELETE"})],
)
def test_requests_are_counted_by_group_and_minute(api: Rest, double: Double, path: str, query: Any) -> None:
    """quota: 403 rateLimitExceeded; it "refills at the start of the next synchronized interval"."""
    double.settings(rates={"mutations": 3, "reads": 3, "lists": 3, "operations": 3})
    now = double("clock")
    double.advance(60 - now % 60)

    details: list[Any] = []

    def reasons() -> list[str]:
        found = []
        for _ in range(5):
            try:
                api(query.get("http", "GET"), path)
                found.append("")
            except Refused as refused:
                found.append(refused.reason)
                details.extend(refused.error.get("details", ()))
        return found

    first = reasons()
    assert first[3:] == ["rateLimitExceeded"] * 2
    assert "rateLimitExceeded" not in first[:3]
    assert [d["reason"] for d in details] == ["RATE_LIMIT_EXCEEDED"] * 2
    double.advance(59)
    assert reasons() == ["rateLimitExceeded"] * 5
    double.advance(1)
    assert reasons() == first
    double.settings(rate_scale=0)
    assert "rateLimitExceeded" not in reasons()


def test_groups_and_regions_are_counted_apart(api: Rest, double: Double, refuses: Any) -> None:
    double.settings(rates={"mutations": 1, "reads": 1, "lists": 1, "operations": 1})
    api.get(DISKS)
    with refuses("rateLimitExceeded", 403):
        api.get(INSTANCES)
    api.get("zones/us-east1-b/disks")
    api.get("aggregated/disks")
    api.post(DISKS, {"name": "disk"})


@pytest.mark.parametrize(
    ("denied", "permission"),
    [
        ("compute.instances.create", "compute.instances.create"),
        ("compute.disks.create", "compute.disks.create"),
        ("compute.disks.use", "compute.disks.use"),
        ("compute.instances.setLabels", "compute.instances.setLabels"),
        ("compute.instances.setMetadata", "compute.instances.setMetadata"),
        ("compute.subnetworks.use", "compute.subnetworks.use"),
        ("compute.subnetworks.useExternalIp", "compute.subnetworks.useExternalIp"),
        ("compute.instances.setServiceAccount", "compute.instances.setServiceAccount"),
        ("iam.*", "iam.serviceAccounts.actAs"),
    ],
)
def test_a_launch_needs_several_rights(
    api: Rest, double: Double, make_disk: Any, refuses: Any, denied: str, permission: str
) -> None:
    make_disk()
    fields: dict[str, Any] = {
        "labels": {"a": "b"},
        "metadata": {"items": [{"key": "a", "value": "b"}]},
        "serviceAccounts": [{"email": "default"}],
        "networkInterfaces": [{"accessConfigs": [{}]}],
    }
    double("deny", actions=[denied])
    with refuses("forbidden", 403, f"Required '{permission}' permission for"):
        api.post(INSTANCES, wish("node", "disk", **fields))
    double("deny", actions=[])
    api.post(INSTANCES, wish("node", "disk", **fields))
    assert permission in double.permissions()


def test_a_missing_right_is_named_with_what_it_is_missing_for(api: Rest, double: Double, make_disk: Any) -> None:
    make_disk()
    double("deny", actions=["compute.disks.delete"])
    with pytest.raises(Refused, match=f"'compute.disks.delete' permission for 'projects/rankvol-test/{DISKS}/disk'"):
        api.delete(f"{DISKS}/disk")


def test_permissions_can_be_asked_for(api: Rest, double: Double) -> None:
    wanted = {"permissions": ["compute.disks.create", "compute.disks.delete"]}
    place = "/v1/projects/rankvol-test:testIamPermissions"
    assert api.post(place, wanted) == wanted
    double("deny", actions=["compute.disks.delete"])
    assert api.post(place, wanted) == {"permissions": ["compute.disks.create"]}


def test_credentials_can_be_no_good(api: Rest, double: Double, refuses: Any) -> None:
    double("credentials", state="invalid")
    for path in (DISKS, "/storage/v1/b/bucket/o"):
        with refuses("authError", 401):
            api.get(path)
    double("credentials", state="ok")
    api.get(DISKS)


def test_every_call_is_recorded(api: Rest, double: Double, refuses: Any) -> None:
    api.post(DISKS, {"name": "disk"}, requestId="6f0e6e3c-5a52-4d3f-8a0f-000000000001")
    with refuses("notFound", 404):
        api.delete(f"{DISKS}/absent")
    api.get("/storage/v1/b/bucket/o")
    insert, delete, objects = double.calls()
    assert (insert["service"], insert["action"], insert["status"]) == ("compute", "disks.insert", 200)
    assert insert["token"] == "6f0e6e3c-5a52-4d3f-8a0f-000000000001"
    assert insert["params"]["body"] == {"name": "disk"}
    assert insert["made"][0].endswith("/disks/disk")
    assert (delete["code"], delete["status"], delete["params"]["disk"]) == ("notFound", 404, "absent")
    assert (objects["service"], objects["action"]) == ("storage", "objects.list")
    assert double.counts() == {"compute:disks.insert": 1, "compute:disks.delete": 1, "storage:objects.list": 1}
    assert "compute:disks.insert" in double.actions()


def test_calls_can_take_time(api: Rest, double: Double) -> None:
    double.settings(latency_s={"disks.insert": 0.2})
    started = time.monotonic()
    api.get(DISKS)
    fast = time.monotonic() - started
    api.post(DISKS, {"name": "disk"})
    assert time.monotonic() - started - fast >= 0.2


def test_what_a_test_asks_wrongly_is_told(double: Double) -> None:
    for verb, fields in (("sing", {}), ("settings", {"colour": 1}), ("fault", {"kind": "flood"})):
        with pytest.raises(ValueError, match=verb):
            double(verb, **fields)

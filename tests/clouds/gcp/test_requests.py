"""What the discovery document says of requests, and what makes two requests one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.clouds.gcp.client import OTHER_ZONE, ZONE, Double, Rest
from tests.clouds.gcp.conftest import wish
from tests.clouds.gcp.discovery import Api

DISKS = f"zones/{ZONE}/disks"


@pytest.mark.parametrize(
    "body",
    [
        {"name": "disk", "sizeGB": "10"},
        {"name": "disk", "sizeGb": 10},
        {"name": "disk", "sizeGb": "ten"},
        {"name": "disk", "labels": ["a"]},
        {"name": "disk", "labels": {"a": 1}},
        {"name": "disk", "status": "READY"},
        {"name": "disk", "accessMode": "SINGLE"},
        {"sizeGb": "10"},
        [],
    ],
)
def test_a_body_that_is_not_as_documented_is_refused(api: Rest, refuses: Any, body: Any) -> None:
    with refuses("invalid", 400):
        api.post(DISKS, body)


def test_a_body_is_json_and_only_where_one_belongs(api: Rest, double: Double, refuses: Any) -> None:
    place = f"{double.url}/compute/v1/projects/rankvol-test/{DISKS}"
    assert requests.post(place, data=b"{", headers={"Content-Type": "application/json"}, timeout=9).status_code == 400
    assert requests.post(place, data=b"{}", headers={"Content-Type": "text/plain"}, timeout=9).status_code == 400
    with refuses("invalid", 400):
        api("GET", DISKS, {"name": "disk"})
    with refuses("invalid", 400):
        api.post(DISKS)


@pytest.mark.parametrize("query", [{"request_id": "x"}, {"maxResults": "many"}, {"maxResults": "501"}])
def test_an_unknown_or_wrong_parameter_is_refused(api: Rest, refuses: Any, query: dict[str, str]) -> None:
    with refuses("invalid", 400):
        api.get(DISKS, **query)


def test_a_required_parameter_is_required(api: Rest, launch: Any, refuses: Any) -> None:
    with refuses("invalid", 400):
        api.post(f"zones/{ZONE}/instances/{launch()}/detachDisk")


def test_a_place_that_is_not_there_is_refused(api: Rest, double: Double, refuses: Any) -> None:
    with refuses("invalid", 400, "Unknown zone"):
        api.get("zones/us-central1-x/disks")
    with refuses("invalid", 400, "Unknown region"):
        api.get("regions/nowhere1")
    with refuses("notFound", 404):
        api.get(f"/compute/v1/projects/another/{DISKS}")
    assert requests.get(f"{double.url}/compute/v1/projects/p/zones/z/plates", timeout=9).status_code == 404


def test_what_google_has_and_the_double_has_not_is_told(api: Rest, make_disk: Any, refuses: Any) -> None:
    with refuses("notImplemented", 501, "disks.resize"):
        api.post(f"{DISKS}/{make_disk()}/resize", {"sizeGb": "20"})
    with refuses("notImplemented", 501, "storagePool"):
        api.post(DISKS, {"name": "other", "storagePool": "x"})


def test_a_part_of_an_answer_can_be_asked_for(api: Rest, make_disk: Any, refuses: Any) -> None:
    make_disk("one", labels={"a": "b"})
    assert api.get(DISKS, fields="items(name,labels/a)") == {"items": [{"name": "one", "labels": {"a": "b"}}]}
    found = api.get("aggregated/disks", fields="nextPageToken,items/*/disks(name)", filter="name=one")
    assert found["items"]["zones/us-central1-a"] == {"disks": [{"name": "one"}]}
    for wrong in ("items(name", "items(nome)", "items//name"):
        with refuses("invalidParameter", 400, "Invalid field selection"):
            api.get(DISKS, fields=wrong)


def test_an_answer_that_is_not_as_documented_is_found() -> None:
    api = Api.load("compute", "v1")
    method, _ = api.find("GET", "/compute/v1/projects/p/zones/z/disks") or pytest.fail("no such method")
    right = {"kind": "compute#diskList", "items": [{"name": "disk", "sizeGb": "10", "status": "READY"}]}
    assert api.bad_answer(method, right) is None
    for field, value in (("sizeGb", 10), ("status", "AVAILABLE"), ("colour", "red")):
        wrong = api.bad_answer(method, {"items": [*right["items"], {field: value}]})
        assert wrong is not None
        assert wrong.where.startswith(".items[1]")


def test_the_same_request_twice_is_one_operation(api: Rest, done: Any, refuses: Any) -> None:
    """disc, requestId: "the server can check if original operation with the same request ID was received"."""
    same = str(uuid.uuid4())
    first = api.post(DISKS, {"name": "disk"}, requestId=same)
    assert first["clientOperationId"] == same
    assert api.post(DISKS, {"name": "disk"}, requestId=same)["name"] == first["name"]
    done(first)
    assert api.post(DISKS, {"name": "disk"}, requestId=same)["status"] == "DONE"
    with refuses("alreadyExists", 409):
        api.post(DISKS, {"name": "disk"}, requestId=str(uuid.uuid4()))
    other = str(uuid.uuid4())
    gone = api.delete(f"{DISKS}/disk", requestId=other)
    assert gone["name"] != first["name"]
    done(gone)
    assert api.delete(f"{DISKS}/disk", requestId=other)["name"] == gone["name"]
    # It stands for the disk that is gone as well: a new one takes a new id.
    assert api.post(DISKS, {"name": "disk"}, requestId=same)["name"] == first["name"]
    with refuses("notFound", 404):
        api.get(f"{DISKS}/disk")


def test_an_id_stands_for_one_request_of_one_resource(api: Rest, double: Double, make_disk: Any, refuses: Any) -> None:
    """Whoever sends it with another resource, method or body has a bug."""
    same = str(uuid.uuid4())
    make_disk("there")
    api.post(DISKS, {"name": "disk"}, requestId=same)
    tries: tuple[Callable[[], Any], ...] = (
        lambda: api.post(DISKS, {"name": "other"}, requestId=same),
        lambda: api.post(DISKS, {"name": "disk", "sizeGb": "20"}, requestId=same),
        lambda: api.post(f"zones/{OTHER_ZONE}/disks", {"name": "disk"}, requestId=same),
        lambda: api.post(f"zones/{ZONE}/instances", wish(), requestId=same),
        lambda: api.delete(f"{DISKS}/there", requestId=same),
    )
    for again in tries:
        with refuses("invalid", 400, "used for another request"):
            again()
    assert set(double.state()["disks"]) == {f"{ZONE}/disk", f"{ZONE}/there"}


def test_an_id_of_changes_stands_for_their_body(api: Rest, make_disk: Any, launch: Any, refuses: Any) -> None:
    node, other = f"zones/{ZONE}/instances/{launch('node', make_disk())}", str(uuid.uuid4())
    labels = {"labels": {"a": "1"}, "labelFingerprint": api.get(node)["labelFingerprint"]}
    of_disk = {"labels": {"a": "1"}, "labelFingerprint": api.get(f"{DISKS}/disk")["labelFingerprint"]}
    for place, body, more in (
        (f"{node}/setLabels", labels, {"labels": {"a": "2"}}),
        (f"{node}/setMetadata", {"fingerprint": api.get(node)["metadata"]["fingerprint"]}, {"items": []}),
        (f"{DISKS}/disk/setLabels", of_disk, {"labels": {}}),
    ):
        same = str(uuid.uuid4())
        first = api.post(place, body, requestId=same)
        assert api.post(place, body, requestId=same)["name"] == first["name"]
        with refuses("invalid", 400, "used for another request"):
            api.post(place, {**body, **more}, requestId=same)
    query = {"deviceName": "disk", "requestId": other}
    api.post(f"{node}/setDiskAutoDelete", {}, autoDelete="true", **query)
    with refuses("invalid", 400, "used for another request"):
        api.post(f"{node}/setDiskAutoDelete", {}, autoDelete="false", **query)


@pytest.mark.parametrize(
    "text", ["x", "1", "0" * 32, "00000000-0000-0000-0000-000000000000", "{6f0e6e3c-5a52-4d3f-8a0f-000000000001}"]
)
def test_a_request_id_is_a_uuid(api: Rest, refuses: Any, text: str) -> None:
    with refuses("invalid", 400, "UUID"):
        api.post(DISKS, {"name": "disk"}, requestId=text)
    with refuses("notFound", 404):
        api.get(f"{DISKS}/disk")


def test_instances_and_attachments_are_made_once(api: Rest, double: Double, make_disk: Any, done: Any) -> None:
    same, to_attach, to_detach, to_delete = (str(uuid.uuid4()) for _ in range(4))
    make_disk()
    names = {api.post(f"zones/{ZONE}/instances", wish(), requestId=same)["name"] for _ in range(2)}
    assert len(names) == 1
    double.advance(1)
    place, body = f"zones/{ZONE}/instances/node", {"source": f"{DISKS}/disk", "deviceName": "data"}
    assert len({api.post(f"{place}/attachDisk", body, requestId=to_attach)["name"] for _ in range(2)}) == 1
    double.advance(1)
    assert [d["deviceName"] for d in api.get(place)["disks"]] == ["persistent-disk-0", "data"]
    detached = {api.post(f"{place}/detachDisk", deviceName="data", requestId=to_detach)["name"] for _ in range(2)}
    assert len(detached) == 1
    double.advance(1)
    deleted = [api.delete(place, requestId=to_delete)["name"] for _ in range(2)]
    double.advance(1)
    assert {*deleted, api.delete(place, requestId=to_delete)["name"]} == {deleted[0]}


def test_a_failed_operation_is_what_its_request_id_stands_for(api: Rest, double: Double, done: Any) -> None:
    double("fail_later", action="disks.insert")
    same = str(uuid.uuid4())
    assert done(api.post(DISKS, {"name": "disk"}, requestId=same))["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
    assert "error" in api.post(DISKS, {"name": "disk"}, requestId=same)
    assert "error" not in done(api.post(DISKS, {"name": "disk"}, requestId=str(uuid.uuid4())))


def test_a_refused_request_leaves_its_id_free(api: Rest, double: Double, refuses: Any) -> None:
    same = str(uuid.uuid4())
    with refuses("invalid", 400):
        api.post(DISKS, {"name": "disk", "sizeGb": "0"}, requestId=same)
    api.post(DISKS, {"name": "disk"}, requestId=same)
    assert len(double.state()["disks"]) == 1

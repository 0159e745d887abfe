"""Disks of the double: states, names, sizes, sources, labels, deletion."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clouds.gcp.client import OTHER_ZONE, ZONE, Double, Rest
from tests.clouds.gcp.model import PROJECT

DISKS = f"zones/{ZONE}/disks"
KEY = f"projects/{PROJECT}/locations/us-central1/keyRings/ring/cryptoKeys/key"


def test_a_disk_and_its_operation_take_time(api: Rest, double: Double) -> None:
    operation = api.post(DISKS, {"name": "disk", "sizeGb": "10", "description": "Für alle"})
    place = f"zones/{ZONE}/operations/{operation['name']}"
    assert (operation["status"], operation["operationType"]) == ("PENDING", "insert")
    assert operation["targetLink"].endswith(f"projects/{PROJECT}/{DISKS}/disk")
    double.advance(0.015)
    assert api.get(place)["status"] == "RUNNING"
    disk = api.get(f"{DISKS}/disk")
    assert (disk["status"], disk["sizeGb"], disk["description"]) == ("CREATING", "10", "Für alle")
    assert operation["targetId"] == disk["id"]
    double.advance(0.03)
    assert api.get(place)["status"] == "DONE"
    assert api.get(f"{DISKS}/disk")["status"] == "READY"


@pytest.mark.parametrize("name", ["Disk", "a_b", "-a", "a-", "1a", "a" * 64, "", "dïsk"])
def test_a_name_obeys_rfc_1035(api: Rest, refuses: Any, name: str) -> None:
    with refuses("invalid", 400):
        api.post(DISKS, {"name": name, "sizeGb": "10"})


def test_a_name_is_unique_in_its_zone_alone(api: Rest, make_disk: Any, refuses: Any) -> None:
    make_disk("a" * 63)
    with refuses("alreadyExists", 409, "already exists"):
        api.post(DISKS, {"name": "a" * 63, "sizeGb": "20"})
    make_disk("a" * 63, zone=OTHER_ZONE)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("pd-standard", {"sizeGb": "0"}),
        ("pd-ssd", {"sizeGb": "65537"}),
        ("pd-extreme", {"sizeGb": "499"}),
        ("hyperdisk-balanced", {"sizeGb": "3"}),
        ("hyperdisk-extreme", {"sizeGb": "63"}),
        ("hyperdisk-throughput", {"sizeGb": "2047"}),
        ("hyperdisk-throughput", {"sizeGb": "32769"}),
        ("pd-balanced", {"provisionedIops": "3000"}),
        ("pd-ssd", {"provisionedThroughput": "200"}),
        ("pd-extreme", {"sizeGb": "1000", "provisionedIops": "2499"}),
        ("pd-extreme", {"sizeGb": "1000", "provisionedIops": "120001"}),
        ("hyperdisk-balanced", {"sizeGb": "100", "provisionedIops": "50001"}),
        ("hyperdisk-balanced", {"sizeGb": "100", "provisionedIops": "2999"}),
        ("hyperdisk-balanced", {"sizeGb": "100", "provisionedThroughput": "139"}),
        ("hyperdisk-balanced", {"sizeGb": "100", "provisionedIops": "4000", "provisionedThroughput": "1001"}),
        ("hyperdisk-balanced", {"sizeGb": "500", "provisionedIops": "100000", "provisionedThroughput": "140"}),
        ("hyperdisk-balanced", {"sizeGb": "4", "provisionedThroughput": "501"}),
        ("hyperdisk-balanced", {"sizeGb": "200", "provisionedIops": "40000", "provisionedThroughput": "156"}),
        ("hyperdisk-extreme", {"sizeGb": "64", "provisionedIops": "76801"}),
        ("hyperdisk-extreme", {"sizeGb": "64", "provisionedIops": "127"}),
        ("hyperdisk-extreme", {"sizeGb": "64", "provisionedThroughput": "500"}),
        ("hyperdisk-throughput", {"sizeGb": "2048", "provisionedThroughput": "181"}),
        ("hyperdisk-throughput", {"sizeGb": "2048", "provisionedIops": "100"}),
    ],
)
def test_each_type_has_bounds(api: Rest, refuses: Any, kind: str, fields: dict[str, str]) -> None:
    with refuses("invalid", 400):
        api.post(DISKS, {"name": "disk", "sizeGb": "10", "type": f"zones/{ZONE}/diskTypes/{kind}", **fields})


@pytest.mark.parametrize(
    ("kind", "size", "fields"),
    [
        ("pd-standard", "1", {}),
        ("pd-extreme", "500", {"provisionedIops": "120000"}),
        ("hyperdisk-balanced", "4", {}),
        ("hyperdisk-balanced", "500", {"provisionedIops": "10000", "provisionedThroughput": "2400"}),
        ("hyperdisk-extreme", "64", {"provisionedIops": "76800"}),
        ("hyperdisk-throughput", "2048", {"provisionedThroughput": "180"}),
    ],
)
def test_what_is_provisioned_is_shown(api: Rest, make_disk: Any, kind: str, size: str, fields: Any) -> None:
    disk = api.get(f"{DISKS}/{make_disk(sizeGb=size, type=kind, **fields)}")
    assert disk["type"].endswith(f"zones/{ZONE}/diskTypes/{kind}")
    assert disk.items() >= {"sizeGb": size, **fields}.items()
    assert ("provisionedIops" in disk) == (kind in ("pd-extreme", "hyperdisk-balanced", "hyperdisk-extreme"))


def test_a_type_must_be_one_and_of_the_zone(api: Rest, refuses: Any) -> None:
    for link in ("pd-ssd", f"zones/{OTHER_ZONE}/diskTypes/pd-ssd"):
        with refuses("invalid", 400):
            api.post(DISKS, {"name": "disk", "type": link})
    with refuses("notFound", 404):
        api.post(DISKS, {"name": "disk", "type": f"zones/{ZONE}/diskTypes/pd-fast"})


def test_a_source_must_be_there_and_fit(api: Rest, make_disk: Any, refuses: Any) -> None:
    image, snapshot = "projects/debian-cloud/global/images/family/debian-13", "global/snapshots/a-snapshot"
    made = api.get(f"{DISKS}/{make_disk('of-image', sourceImage=image, sizeGb='12')}")
    assert made["sourceImage"].endswith("/debian-13-trixie-v20261013")
    made = api.get(f"{DISKS}/{make_disk('of-snapshot', sourceSnapshot=snapshot, sizeGb='20')}")
    assert made["sourceSnapshot"].endswith(f"{PROJECT}/{snapshot}")
    with refuses("invalid", 400, "20 GB"):
        api.post(DISKS, {"name": "disk", "sizeGb": "19", "sourceSnapshot": snapshot})
    with refuses("invalid", 400, "Only one source"):
        api.post(DISKS, {"name": "disk", "sizeGb": "20", "sourceSnapshot": snapshot, "sourceImage": image})
    with refuses("invalid", 400, "malformed"):
        api.post(DISKS, {"name": "disk", "sourceSnapshot": "a-snapshot"})
    for source in ({"sourceImage": image + "x"}, {"sourceSnapshot": snapshot + "x"}):
        with refuses("notFound", 404):
            api.post(DISKS, {"name": "disk", "sizeGb": "20", **source})


def test_a_disk_can_be_encrypted_with_a_key_that_is_there(api: Rest, make_disk: Any, refuses: Any) -> None:
    disk = api.get(f"{DISKS}/{make_disk(diskEncryptionKey={'kmsKeyName': KEY})}")
    assert disk["diskEncryptionKey"] == {"kmsKeyName": f"{KEY}/cryptoKeyVersions/1"}
    with refuses("kmsPermissionDenied", 400, "useToEncrypt"):
        api.post(DISKS, {"name": "other", "diskEncryptionKey": {"kmsKeyName": KEY + "x"}})


@pytest.mark.parametrize(
    "labels",
    [
        {"Key": "v"},
        {"1key": "v"},
        {"_key": "v"},
        {"": "v"},
        {"key": "Value"},
        {"key": "a.b"},
        {"key": "a b"},
        {"k" * 64: "v"},
        {"key": "v" * 64},
        {f"k{n}": "" for n in range(65)},
    ],
)
def test_labels_have_rules(api: Rest, refuses: Any, labels: dict[str, str]) -> None:
    """gce/labeling-resources; seen:oap-project/cloudtik#14."""
    with refuses("invalid", 400, "abel"):
        api.post(DISKS, {"name": "disk", "labels": labels})


def test_labels_of_all_kinds_are_kept(api: Rest, make_disk: Any) -> None:
    labels = {"k" * 63: "v" * 63, "a-b_1": "", "größe": "日本"}
    assert api.get(f"{DISKS}/{make_disk(labels=labels)}")["labels"] == labels


def test_labels_are_changed_with_their_fingerprint(api: Rest, make_disk: Any, done: Any, refuses: Any) -> None:
    place = f"{DISKS}/{make_disk(labels={'a': '1'})}"
    read = api.get(place)["labelFingerprint"]
    change = {"labels": {"b": "2"}, "labelFingerprint": read}
    assert done(api.post(f"{place}/setLabels", change))["operationType"] == "setLabels"
    assert api.get(place)["labels"] == {"b": "2"}
    for body in (change, {"labels": {"b": "3"}}):
        with refuses("conditionNotMet", 412, "fingerprint"):
            api.post(f"{place}/setLabels", body)
    with refuses("invalid", 400):
        api.post(f"{place}/setLabels", {"labels": {"A": ""}, "labelFingerprint": api.get(place)["labelFingerprint"]})


def test_a_deleted_disk_is_gone_when_the_operation_is_done(
    api: Rest, double: Double, make_disk: Any, refuses: Any
) -> None:
    place = f"{DISKS}/{make_disk()}"
    api.delete(place)
    assert api.get(place)["status"] == "DELETING"
    with refuses("resourceNotReady", 400):
        api.delete(place)
    double.advance(1)
    for call in (api.get, api.delete):
        with refuses("notFound", 404, f"projects/{PROJECT}/{place}"):
            call(place)


def test_a_disk_is_not_deleted_before_it_is_made(api: Rest, refuses: Any) -> None:
    api.post(DISKS, {"name": "disk"})
    with refuses("resourceNotReady", 400):
        api.delete(f"{DISKS}/disk")


def test_a_disk_in_use_is_not_deleted(api: Rest, make_disk: Any, launch: Any, done: Any, refuses: Any) -> None:
    launch("node", make_disk())
    with refuses("resourceInUseByAnotherResource", 400, f"zones/{ZONE}/instances/node"):
        api.delete(f"{DISKS}/disk")
    done(api.delete(f"zones/{ZONE}/instances/node"))
    done(api.delete(f"{DISKS}/disk"))


def test_a_disk_can_be_named_by_its_number(api: Rest, make_disk: Any) -> None:
    number = api.get(f"{DISKS}/{make_disk()}")["id"]
    assert api.get(f"{DISKS}/{number}")["name"] == "disk"

"""Lists of the double: filters, pages, scopes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clouds.gcp.client import OTHER_ZONE, ZONE, Double, Rest

DISKS = f"zones/{ZONE}/disks"


@pytest.fixture
def disks(api: Rest, double: Double) -> None:
    for n in range(5):
        labels = {"rankvol-group": "g1" if n < 3 else "g2", "rankvol-rank": str(n)}
        zone = OTHER_ZONE if n == 4 else ZONE
        body = {"name": f"disk-{n}", "sizeGb": str(10 + n), "labels": labels if n else {}}
        api.post(f"zones/{zone}/disks", body)
    double.advance(1)


def names(found: dict[str, Any]) -> list[str]:
    return [disk["name"] for disk in found.get("items", [])]


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("", "0123"),
        ("labels.rankvol-group=g1", "12"),
        ("labels.rankvol-group = g1 AND labels.rankvol-rank=2", "2"),
        ("(labels.rankvol-group=g1) (labels.rankvol-rank=2)", "2"),
        ('labels.rankvol-group="g1"', "12"),
        ("labels.rankvol-group:*", "123"),
        ("NOT labels.rankvol-group:*", "0"),
        ("labels.rankvol-group!=g1", "03"),
        ("labels.rankvol-rank=1 OR labels.rankvol-rank=3", "13"),
        ("(labels.rankvol-rank=1 OR labels.rankvol-rank=3) AND labels.rankvol-group=g1", "1"),
        ("labels.rankvol-group=g1 AND labels.rankvol-rank=1 OR labels.rankvol-rank=3", "1"),
        ("name=disk-2", "2"),
        ("name != disk-2", "013"),
        ("name:disk-", "0123"),
        ("name eq disk-[12]", "12"),
        ("name eq disk", ""),
        ("(name eq .*) (name ne '.*-[01]')", "23"),
        ("sizeGb>=12", "23"),
        ("sizeGb<12", "01"),
        ("status=READY", "0123"),
        ("status=CREATING", ""),
    ],
)
def test_a_filter_picks(api: Rest, disks: None, text: str, ranks: str) -> None:
    assert names(api.get(DISKS, filter=text)) == [f"disk-{n}" for n in ranks]


@pytest.mark.parametrize(
    "text", ["labels.a", "=x", "name=", "name==x", "(name=x", "name=x)", "name ~ x", "name eq x AND status=READY"]
)
def test_a_filter_that_is_none_is_refused(api: Rest, refuses: Any, text: str) -> None:
    with refuses("invalid", 400, "filter"):
        api.get(DISKS, filter=text)


def test_lists_come_in_pages(api: Rest, disks: None, refuses: Any) -> None:
    seen, token = [], ""
    while True:
        page = api.get(DISKS, maxResults=3, filter="name!=x", **({"pageToken": token} if token else {}))
        seen.append(names(page))
        token = page.get("nextPageToken", "")
        if not token:
            break
        with refuses("invalid", 400, "pageToken"):
            api.get(DISKS, pageToken=token)
    assert seen == [["disk-0", "disk-1", "disk-2"], ["disk-3"]]
    with refuses("invalid", 400, "pageToken"):
        api.get(DISKS, pageToken="?")


def test_a_page_holds_what_there_is_when_it_is_asked_for(api: Rest, disks: None, done: Any) -> None:
    token = api.get(DISKS, maxResults=2)["nextPageToken"]
    done(api.delete(f"{DISKS}/disk-1"))
    done(api.post(DISKS, {"name": "disk-1b"}))
    assert names(api.get(DISKS, pageToken=token)) == ["disk-1b", "disk-2", "disk-3"]


def test_the_list_of_all_zones_tells_which_have_none(api: Rest, disks: None) -> None:
    found = api.get("aggregated/disks", filter="labels.rankvol-group=g2")["items"]
    assert {zone: [d["name"] for d in part["disks"]] for zone, part in found.items() if "disks" in part} == {
        f"zones/{ZONE}": ["disk-3"],
        f"zones/{OTHER_ZONE}": ["disk-4"],
    }
    assert found["zones/us-east1-b"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"


def test_the_list_of_all_zones_has_regional_disks_too(api: Rest, double: Double, disks: None) -> None:
    """Which have a region in place of a zone; in other calls the double does not know them."""
    assert api.get("aggregated/disks")["items"]["regions/us-central1"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"
    double("regional_disk", name="disk-2", region="us-central1")
    found = api.get("aggregated/disks", filter="name=disk-2")["items"]
    (regional,) = found["regions/us-central1"]["disks"]
    assert (regional["region"].rpartition("/")[2], "zone" in regional) == ("us-central1", False)
    assert [d["name"] for d in found[f"zones/{ZONE}"]["disks"]] == ["disk-2"]
    pages, token = [], ""
    while token is not None:
        page = api.get("aggregated/disks", maxResults=2, **({"pageToken": token} if token else {}))
        pages += [d["name"] for part in page["items"].values() for d in part.get("disks", [])]
        token = page.get("nextPageToken")
    assert sorted(pages) == ["disk-0", "disk-1", "disk-2", "disk-2", "disk-3", "disk-4"]


def test_the_list_of_all_zones_comes_in_pages(api: Rest, disks: None) -> None:
    seen, token = [], ""
    while True:
        page = api.get("aggregated/disks", maxResults=2, **({"pageToken": token} if token else {}))
        seen += [d["name"] for part in page["items"].values() for d in part.get("disks", [])]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert seen == [f"disk-{n}" for n in range(5)]


def test_a_zone_that_cannot_be_reached_is_told_in_a_warning(api: Rest, double: Double, disks: None) -> None:
    double("unreachable", zone=ZONE)
    found = api.get("aggregated/disks")["items"]
    assert found[f"zones/{ZONE}"]["warning"]["code"] == "UNREACHABLE"
    assert [d["name"] for d in found[f"zones/{OTHER_ZONE}"]["disks"]] == ["disk-4"]
    double("unreachable", zone=ZONE, on=False)
    assert len(api.get("aggregated/disks")["items"][f"zones/{ZONE}"]["disks"]) == 4


@pytest.mark.parametrize("code", ["LIST_OVERHEAD_QUOTA_EXCEED", "PARTIAL_SUCCESS"])
def test_a_list_that_is_not_whole_says_so_in_a_warning_of_a_scope_or_of_its_own(
    api: Rest, double: Double, disks: None, code: str
) -> None:
    double("warn", code=code, scope=f"zones/{ZONE}")
    found = api.get("aggregated/disks")
    assert found["items"][f"zones/{ZONE}"]["warning"]["code"] == code
    assert "disks" not in found["items"][f"zones/{ZONE}"]
    assert "disks" in found["items"][f"zones/{OTHER_ZONE}"]
    assert "warning" not in found
    double("warn", code="", scope=f"zones/{ZONE}")
    double("warn", code=code)
    found = api.get("aggregated/disks")
    assert found["warning"]["code"] == code
    assert not any("disks" in part for part in found["items"].values())
    double("warn", code="")
    assert "warning" not in api.get("aggregated/disks")


def test_what_is_there_without_our_doing_can_be_read(api: Rest) -> None:
    assert [z["name"] for z in api.get("zones", filter="name=us-central1-a")["items"]] == [ZONE]
    assert api.get(f"zones/{ZONE}")["region"].endswith("/us-central1")
    machine = api.get(f"zones/{ZONE}/machineTypes/n2-standard-4")
    assert (machine["guestCpus"], machine["memoryMb"], machine["maximumPersistentDisks"]) == (4, 16_384, 128)
    assert len(api.get(f"zones/{ZONE}/machineTypes")["items"]) > 50
    everywhere = api.get("aggregated/machineTypes", filter="name=a4-highgpu-8g")["items"]
    assert [zone for zone, part in everywhere.items() if "machineTypes" in part] == [f"zones/{OTHER_ZONE}"]
    cards = api.get("aggregated/acceleratorTypes", filter="name=nvidia-tesla-p4")["items"]
    assert [zone for zone, part in cards.items() if "acceleratorTypes" in part] == [
        f"zones/{ZONE}",
        "zones/us-central1-c",
    ]
    assert "nvidia-tesla-t4" in {c["name"] for c in api.get(f"zones/{ZONE}/acceleratorTypes")["items"]}
    assert api.get(f"zones/{ZONE}/acceleratorTypes/nvidia-tesla-t4")["maximumCardsPerInstance"] == 4
    kinds = {k["name"]: k["validDiskSize"] for k in api.get(f"zones/{ZONE}/diskTypes")["items"]}
    assert kinds["hyperdisk-balanced"] == "4GB-65536GB"
    assert api.get(f"zones/{ZONE}/diskTypes/pd-ssd")["name"] == "pd-ssd"
    newest = api.get("/compute/v1/projects/debian-cloud/global/images/family/debian-12")
    assert newest["name"] == "debian-12-bookworm-v20261013"
    assert api.get(f"/compute/v1/projects/debian-cloud/global/images/{newest['name']}")["id"] == newest["id"]
    assert {s["name"] for s in api.get("regions/us-central1/subnetworks")["items"]} == {"default", "nodes"}
    assert api.get("regions/us-central1/subnetworks/nodes")["privateIpGoogleAccess"] is True
    assert api.get("global/snapshots/a-snapshot")["diskSizeGb"] == "20"
    assert api.get("/compute/v1/projects/rankvol-test")["name"] == "rankvol-test"


@pytest.mark.parametrize(
    ("name", "cpus"), [("n2-custom-4-16384", 4), ("custom-1-1024", 1), ("e2-custom-small-2048", 2)]
)
def test_a_custom_machine_type_is_there_when_it_is_asked_for_and_in_no_list(api: Rest, name: str, cpus: int) -> None:
    assert api.get(f"zones/{ZONE}/machineTypes/{name}")["guestCpus"] == cpus
    assert not api.get(f"zones/{ZONE}/machineTypes", filter=f"name={name}").get("items")
    found = api.get("aggregated/machineTypes", filter=f"name={name}")["items"]
    assert not any("machineTypes" in part for part in found.values())


@pytest.mark.parametrize(
    "path",
    [
        f"zones/{ZONE}/machineTypes/m0",
        f"zones/{ZONE}/machineTypes/n2-custom-3-4096",
        f"zones/{ZONE}/machineTypes/n2-custom-4-1000",
        f"zones/{ZONE}/machineTypes/c3-custom-4-4096",
        f"zones/{ZONE}/acceleratorTypes/gpu",
        f"zones/{OTHER_ZONE}/acceleratorTypes/nvidia-tesla-p4",
        f"zones/{ZONE}/diskTypes/pd-x",
        "global/images/x",
        "global/images/family/x",
        "regions/us-central1/subnetworks/x",
        "global/snapshots/x",
    ],
)
def test_what_is_not_there_is_not_found(api: Rest, refuses: Any, path: str) -> None:
    with refuses("notFound", 404):
        api.get(path)

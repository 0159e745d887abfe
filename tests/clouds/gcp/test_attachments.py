"""Attaching to and detaching from running instances."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clouds.gcp.client import OTHER_ZONE, ZONE, Double, Rest
from tests.clouds.gcp.conftest import boot, wish
from tests.clouds.gcp.machines import TYPES

INSTANCES, DISKS = f"zones/{ZONE}/instances", f"zones/{ZONE}/disks"
NODE = f"{INSTANCES}/node"


def source(name: str = "disk", **fields: Any) -> dict[str, Any]:
    return {"source": f"{DISKS}/{name}", "deviceName": name, **fields}


def state(double: Double, disk: str = "disk", node: str = "node") -> str | None:
    found: str | None = double.state()["instances"][f"{ZONE}/{node}"]["attachments"].get(disk)
    return found


def test_a_disk_is_attached_and_detached(api: Rest, double: Double, make_disk: Any, launch: Any, done: Any) -> None:
    launch()
    make_disk()
    operation = api.post(f"{NODE}/attachDisk", source())
    assert api.get(f"{DISKS}/disk")["users"]
    assert state(double) == "attaching"
    done(operation)
    assert state(double) == "attached"
    operation = api.post(f"{NODE}/detachDisk", deviceName="disk")
    assert api.get(f"{DISKS}/disk")["users"]
    done(operation)
    disk = api.get(f"{DISKS}/disk")
    assert "users" not in disk
    assert disk["lastAttachTimestamp"] < disk["lastDetachTimestamp"]


def test_one_instance_writes_or_several_read(api: Rest, make_disk: Any, launch: Any, done: Any, refuses: Any) -> None:
    """gce/disks/sharing-disks-between-vms."""
    make_disk()
    for name in ("node", "two", "three"):
        launch(name)
    done(api.post(f"{NODE}/attachDisk", source(mode="READ_ONLY")))
    done(api.post(f"{INSTANCES}/two/attachDisk", source(mode="READ_ONLY")))
    for mode, place in (("READ_WRITE", "three"), ("READ_ONLY", "node")):
        if place == "three":
            with refuses("resourceInUseByAnotherResource", 400):
                api.post(f"{INSTANCES}/{place}/attachDisk", source(mode=mode))
    for name in ("node", "two"):
        done(api.post(f"{INSTANCES}/{name}/detachDisk", deviceName="disk"))
    done(api.post(f"{INSTANCES}/three/attachDisk", source()))
    for mode in ("READ_WRITE", "READ_ONLY"):
        with refuses("resourceInUseByAnotherResource", 400, "instances/three"):
            api.post(f"{NODE}/attachDisk", source(mode=mode))


def test_a_hyperdisk_is_not_shared(api: Rest, make_disk: Any, launch: Any, done: Any, refuses: Any) -> None:
    make_disk(type="hyperdisk-balanced")
    for name in ("node", "two"):
        launch(name, machine="c3-standard-4")
    done(api.post(f"{NODE}/attachDisk", source(mode="READ_ONLY")))
    with refuses("invalid", 400, "READ_ONLY_MANY"):
        api.post(f"{INSTANCES}/two/attachDisk", source(mode="READ_ONLY"))


def test_what_cannot_be_attached_is_refused(
    api: Rest, double: Double, make_disk: Any, launch: Any, refuses: Any
) -> None:
    launch()
    make_disk()
    make_disk("far", zone=OTHER_ZONE)
    with refuses("notFound", 404, "disks/absent"):
        api.post(f"{NODE}/attachDisk", source("absent"))
    with refuses("notFound", 404, "instances/absent"):
        api.post(f"{INSTANCES}/absent/attachDisk", source())
    with refuses("invalid", 400, "zone"):
        api.post(f"{NODE}/attachDisk", {"source": f"zones/{OTHER_ZONE}/disks/far"})
    with refuses("forbidden", 403):
        api.post(f"{NODE}/attachDisk", {"source": f"projects/foreign/{DISKS}/disk"})
    with refuses("invalid", 400, "already used"):
        api.post(f"{NODE}/attachDisk", source(deviceName="persistent-disk-0"))
    with refuses("invalid", 400, "regex"):
        api.post(f"{NODE}/attachDisk", source(deviceName="a b"))
    with refuses("invalid", 400, "force"):
        api.post(f"{NODE}/attachDisk", source(), forceAttach="true")
    with refuses("required", 400, "source"):
        api.post(f"{NODE}/attachDisk", {"deviceName": "x"})
    assert "users" not in api.get(f"{DISKS}/disk")


def test_an_instance_that_starts_or_stops_takes_no_disk(
    api: Rest, double: Double, make_disk: Any, refuses: Any, done: Any
) -> None:
    make_disk()
    api.post(INSTANCES, wish())
    with refuses("resourceNotReady", 400):
        api.post(f"{NODE}/attachDisk", source())
    double.advance(1)
    double("power_off", instance="node")
    with refuses("resourceNotReady", 400):
        api.post(f"{NODE}/attachDisk", source())
    double.advance(1)
    done(api.post(f"{NODE}/attachDisk", source()))


def test_what_cannot_be_detached_is_refused(
    api: Rest, double: Double, make_disk: Any, launch: Any, refuses: Any
) -> None:
    launch("node", make_disk())
    with refuses("invalid", 400, "No attached disk"):
        api.post(f"{NODE}/detachDisk", deviceName="absent")
    with refuses("invalid", 400, "boot disk"):
        api.post(f"{NODE}/detachDisk", deviceName="persistent-disk-0")
    api.post(f"{NODE}/detachDisk", deviceName="disk")
    with refuses("resourceNotReady", 400):
        api.post(f"{NODE}/detachDisk", deviceName="disk")


@pytest.mark.parametrize("machine", ["e2-micro", "n4-standard-8", "c4-standard-2"])
def test_a_machine_type_takes_so_many_disks(api: Rest, make_disk: Any, launch: Any, refuses: Any, machine: str) -> None:
    limit = TYPES[machine].max_disks
    kind = "pd-balanced" if machine.startswith("e2") else "hyperdisk-balanced"
    names = [make_disk(f"disk-{n}", type=kind) for n in range(limit)]
    body = wish("node", *names, machine=machine)
    body["disks"][0] = boot(kind)
    with refuses("limitExceeded", 400, f"Limit: {limit}.0"):
        api.post(INSTANCES, body)
    body["disks"].pop()
    launch("node", disks=body["disks"], machineType=body["machineType"])
    with refuses("limitExceeded", 400, "maximum_persistent_disks"):
        api.post(f"{NODE}/attachDisk", source(names[-1]))


def test_limits_by_machine_type() -> None:
    """CLOUD_FACTS, without the boot disk: 127; shared-core 15; C4 7 to 127; N4 15 or 31."""
    found = {name: TYPES[name].max_disks - 1 for name in ("n2-standard-2", "e2-micro", "n4-standard-8")}
    assert found == {"n2-standard-2": 127, "e2-micro": 15, "n4-standard-8": 15}
    assert [TYPES[f"c4-standard-{n}"].max_disks - 1 for n in (2, 192)] == [7, 127]
    assert TYPES["n4-standard-16"].max_disks - 1 == 31


@pytest.mark.parametrize(
    ("machine", "kind"),
    [
        ("n4-standard-2", "pd-ssd"),
        ("c4-standard-2", "pd-balanced"),
        ("h3-standard-88", "pd-balanced"),
        ("n2-standard-2", "hyperdisk-balanced"),
        ("c4-standard-48", "hyperdisk-extreme"),
        ("c3d-standard-30", "hyperdisk-extreme"),
        ("c3-standard-4", "pd-standard"),
        ("e2-standard-2", "pd-extreme"),
    ],
)
def test_a_family_takes_some_types_of_disks_only(
    api: Rest, double: Double, make_disk: Any, done: Any, machine: str, kind: str
) -> None:
    """seen:astronomer/astronomer#2463; the operation fails, and nothing of the instance stays."""
    make_disk(type=kind, sizeGb="1000")
    operation = done(api.post(INSTANCES, wish("node", "disk", machine=machine)))
    [error] = operation["error"]["errors"]
    assert error["code"] == "UNSUPPORTED_OPERATION"
    assert machine in error["message"]
    assert "not compatible" in error["message"]
    assert (list(double.state()["instances"]), list(double.state()["disks"])) == ([], [f"{ZONE}/disk"])
    assert "users" not in api.get(f"{DISKS}/disk")


def test_an_attachment_that_does_not_fit_fails_later(api: Rest, make_disk: Any, launch: Any, done: Any) -> None:
    launch()
    make_disk(type="hyperdisk-balanced")
    operation = done(api.post(f"{NODE}/attachDisk", source()))
    assert operation["error"]["errors"][0]["code"] == "UNSUPPORTED_OPERATION"
    assert operation["httpErrorStatusCode"] == 400
    assert "users" not in api.get(f"{DISKS}/disk")


def test_a_disk_can_be_stuck(api: Rest, double: Double, make_disk: Any, launch: Any) -> None:
    launch()
    make_disk()
    double("stick", state="attaching", disk="disk")
    attach = f"zones/{ZONE}/operations/{api.post(f'{NODE}/attachDisk', source())['name']}"
    double.advance(3600)
    assert (api.get(attach)["status"], state(double)) == ("RUNNING", "attaching")
    assert double("unstick") == 1
    assert (api.get(attach)["status"], state(double)) == ("DONE", "attached")
    double("stick", state="detaching")
    detach = f"zones/{ZONE}/operations/{api.post(f'{NODE}/detachDisk', deviceName='disk')['name']}"
    double.advance(3600)
    assert (api.get(detach)["status"], state(double)) == ("RUNNING", "detaching")
    assert double("unstick", disk="disk") == 1
    assert state(double) is None


def test_an_instance_waits_for_a_disk_that_is_stuck(api: Rest, double: Double, make_disk: Any) -> None:
    make_disk()
    double("stick", state="attaching", disk="disk")
    api.post(INSTANCES, wish("node", "disk"))
    double.advance(600)
    assert api.get(NODE)["status"] == "STAGING"
    double("unstick")
    assert api.get(NODE)["status"] == "RUNNING"


@pytest.mark.parametrize("state", ["attaching", "detaching"])
def test_a_deleted_instance_lets_go_of_a_disk_that_is_stuck(
    api: Rest, double: Double, make_disk: Any, launch: Any, done: Any, state: str
) -> None:
    launch()
    make_disk()
    double("stick", state=state)
    operation = api.post(f"{NODE}/attachDisk", source())
    if state == "detaching":
        done(operation)
        operation = api.post(f"{NODE}/detachDisk", deviceName="disk")
    double.advance(1)
    done(api.delete(NODE))
    assert "users" not in api.get(f"{DISKS}/disk")
    assert api.get(f"zones/{ZONE}/operations/{operation['name']}")["status"] == "RUNNING"
    double("unstick")
    assert ("error" in done(operation)) == (state == "attaching")
    done(api.delete(f"{DISKS}/disk"))


def test_a_disk_goes_with_its_instance_where_somebody_says_so_later(
    api: Rest, double: Double, make_disk: Any, launch: Any, done: Any, refuses: Any
) -> None:
    launch("node", make_disk("disk"))
    done(api.post(f"{NODE}/setDiskAutoDelete", {}, deviceName="disk", autoDelete="true"))
    done(api.post(f"{NODE}/setDiskAutoDelete", {}, deviceName="persistent-disk-0", autoDelete="false"))
    with refuses("invalid", 400, "absent"):
        api.post(f"{NODE}/setDiskAutoDelete", {}, deviceName="absent", autoDelete="true")
    done(api.delete(NODE))
    assert [disk.rpartition("/")[2] for disk in double.state()["disks"]] == ["node"]


def test_any_disk_that_is_to_hang_is_none_that_an_instance_boots_from(
    api: Rest, double: Double, make_disk: Any
) -> None:
    make_disk("disk")
    double("stick", state="attaching", disk="*")
    api.post(INSTANCES, wish("node", "disk"))
    double.advance(1)
    (found,) = double.state()["instances"].values()
    assert found["attachments"] == {"node": "attached", "disk": "attaching"}


@pytest.mark.parametrize(("machine", "fits"), [("n2-standard-48", False), ("n2-standard-64", True)])
def test_extreme_persistent_disk_takes_a_large_machine(
    api: Rest, make_disk: Any, done: Any, machine: str, fits: bool
) -> None:
    make_disk("disk", type="pd-extreme", sizeGb="500")
    assert ("error" not in done(api.post(INSTANCES, wish("node", "disk", machine=machine)))) == fits

"""What is checked before an instance starts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clouds.gcp.client import OTHER_ZONE, ZONE, Double, Rest
from tests.clouds.gcp.conftest import boot, wish

INSTANCES, DISKS = f"zones/{ZONE}/instances", f"zones/{ZONE}/disks"
NODE = f"{INSTANCES}/node"
SPOT = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}


def test_an_instance_has_no_address_outside_unless_it_asks(api: Rest, launch: Any) -> None:
    [plain] = api.get(f"{INSTANCES}/{launch('plain')}")["networkInterfaces"]
    assert plain["networkIP"].startswith("10.128.")
    assert "accessConfigs" not in plain
    [outside] = api.get(f"{INSTANCES}/{launch('outside', networkInterfaces=[{'accessConfigs': [{}]}])}")[
        "networkInterfaces"
    ]
    assert outside["accessConfigs"][0]["natIP"]
    assert outside["networkIP"] != plain["networkIP"]


def without(**fields: Any) -> dict[str, Any]:
    return {k: v for k, v in {**wish(), **fields}.items() if v is not None}


SOON = "2030-01-01T00:00:00Z"


def gpu(machine: str, count: int = 1, **scheduling: Any) -> dict[str, Any]:
    cards = [{"acceleratorType": f"zones/{ZONE}/acceleratorTypes/nvidia-tesla-t4", "acceleratorCount": count}]
    return wish(machine=machine, guestAccelerators=cards, scheduling=scheduling)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (without(machineType=None), "machineType"),
        (without(machineType="n2-standard-2"), "malformed"),
        (without(machineType=f"zones/{OTHER_ZONE}/machineTypes/n2-standard-2"), "zone"),
        (without(machineType=f"zones/{ZONE}/machineTypes/n2-standard-3"), "does not exist"),
        (without(machineType=f"zones/{ZONE}/machineTypes/a4-highgpu-8g"), "does not exist in zone"),
        (without(disks=None), "Boot disk"),
        (without(disks=[{**boot(), "boot": False}]), "Boot disk"),
        (without(disks=[boot(), boot(diskName="b")]), "one boot"),
        (without(disks=[{**boot(), "initializeParams": {}}]), "source image"),
        (without(disks=[{**boot(), "source": f"{DISKS}/x"}]), "Exactly one"),
        (without(networkInterfaces=None), "network interface"),
        (without(networkInterfaces=[{"subnetwork": "regions/us-east1/subnetworks/default"}]), "region"),
        (without(serviceAccounts=[{"email": "who@example.com"}]), "serviceAccount"),
        (without(serviceAccounts=[{"email": "default"}] * 2), "one service account"),
        (without(labels={"A": "b"}), "abel"),
        (without(name="Node"), "does not match"),
        (without(scheduling={"preemptible": True}), "SPOT"),
        (without(scheduling={"instanceTerminationAction": "DELETE"}), "standard provisioning model"),
        (without(scheduling={**SPOT, "automaticRestart": True}), "AutomaticRestart"),
        (without(scheduling={**SPOT, "onHostMaintenance": "MIGRATE"}), "migrated"),
        (without(scheduling={"maxRunDuration": {"seconds": "60"}}), "required with maxRunDuration"),
        (without(scheduling={**SPOT, "maxRunDuration": {"seconds": "29"}}), "between 30"),
        (without(scheduling={**SPOT, "maxRunDuration": {"seconds": "10368001"}}), "10368000"),
        (without(scheduling={**SPOT, "terminationTime": "tomorrow"}), "RFC 3339"),
        (without(guestAccelerators=[{"acceleratorType": f"zones/{ZONE}/acceleratorTypes/gpu"}]), "accelerator"),
        (without(disks=[boot(diskName="Bad")]), "regex"),
        (without(disks=[boot(sourceImage="debian-13")]), "malformed"),
        (without(disks=[boot(), {"source": "disk"}]), "malformed"),
        (without(networkInterfaces=[{"network": "default"}]), "malformed"),
        (without(networkInterfaces=[{"subnetwork": "default"}]), "malformed"),
        (without(scheduling={**SPOT, "terminationTime": SOON, "maxRunDuration": {"seconds": "60"}}), "Only one"),
        (gpu("n2-standard-2"), "N1"),
        (gpu("n1-standard-2"), "must be terminated"),
        (without(metadata={"items": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}), "duplicate"),
        (without(metadata={"items": [{"key": "a b", "value": "1"}]}), "does not match"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    api: Rest, double: Double, refuses: Any, body: Any, text: str
) -> None:
    with refuses("invalid", 400, text):
        api.post(INSTANCES, body)
    assert double.state() == {"disks": {}, "instances": {}, "operations": {}}


@pytest.mark.parametrize(
    "body",
    [
        wish("node", "absent"),
        without(networkInterfaces=[{"subnetwork": "regions/us-central1/subnetworks/absent"}]),
        without(networkInterfaces=[{"network": "global/networks/absent"}]),
        without(disks=[boot(sourceImage="global/images/absent")]),
    ],
)
def test_what_is_named_must_be_there(api: Rest, refuses: Any, body: Any) -> None:
    with refuses("notFound", 404, "absent"):
        api.post(INSTANCES, body)


def test_names_of_instances_and_of_their_boot_disks_are_unique(
    api: Rest, launch: Any, make_disk: Any, refuses: Any
) -> None:
    launch("node")
    with refuses("alreadyExists", 409, "instances/node"):
        api.post(INSTANCES, wish("node"))
    make_disk("other")
    with refuses("alreadyExists", 409, "disks/other"):
        api.post(INSTANCES, wish("other"))


def test_a_disk_is_attached_in_its_zone_when_ready_and_once(
    api: Rest, double: Double, make_disk: Any, refuses: Any
) -> None:
    make_disk("far", zone=OTHER_ZONE)
    body = wish("node", "far")
    body["disks"][1]["source"] = f"zones/{OTHER_ZONE}/disks/far"
    with refuses("invalid", 400, "zone"):
        api.post(INSTANCES, body)
    api.post(DISKS, {"name": "fresh"})
    with refuses("resourceNotReady", 400, "fresh"):
        api.post(INSTANCES, wish("node", "fresh"))
    double.advance(1)
    with refuses("invalid", 400):
        api.post(INSTANCES, wish("node", "fresh", "fresh"))
    api.post(INSTANCES, wish("node", "fresh"))
    with refuses("resourceInUseByAnotherResource", 400, "instances/node"):
        api.post(INSTANCES, wish("other", "fresh"))


def test_a_disk_is_on_an_instance_once_and_a_blank_one_does_not_boot(api: Rest, make_disk: Any, refuses: Any) -> None:
    make_disk()
    source = {"source": f"{DISKS}/disk"}
    with refuses("invalid", 400, "twice"):
        api.post(INSTANCES, without(disks=[boot(), {**source, "deviceName": "a"}, {**source, "deviceName": "b"}]))
    with refuses("invalid", 400, "boot from"):
        api.post(INSTANCES, without(disks=[{**source, "boot": True}]))


@pytest.mark.parametrize("count", [3, 8])
def test_a_machine_takes_accelerators_by_powers_of_two_up_to_the_types_most(
    api: Rest, refuses: Any, count: int
) -> None:
    with refuses("invalid", 400, "cards"):
        api.post(INSTANCES, gpu("n1-standard-2", count, onHostMaintenance="TERMINATE"))


@pytest.mark.parametrize("machine", ["n2-custom-4-16384", "custom-1-1024", "e2-custom-medium-4096"])
def test_an_instance_can_be_of_a_custom_type(api: Rest, done: Any, machine: str) -> None:
    assert "error" not in done(api.post(INSTANCES, wish(machine=machine)))
    assert api.get(NODE)["machineType"].endswith(machine)


def test_an_instance_can_have_accelerators(api: Rest, done: Any) -> None:
    assert "error" not in done(api.post(INSTANCES, gpu("n1-standard-2", onHostMaintenance="TERMINATE")))
    [card] = api.get(NODE)["guestAccelerators"]
    assert card["acceleratorType"].endswith("nvidia-tesla-t4")


@pytest.mark.parametrize("goes", [True, False])
def test_a_launch_that_fails_late_takes_its_new_disks_with_it_and_lets_go_of_the_others(
    api: Rest, double: Double, make_disk: Any, done: Any, goes: bool
) -> None:
    """[U] of one that was told to stay: it was made for an instance that there never was."""
    double("fail_later", action="instances.insert", code="INTERNAL_ERROR")
    body = wish("node", make_disk())
    body["disks"][0]["autoDelete"] = goes
    operation = api.post(INSTANCES, body)
    assert set(double.state()["disks"]) == {f"{ZONE}/disk", f"{ZONE}/node"}
    assert done(operation)["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
    assert double.state()["instances"] == {}
    assert list(double.state()["disks"]) == [f"{ZONE}/disk"]
    assert "users" not in api.get(f"{DISKS}/disk")
    assert "error" not in done(api.post(INSTANCES, wish("node", "disk")))

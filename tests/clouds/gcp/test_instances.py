"""Instances of the double: how they come to run, and how they end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clouds.gcp.client import ZONE, Double, Rest
from tests.clouds.gcp.conftest import wish

INSTANCES, DISKS = f"zones/{ZONE}/instances", f"zones/{ZONE}/disks"
NODE = f"{INSTANCES}/node"


def status(api: Rest) -> str:
    return str(api.get(NODE)["status"])


def test_an_instance_comes_to_run_with_its_disks(api: Rest, double: Double, make_disk: Any) -> None:
    make_disk()
    operation = api.post(INSTANCES, wish("node", "disk"))
    seen = [status(api)]
    for _ in range(8):
        double.advance(0.01)
        seen.append(status(api))
    assert list(dict.fromkeys(seen)) == ["PROVISIONING", "STAGING", "RUNNING"]
    assert api.get(f"zones/{ZONE}/operations/{operation['name']}")["status"] == "DONE"
    boot, data = api.get(NODE)["disks"]
    assert (boot["boot"], boot["autoDelete"], boot["deviceName"], boot["diskSizeGb"]) == (
        True,
        True,
        "persistent-disk-0",
        "10",
    )
    assert (data["boot"], data["autoDelete"], data["deviceName"], data["mode"]) == (False, False, "disk", "READ_WRITE")
    assert api.get(f"{DISKS}/disk")["users"] == [api.get(NODE)["selfLink"]]
    assert api.get(f"{DISKS}/node")["sourceImage"].endswith("/debian-13-trixie-v20261013")


def test_a_deleted_instance_frees_its_disks_and_takes_those_that_go_with_it(
    api: Rest, double: Double, make_disk: Any, launch: Any, refuses: Any
) -> None:
    launch("node", make_disk("kept"))
    operation = api.delete(NODE)
    double.advance(0.02)
    assert status(api) == "STOPPING"
    assert "users" in api.get(f"{DISKS}/kept")
    with refuses("resourceNotReady", 400):
        api.delete(NODE)
    double.advance(1)
    assert api.get(f"zones/{ZONE}/operations/{operation['name']}")["status"] == "DONE"
    assert list(double.state()["disks"]) == [f"{ZONE}/kept"]
    assert "users" not in api.get(f"{DISKS}/kept")
    for call in (api.get, api.delete):
        with refuses("notFound", 404, "instances/node"):
            call(NODE)


def test_a_disk_that_is_to_go_with_its_instance_goes(api: Rest, double: Double, make_disk: Any, done: Any) -> None:
    make_disk("goes")
    body = wish("node", "goes")
    body["disks"][1]["autoDelete"] = True
    body["disks"][0]["autoDelete"] = False
    done(api.post(INSTANCES, body))
    done(api.delete(NODE))
    assert list(double.state()["disks"]) == [f"{ZONE}/node"]


def test_an_instance_is_not_deleted_before_it_runs(api: Rest, double: Double, refuses: Any) -> None:
    api.post(INSTANCES, wish())
    with refuses("resourceNotReady", 400):
        api.delete(NODE)
    double.advance(1)
    api.delete(NODE)


def test_a_protected_instance_is_not_deleted(api: Rest, launch: Any, refuses: Any) -> None:
    launch(deletionProtection=True)
    with refuses("invalidResourceUsage", 400):
        api.delete(NODE)


def test_an_instance_that_shuts_itself_down_stays_with_its_disks(
    api: Rest, double: Double, make_disk: Any, launch: Any, refuses: Any, done: Any
) -> None:
    launch("node", make_disk())
    double("power_off", instance="node")
    assert status(api) == "STOPPING"
    double.advance(1)
    assert status(api) == "TERMINATED"
    events = api.get(f"zones/{ZONE}/operations", filter='operationType = "compute.instances.guestTerminate"')["items"]
    assert [(e["user"], e["targetLink"].rpartition("/")[2]) for e in events] == [("system", "node")]
    with refuses("resourceInUseByAnotherResource", 400):
        api.delete(f"{DISKS}/disk")
    done(api.delete(NODE))
    done(api.delete(f"{DISKS}/disk"))


def test_an_instance_can_be_stopped(api: Rest, launch: Any, done: Any) -> None:
    launch()
    done(api.post(f"{NODE}/stop"))
    assert status(api) == "TERMINATED"


def test_a_scripted_end_comes_by_itself(api: Rest, double: Double, make_disk: Any) -> None:
    make_disk()
    double("end_nodes", console="done\n", after_s=0.3)
    double("end_nodes", instance="other", script=f"{__name__}:report")
    metadata = {"items": [{"key": "startup-script", "value": "#!/bin/sh"}]}
    api.post(INSTANCES, wish("node", "disk"))
    api.post(INSTANCES, wish("other", metadata=metadata))
    double.advance(0.25)
    assert status(api) == "RUNNING"
    other = double.state()["instances"][f"{ZONE}/other"]
    assert other["guestAttributes"] == {"rank/state": "other ran #!/bin/sh"}
    double.advance(1)
    assert status(api) == "TERMINATED"


def report(view: dict[str, Any], script: bytes) -> dict[str, Any]:
    return {"console": "text", "attributes": {"rank/state": f"{view['name']} ran {script.decode()}"}}


def test_an_instance_that_never_boots_runs_and_does_nothing(api: Rest, double: Double, launch: Any) -> None:
    double("never_boot")
    double("end_nodes", console="done\n")
    launch("node")
    launch("other")
    assert status(api) == "RUNNING"
    double.advance(60)
    assert [i["status"] for i in double.state()["instances"].values()] == ["RUNNING", "TERMINATED"]


def test_a_host_error_ends_an_instance_that_may_not_restart(api: Rest, double: Double, launch: Any) -> None:
    launch("node", scheduling={"automaticRestart": False})
    launch("again")
    for name in ("node", "again"):
        double("die", instance=name)
    double.advance(1)
    assert status(api) == "TERMINATED"
    assert api.get(f"{INSTANCES}/again")["status"] == "RUNNING"
    assert len(api.get(f"zones/{ZONE}/operations", filter="operationType=compute.instances.hostError")["items"]) == 2


@pytest.mark.parametrize(("action", "left"), [("DELETE", None), ("STOP", "TERMINATED")])
def test_a_run_time_limit_ends_an_instance(
    api: Rest, double: Double, make_disk: Any, launch: Any, action: str, left: str | None
) -> None:
    """gce/instances/limit-vm-runtime: it counts from RUNNING on."""
    launch("node", make_disk(), scheduling={"maxRunDuration": {"seconds": "30"}, "instanceTerminationAction": action})
    assert "terminationTimestamp" in api.get(NODE)["resourceStatus"]["scheduling"]
    double.advance(28)
    assert status(api) == "RUNNING"
    double.advance(3)
    node = double.state()["instances"].get(f"{ZONE}/node")
    assert (node and node["status"]) == left
    assert ("users" in api.get(f"{DISKS}/disk")) == (left is not None)


def test_a_termination_time_ends_an_instance(api: Rest, double: Double, launch: Any) -> None:
    from datetime import UTC, datetime, timedelta

    at = datetime.fromtimestamp(double("clock"), UTC) + timedelta(minutes=5)
    launch("node", scheduling={"terminationTime": at.isoformat(), "instanceTerminationAction": "DELETE"})
    double.advance(290)
    assert status(api) == "RUNNING"
    double.advance(10)
    assert double.state()["instances"] == {}


@pytest.mark.parametrize(("action", "left"), [("DELETE", None), ("STOP", "TERMINATED")])
def test_a_spot_instance_is_preempted_after_its_notice(
    api: Rest, double: Double, make_disk: Any, launch: Any, action: str, left: str | None
) -> None:
    launch("node", make_disk(), scheduling={"provisioningModel": "SPOT", "instanceTerminationAction": action})
    assert api.get(NODE)["scheduling"].items() >= {"preemptible": True, "automaticRestart": False}.items()
    double("preempt", instance="node")
    double.advance(29)
    assert status(api) == "RUNNING"
    double.advance(2)
    node = double.state()["instances"].get(f"{ZONE}/node")
    assert (node and node["status"]) == left
    [event] = api.get(f"zones/{ZONE}/operations", filter="operationType=compute.instances.preempted")["items"]
    assert event["targetLink"].endswith("/node")


def test_only_a_spot_instance_is_preempted(double: Double, launch: Any) -> None:
    launch()
    with pytest.raises(ValueError, match="no spot instance"):
        double("preempt", instance="node")

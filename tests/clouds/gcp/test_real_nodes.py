"""Instances of the double that really run: states, disks, metadata and serial port as on Compute Engine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clouds.gcp.client import ZONE, Double, Refused, Rest
from tests.clouds.gcp.conftest import boot
from tests.clouds.nodes.host import why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "nodes run here")

Launch = Callable[..., str]
CHECKOUT = Path(__file__).resolve().parents[3]
HEAD = """#!/bin/bash
meta() { curl -sf -H 'Metadata-Flavor: Google' http://metadata.google.internal/computeMetadata/v1/instance/$1; }
wait_for() { for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "never: $*"; }
put() { curl -sf -X PUT --data "$2" -H 'Metadata-Flavor: Google' \
  http://169.254.169.254/computeMetadata/v1/instance/guest-attributes/$1; }
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    with Double(tmp_path_factory.mktemp("nodes"), nodes=True) as double:
        yield double
    loops = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True).stdout
    assert str(double.state_dir) not in loops
    assert sorted(p.name for p in double.state_dir.iterdir()) == ["double.log", "host"]
    assert (double.state_dir / "double.log").read_text() == ""


@pytest.fixture
def double(process: Double) -> Double:
    process.reset()
    return process


@pytest.fixture
def api(double: Double) -> Rest:
    return double.rest()


@pytest.fixture
def launch(api: Rest, double: Double) -> Launch:
    """Launch an instance with disks; wait until it runs."""

    def run(name: str, script: str, *disks: str, mode: str = "READ_WRITE", **params: Any) -> str:
        metadata = {"startup-script": HEAD + script, "enable-guest-attributes": "TRUE", **params.pop("metadata", {})}
        data = [
            {"source": f"projects/rankvol-test/zones/{ZONE}/disks/{d}", "deviceName": d, "mode": mode} for d in disks
        ]
        body = {
            "name": name,
            "machineType": f"zones/{ZONE}/machineTypes/n2-standard-2",
            "disks": [boot(), *data],
            "networkInterfaces": [{"network": "global/networks/default"}],
            "metadata": {"items": [{"key": key, "value": value} for key, value in metadata.items()]},
        }
        api.post(f"zones/{ZONE}/instances", {**body, **params})
        double.wait(lambda s: s["instances"].get(f"{ZONE}/{name}", {}).get("status") == "RUNNING")
        return name

    return run


@pytest.fixture
def disk(api: Rest, double: Double) -> str:
    api.post(f"zones/{ZONE}/disks", {"name": "data-0", "sizeGb": "1", "type": f"zones/{ZONE}/diskTypes/pd-ssd"})
    double.wait(lambda s: s["disks"][f"{ZONE}/data-0"]["status"] == "READY")
    return "data-0"


def ended(double: Double, name: str) -> dict[str, Any]:
    """Wait until an instance has stopped, and return what the double knows of it."""
    state = double.wait(lambda s: s["instances"][f"{ZONE}/{name}"]["status"] == "TERMINATED", 60)
    found: dict[str, Any] = state["instances"][f"{ZONE}/{name}"]
    return found


def serial(api: Rest, name: str, text: str) -> str:
    """Wait for a text on serial port 1."""
    deadline = time.monotonic() + 30
    while text not in (seen := str(api.get(f"zones/{ZONE}/instances/{name}/serialPort")["contents"])):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def test_an_instance_formats_and_keeps_its_disk(api: Rest, double: Double, launch: Launch, disk: str) -> None:
    by_id = f"/dev/disk/by-id/google-{disk}"
    launch(
        "first",
        f"wait_for test -e {by_id}; mkfs.ext4 -q {by_id}; mkdir -p /data; mount {by_id} /data; echo kept > /data/f\n"
        f"put n/size $(blockdev --getsize64 {by_id}); readlink -f {by_id}; umount /data; shutdown -h now",
        disk,
    )
    done = ended(double, "first")
    assert done["guestAttributes"] == {"n/size": str(1 << 30)}
    path = f"zones/{ZONE}/instances/first"
    assert api.get(f"{path}/getGuestAttributes", queryPath="n/")["queryValue"]["items"][0]["value"] == str(1 << 30)
    with pytest.raises(Refused, match="not ready"):
        api.get(f"{path}/serialPort")
    api.delete(path)
    double.wait(lambda s: not s["instances"])
    launch(
        "second", f"wait_for test -e {by_id}; mkdir -p /d; mount -o ro {by_id} /d; echo it is $(cat /d/f)\n"
        f"echo x >{by_id} || echo only to be read; sleep 100",
        disk, mode="READ_ONLY",
    )  # fmt: skip
    serial(api, "second", "it is kept")
    serial(api, "second", "only to be read")
    api.delete(f"zones/{ZONE}/instances/second")
    double.wait(lambda s: not s["instances"] and set(s["disks"]) == {f"{ZONE}/{disk}"})
    api.delete(f"zones/{ZONE}/disks/{disk}")
    double.wait(lambda s: not s["disks"])
    assert list((double.state_dir / "images").iterdir()) == []


def test_a_mounted_disk_stays_until_it_is_unmounted(api: Rest, double: Double, launch: Launch, disk: str) -> None:
    by_id = f"/dev/disk/by-id/google-{disk}"
    launch(
        "one",
        f"wait_for test -e {by_id}; mkfs.ext4 -q {by_id}; mkdir -p /d; mount {by_id} /d; echo mounted\n"
        f"wait_for meta attributes/go; umount /d; wait_for test ! -e {by_id}; echo it is gone; sleep 100",
    )
    path = f"zones/{ZONE}/instances/one"
    source = f"projects/rankvol-test/zones/{ZONE}/disks/{disk}"
    api.post(f"{path}/attachDisk", {"source": source, "deviceName": disk})
    serial(api, "one", "mounted")
    api.post(f"{path}/detachDisk", deviceName=disk)
    time.sleep(0.3)
    assert double.state()["disks"][f"{ZONE}/{disk}"].get("users")
    metadata = api.get(path)["metadata"]
    items = [*metadata["items"], {"key": "go", "value": "now"}]
    api.post(f"{path}/setMetadata", {"fingerprint": metadata["fingerprint"], "items": items})
    double.wait(lambda s: not s["disks"][f"{ZONE}/{disk}"].get("users"))
    serial(api, "one", "it is gone")


def test_the_metadata_server_tells_an_instance_what_it_is_to_who_asks_rightly(
    api: Rest, double: Double, launch: Launch
) -> None:
    launch(
        "one",
        "for n in name zone network-interfaces/0/ip attributes/rank preempted; do echo $n=$(meta $n); done\n"
        "curl -s http://169.254.169.254/computeMetadata/v1/instance/name; echo\n"
        "meta service-accounts/default/token; meta attributes/none || echo none; sleep 100",
        metadata={"rank": "3"},
        serviceAccounts=[{"email": "default", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}],
    )
    address = double.state()["instances"][f"{ZONE}/one"]["networkInterfaces"][0]["networkIP"]
    seen = serial(api, "one", "none")
    for line in (
        "name=one",
        f"zone=projects/123456789012/zones/{ZONE}",
        f"network-interfaces/0/ip={address}",
        "attributes/rank=3",
        "preempted=FALSE",
        "Missing Metadata-Flavor:Google header.",
        '"access_token": "node-token-one"',
    ):
        assert line in seen


def test_guest_attributes_that_are_not_enabled_are_refused(double: Double, launch: Launch) -> None:
    launch("one", "put n/k v || put n/k v; shutdown -h now", metadata={"enable-guest-attributes": "FALSE"})
    assert ended(double, "one")["guestAttributes"] == {}


def test_guest_attributes_that_come_too_fast_may_be_lost(double: Double, launch: Launch) -> None:
    launch("one", "for i in 1 2 3 4 5; do put n/$i x; done; shutdown -h now")
    assert set(ended(double, "one")["guestAttributes"]) == {"n/1", "n/2", "n/3"}


def test_private_places_do_not_exist_in_an_instance(api: Rest, launch: Launch, tmp_path: Path) -> None:
    private = [CHECKOUT, CHECKOUT / "airflow_rankvol/__init__.py", Path(sys.prefix) / "pyvenv.cfg", tmp_path]
    private.append(Path(os.environ["AIRFLOW_HOME"]))
    assert all(path.exists() for path in private)
    looks = "\n".join(f"ls -d '{path}'" for path in private)
    home = os.path.expanduser("~")
    launch("one", f"{looks}\nfind /root /home {home} -mindepth 1 2>/dev/null | wc -l | sed s/^/files:/; sleep 100")
    seen = serial(api, "one", "files:")
    assert seen.count("No such file or directory") == len(private), seen
    assert "files:0" in seen


def test_nothing_runs_after_deletion_death_and_reset(api: Rest, double: Double, launch: Launch) -> None:
    mark = f"rv-gce-{os.getpid()}"

    def running() -> int:
        return sum(mark.encode() in line for line in cmdlines())

    for name in ("one", "two", "three"):
        launch(name, f"exec -a {mark} sleep 1000", scheduling={"automaticRestart": False})
    deadline = time.monotonic() + 20
    while running() < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running() == 3
    api.delete(f"zones/{ZONE}/instances/one")
    double("die", instance="two")
    ended(double, "two")
    double.wait(lambda s: f"{ZONE}/one" not in s["instances"])
    assert running() == 1
    double.reset()
    assert running() == 0


def cmdlines() -> Iterator[bytes]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # ended meanwhile
            yield Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_longest_run_time_ends_an_instance(double: Double, launch: Launch) -> None:
    limits = {"maxRunDuration": {"seconds": "30"}, "instanceTerminationAction": "STOP"}
    launch("one", "sleep 1000", scheduling=limits)
    double.advance(31)
    ended(double, "one")


def test_an_instance_that_never_boots_runs_and_says_nothing(api: Rest, double: Double, launch: Launch) -> None:
    double("never_boot")
    launch("one", "echo hello; poweroff")
    assert api.get(f"zones/{ZONE}/instances/one/serialPort")["contents"] == ""

"""Instances of the double that really run: states, disks, metadata and console as on EC2."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clouds.aws.client import NODE_KEY, Double
from tests.clouds.aws.conftest import AMI_PARAMETER, ZONE
from tests.clouds.nodes.host import why_not
from tests.clouds.nodes.packages import why_no_aws_cli

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "nodes run here")

Launch = Callable[..., str]

HEAD = """#!/bin/bash
token() { curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token; }
meta() { curl -sf -H "X-aws-ec2-metadata-token: $(token)" http://169.254.169.254/latest/meta-data/$1; }
wait_for() { for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "never: $*"; }
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
def ec2(double: Double) -> Any:
    return double.boto3("ec2")


@pytest.fixture
def launch(ec2: Any, double: Double) -> Launch:
    """Launch an instance with the shutdown behaviour ``terminate``; wait until it runs."""
    ami = double.boto3("ssm").get_parameter(Name=AMI_PARAMETER)["Parameter"]["Value"]

    def run(script: str, **params: Any) -> str:
        wish = {
            "ImageId": ami,
            "InstanceType": "m7i.large",
            "MinCount": 1,
            "MaxCount": 1,
            "UserData": HEAD + script,
            "Placement": {"AvailabilityZone": ZONE},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        }
        instance_id = str(ec2.run_instances(**{**wish, **params})["Instances"][0]["InstanceId"])
        double.wait(lambda s: s["instances"][instance_id]["State"]["Name"] == "running")
        return instance_id

    return run


@pytest.fixture
def make_volume(ec2: Any, double: Double) -> Callable[[], str]:
    def make() -> str:
        volume_id = str(ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3")["VolumeId"])
        double.wait(lambda s: s["volumes"][volume_id]["State"] == "available")
        return volume_id

    return make


def ended(double: Double, instance_id: str) -> str:
    """Wait until an instance is terminated, and return why it was."""
    state = double.wait(lambda s: s["instances"][instance_id]["State"]["Name"] == "terminated", 60)
    return str(state["instances"][instance_id]["StateReason"]["Code"])


def console(ec2: Any, instance_id: str) -> str:
    return str(ec2.get_console_output(InstanceId=instance_id, Latest=True).get("Output", ""))


def wait_console(ec2: Any, instance_id: str, text: str) -> str:
    deadline = time.monotonic() + 30
    while text not in (seen := console(ec2, instance_id)):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def test_an_instance_formats_and_keeps_its_volume(
    ec2: Any, double: Double, launch: Launch, make_volume: Callable[[], str]
) -> None:
    volume_id = make_volume()
    by_id = f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume_id.replace('-', '')}"
    first = launch(
        f"wait_for test -e {by_id}; mkfs.ext4 -q {by_id}; mkdir -p /data; mount {by_id} /data; echo kept > /data/f\n"
        f"stat -fc '%S %b' /data; readlink -f {by_id} /dev/sdf; umount /data; shutdown -h now"
    )
    ec2.attach_volume(VolumeId=volume_id, InstanceId=first, Device="/dev/sdf")
    assert ended(double, first) == "Client.InstanceInitiatedShutdown"
    assert console(ec2, first).count("/dev/nvme1n1") == 2
    double.wait(lambda s: s["volumes"][volume_id]["State"] == "available")
    second = launch(f"wait_for test -e {by_id}; mkdir -p /d; mount -o ro {by_id} /d; echo it is $(cat /d/f)")
    ec2.attach_volume(VolumeId=volume_id, InstanceId=second, Device="/dev/xvdba")
    wait_console(ec2, second, "it is kept")
    ec2.terminate_instances(InstanceIds=[second])
    assert ended(double, second) == "Client.UserInitiatedShutdown"
    ec2.delete_volume(VolumeId=volume_id)
    double.wait(lambda s: volume_id not in s["volumes"])
    assert list((double.state_dir / "images").iterdir()) == []


def test_a_mounted_volume_stays_busy_until_it_is_unmounted(
    ec2: Any, double: Double, launch: Launch, make_volume: Callable[[], str]
) -> None:
    volume_id = make_volume()
    instance_id = launch(
        "wait_for test -e /dev/sdf; mkfs.ext4 -q /dev/sdf; mkdir -p /d; mount /dev/sdf /d; echo mounted\n"
        "wait_for meta tags/instance/go; umount /d; wait_for test ! -e /dev/sdf; echo it is gone; sleep 100"
    )
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    wait_console(ec2, instance_id, "mounted")
    ec2.detach_volume(VolumeId=volume_id, InstanceId=instance_id)
    double.wait(lambda s: s["volumes"][volume_id]["Attachments"][0]["State"] == "busy")
    ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "go", "Value": "now"}])
    double.wait(lambda s: s["volumes"][volume_id]["State"] == "available")
    wait_console(ec2, instance_id, "it is gone")


def test_metadata_tell_an_instance_what_it_is(ec2: Any, double: Double, launch: Launch) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "rank", "Value": "3"}]}]
    instance_id = launch(
        "for n in instance-id local-ipv4 placement/availability-zone placement/region instance-type tags/instance "
        "tags/instance/rank; do echo $n=$(meta $n); done; meta iam/security-credentials/ || echo no role\n"
        "wait_for meta spot/instance-action; echo notice $(meta spot/instance-action)",
        TagSpecifications=tags,
        InstanceMarketOptions={"MarketType": "spot"},
    )
    view = double.state()["instances"][instance_id]
    seen = wait_console(ec2, instance_id, "no role")
    for line in (
        f"instance-id={instance_id}",
        f"local-ipv4={view['PrivateIpAddress']}",
        f"placement/availability-zone={ZONE}",
        "placement/region=us-east-1",
        "tags/instance=rank",
        "tags/instance/rank=3",
    ):
        assert line in seen
    double("reclaim", instance=instance_id, notice_s=3)
    assert '"action": "terminate"' in wait_console(ec2, instance_id, "notice {")
    assert ended(double, instance_id) == "Server.SpotInstanceTermination"


@pytest.mark.skipif(bool(why_no_aws_cli()), reason=why_no_aws_cli() or "there is one")
def test_an_instance_reads_secrets_by_its_profile(ec2: Any, double: Double, launch: Launch) -> None:
    double.boto3("iam").create_instance_profile(InstanceProfileName="reader")
    double.boto3("secretsmanager").create_secret(Name="word", SecretString="hush")
    instance_id = launch(
        "aws secretsmanager get-secret-value --secret-id word --query SecretString --output text; poweroff",
        IamInstanceProfile={"Name": "reader"},
    )
    ended(double, instance_id)
    assert "hush" in console(ec2, instance_id)
    [call] = double.calls("GetSecretValue")
    assert (call["code"], call["access_key"]) == ("", NODE_KEY)


def test_nothing_runs_after_termination_death_and_reset(ec2: Any, double: Double, launch: Launch) -> None:
    mark = f"rv-{os.getpid()}"
    script = f"exec -a {mark} sleep 1000"

    def running() -> int:
        return sum(mark.encode() in line for line in cmdlines())

    one, two, three = launch(script), launch(script), launch(script)
    deadline = time.monotonic() + 20
    while running() < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running() == 3
    ec2.terminate_instances(InstanceIds=[one])
    double("die", instance=two)
    assert ended(double, one) == "Client.UserInitiatedShutdown"
    assert ended(double, two) == "Server.InternalError"
    assert running() == 1
    assert three in double.state()["instances"]
    double.reset()
    assert running() == 0


def cmdlines() -> Iterator[bytes]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # ended meanwhile
            yield Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_lifetime_cap_ends_an_instance(ec2: Any, double: Double, launch: Launch) -> None:
    double.settings(minute_s=0.2)
    instance_id = launch("shutdown -h +5; sleep 1000")
    assert ended(double, instance_id) == "Client.InstanceInitiatedShutdown"


def test_a_node_that_never_boots_runs_and_says_nothing(ec2: Any, double: Double, launch: Launch) -> None:
    double("never_boot")
    double.settings(status_check_s=0.0, visible_s=0.0)
    instance_id = launch("echo hello; poweroff")
    assert console(ec2, instance_id) == ""
    [status] = ec2.describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"]
    assert status["InstanceStatus"]["Status"] == "impaired"
    ec2.terminate_instances(InstanceIds=[instance_id])
    assert ended(double, instance_id) == "Client.UserInitiatedShutdown"

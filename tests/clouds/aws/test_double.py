"""The double as a process: what it serves besides volumes and instances, how fast it is, and that it leaves nothing."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.clouds.aws.client import Double
from tests.clouds.aws.conftest import AMI_PARAMETER, SETTLED_S, ZONE


def test_the_image_of_the_public_parameter_exists(ec2: Any, double: Double) -> None:
    ami = double.boto3("ssm").get_parameter(Name=AMI_PARAMETER)["Parameter"]["Value"]
    [image] = ec2.describe_images(ImageIds=[ami])["Images"]
    assert image["Name"].startswith("al2023-ami-2023")
    assert (image["Architecture"], image["RootDeviceName"]) == ("x86_64", "/dev/xvda")
    [disk] = image["BlockDeviceMappings"]
    assert (disk["DeviceName"], disk["Ebs"]["VolumeSize"], disk["Ebs"]["VolumeType"]) == ("/dev/xvda", 8, "gp3")


def test_there_is_a_default_subnet_in_each_zone(ec2: Any) -> None:
    zones = {z["ZoneName"] for z in ec2.describe_availability_zones()["AvailabilityZones"]}
    subnets = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    assert ZONE in zones
    assert {s["AvailabilityZone"] for s in subnets} == zones


def test_the_other_services_are_there(double: Double) -> None:
    s3 = double.boto3("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="a/b c", Body=b"x" * 100_000)
    assert s3.get_object(Bucket="bucket", Key="a/b c")["Body"].read() == b"x" * 100_000
    assert s3.head_object(Bucket="bucket", Key="a/b c")["ContentLength"] == 100_000
    assert [o["Key"] for o in s3.list_objects_v2(Bucket="bucket")["Contents"]] == ["a/b c"]
    secrets = double.boto3("secretsmanager")
    secrets.create_secret(Name="s", SecretString="quiet")
    assert secrets.get_secret_value(SecretId="s")["SecretString"] == "quiet"
    ssm = double.boto3("ssm")
    ssm.put_parameter(Name="/p", Value="quiet", Type="SecureString")
    assert ssm.get_parameter(Name="/p", WithDecryption=True)["Parameter"]["Value"] == "quiet"
    assert double.boto3("sts").get_caller_identity()["Account"] == "123456789012"
    assert double.counts()["s3:PutObject"] == 1
    double.reset()
    assert double.counts() == {}
    assert "s3:PutObject" in double.actions()
    assert double.actions("nobody's") == []
    assert s3.list_buckets()["Buckets"] == []


def test_a_region_that_nobody_asked_for_is_refused(double: Double, refuses: Any) -> None:
    import boto3

    elsewhere = boto3.client(
        "ec2", region_name="eu-west-1", endpoint_url=double.url, aws_access_key_id="x", aws_secret_access_key="x"
    )
    with refuses("AuthFailure"):
        elsewhere.describe_volumes()


def test_256_volumes_and_instances_by_32_threads_take_seconds(ec2: Any, double: Double, ami: str) -> None:
    double.freeze(False)
    double.settings(bucket_scale=0)

    def one(n: int) -> None:
        tags = [{"Key": "rank", "Value": str(n)}, {"Key": "group", "Value": "g"}]
        ec2.create_volume(
            AvailabilityZone=ZONE,
            Size=1,
            VolumeType="gp3",
            TagSpecifications=[{"ResourceType": "volume", "Tags": tags}],
        )
        ec2.run_instances(
            ImageId=ami,
            InstanceType="m7i.large",
            MinCount=1,
            MaxCount=1,
            UserData="x" * 8_000,
            Placement={"AvailabilityZone": ZONE},
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )

    started = time.process_time()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(256)))
    double.advance(SETTLED_S)  # the last one may be too fresh to be listed
    assert len(ec2.describe_volumes(Filters=[{"Name": "tag:group", "Values": ["g"]}])["Volumes"]) == 256
    assert len(double.state()["instances"]) == 256
    # The client's own CPU time; the double's share shows in how long the calls took on its side.
    mine_s = time.process_time() - started
    calls = double.calls()
    assert sorted(c["took_s"] for c in calls)[len(calls) // 2] < 0.25, (
        f"median of a call; the client took {mine_s:.1f} s"
    )


def test_a_bug_of_the_double_fails_the_test_whatever_became_of_its_answer(tmp_path: Path) -> None:
    def meet() -> None:
        double.settings(latency_s={"*": "not a number"})
        with pytest.raises(ClientError, match="DoubleHasABug"):
            double.boto3("ec2").create_volume(AvailabilityZone=ZONE, Size=1)

    double = Double(tmp_path / "double").start()
    meet()
    assert "ec2:CreateVolume: Traceback" in double.bugs()[0]
    assert double.bugs() == []
    meet()
    double.reset()
    with pytest.raises(AssertionError, match="ec2:CreateVolume"):
        double.stop()
    assert not double.is_up


def test_the_process_ends_on_sigterm_while_calls_hang_and_leaves_only_its_log(tmp_path: Path) -> None:
    double = Double(tmp_path / "double").start()
    pid, url = double.pid, double.url
    double.fault("hang", "DescribeVolumes", times=-1)
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(double.boto3("ec2").describe_volumes)
        double.wait_held()
        double.stop()
        assert caller.exception(10) is not None
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/_double/health", timeout=5)
    assert [p.name for p in (tmp_path / "double").iterdir()] == ["double.log"]
    assert (tmp_path / "double/double.log").read_text() == ""


def test_a_connection_of_airflows_leads_to_the_double(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in double.env().items():
        monkeypatch.setenv(name, value)
    code = (
        "from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook as H\n"
        "print(H('aws_default', client_type='ec2').get_conn().describe_volumes()['Volumes'])"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("[]"), done.stderr
    assert double.counts() == {"ec2:DescribeVolumes": 1}

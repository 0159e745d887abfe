"""The double's rules about RunInstances and how instances end (API:RunInstances, API:TerminateInstances, idem)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.clouds.aws.conftest import OTHER_ZONE, SETTLED_S, ZONE

Make = Callable[..., str]


def instance(ec2: Any, instance_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return found


def default_subnet(ec2: Any, zone: str) -> str:
    wish = [{"Name": "availability-zone", "Values": [zone]}, {"Name": "default-for-az", "Values": ["true"]}]
    return str(ec2.describe_subnets(Filters=wish)["Subnets"][0]["SubnetId"])


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"InstanceType": "m99.large"}, "InvalidParameterValue"),
        ({"InstanceType": "m7g.large"}, "InvalidParameterValue"),  # arm64, and the image is x86_64
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "al2023"}, "InvalidAMIID.Malformed"),
        ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"SecurityGroups": ["nobody"]}, "InvalidGroup.NotFound"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
        ({"Placement": {"AvailabilityZone": "us-east-1z"}}, "InvalidParameterValue"),
        ({"UserData": "x" * (16 * 1024 + 1)}, "InvalidParameterValue"),
        ({"ClientToken": "t" * 65}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        ({"MinCount": 0, "MaxCount": 1}, "InvalidParameterValue"),
        ({"InstanceInitiatedShutdownBehavior": "hibernate"}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpTokens": "sometimes"}}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpPutResponseHopLimit": 65}}, "InvalidParameterValue"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 7}}]}, "InvalidBlockDeviceMapping"),
        ({"BlockDeviceMappings": [{"DeviceName": "xvda", "Ebs": {"VolumeSize": 9}}]}, "InvalidParameterValue"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "io1"}}]}, "MissingParameter"),
        (
            {"TagSpecifications": [{"ResourceType": "snapshot", "Tags": [{"Key": "k", "Value": "v"}]}]},
            "InvalidParameterValue",
        ),
        ({"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.04"}}}, "SpotMaxPriceTooLow"),
        ({"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "x"}}}, "InvalidParameterValue"),
        ({"LaunchTemplate": {"LaunchTemplateName": "x"}}, "UnsupportedOperation"),
    ],
    ids=lambda value: str(value)[:70],
)
def test_a_launch_is_refused(double: Any, start: Make, refuses: Any, params: dict[str, Any], code: str) -> None:
    with refuses(code):
        start(**params)
    assert double.state()["instances"] == double.state()["volumes"] == {}


def test_user_data_of_16_kib_are_taken_whatever_base64_makes_of_them(start: Make) -> None:
    assert start(UserData=os.urandom(16 * 1024))


def test_a_launch_shows_what_was_asked_for(ec2: Any, double: Any, make_instance: Make) -> None:
    iam = double.boto3("iam")
    arn = iam.create_instance_profile(InstanceProfileName="node")["InstanceProfile"]["Arn"]
    ec2.create_key_pair(KeyName="key")
    group = ec2.create_security_group(GroupName="group", Description="d")["GroupId"]
    subnet = default_subnet(ec2, OTHER_ZONE)
    tags = [{"Key": "k", "Value": "v"}]
    instance_id = make_instance(
        SubnetId=subnet,
        SecurityGroupIds=[group],
        KeyName="key",
        IamInstanceProfile={"Arn": arn},
        ClientToken="t",
        InstanceInitiatedShutdownBehavior="terminate",
        MetadataOptions={"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.06"}},
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "VolumeType": "gp2"}}],
        TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    )
    found = instance(ec2, instance_id)
    assert found["State"] == {"Code": 16, "Name": "running"}
    assert found["Placement"]["AvailabilityZone"] == OTHER_ZONE
    assert found["SubnetId"] == subnet
    assert found["SecurityGroups"] == [{"GroupId": group, "GroupName": "group"}]
    assert (found["KeyName"], found["ClientToken"], found["Tags"]) == ("key", "t", tags)
    assert found["IamInstanceProfile"]["Arn"] == arn
    assert found["InstanceLifecycle"] == "spot"
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    [mapping] = found["BlockDeviceMappings"]
    [root] = ec2.describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"]
    assert (root["Size"], root["VolumeType"], root["Tags"]) == (20, "gp2", tags)
    assert mapping["Ebs"]["DeleteOnTermination"] is True


def test_a_launch_is_for_the_default_subnet_of_its_zone(ec2: Any, make_instance: Make, refuses: Any) -> None:
    found = instance(ec2, make_instance(Placement={"AvailabilityZone": OTHER_ZONE}))
    assert found["SubnetId"] == default_subnet(ec2, OTHER_ZONE)
    with refuses("InvalidParameterValue"):
        make_instance(SubnetId=default_subnet(ec2, ZONE), Placement={"AvailabilityZone": OTHER_ZONE})


def test_instances_of_one_launch_differ_by_their_index(ec2: Any, ami: str) -> None:
    made = ec2.run_instances(ImageId=ami, InstanceType="m7i.large", MinCount=3, MaxCount=3)
    assert [i["AmiLaunchIndex"] for i in made["Instances"]] == [0, 1, 2]
    assert len({i["PrivateIpAddress"] for i in made["Instances"]}) == 3


def test_a_token_launches_once(ec2: Any, double: Any, start: Make, refuses: Any) -> None:
    first = start(ClientToken="t", UserData="a")
    assert start(ClientToken="t", UserData="a") == first
    assert len(double.state()["instances"]) == 1
    with refuses("IdempotentParameterMismatch"):
        start(ClientToken="t", UserData="b")


def test_the_token_of_a_terminated_instance_launches_nothing(ec2: Any, double: Any, start: Make, refuses: Any) -> None:
    instance_id = start(ClientToken="t")
    double.advance(SETTLED_S)
    ec2.terminate_instances(InstanceIds=[instance_id])
    assert start(ClientToken="t") == instance_id
    double.advance(SETTLED_S)
    with refuses("IdempotentInstanceTerminated"):
        start(ClientToken="t")
    double.advance(2 * 3600)  # it is not even listed any more
    with refuses("IdempotentInstanceTerminated"):
        start(ClientToken="t")


def test_states_take_time(ec2: Any, double: Any, start: Make) -> None:
    instance_id = start()
    double.advance(0.05)
    assert instance(ec2, instance_id)["State"]["Name"] == "pending"
    double.advance(SETTLED_S)
    assert instance(ec2, instance_id)["State"]["Name"] == "running"
    changed = ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"][0]
    assert (changed["PreviousState"]["Name"], changed["CurrentState"]["Name"]) == ("running", "shutting-down")
    double.advance(0.03)
    assert instance(ec2, instance_id)["State"]["Name"] == "shutting-down"
    double.advance(SETTLED_S)
    found = instance(ec2, instance_id)
    assert found["State"] == {"Code": 48, "Name": "terminated"}
    assert found["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert found["StateTransitionReason"].startswith("User initiated (")
    assert "SubnetId" not in found
    assert found["BlockDeviceMappings"] == []


def test_a_terminated_instance_stays_listed_for_an_hour_and_loses_its_tags_before(
    ec2: Any, double: Any, make_instance: Make, refuses: Any
) -> None:
    double.settings(terminated_tags_s=60)
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "k", "Value": "v"}]}]
    instance_id = make_instance(TagSpecifications=tags)
    ec2.terminate_instances(InstanceIds=[instance_id])
    double.advance(30)
    assert "Tags" in instance(ec2, instance_id)
    assert ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    double.advance(60)
    assert "Tags" not in instance(ec2, instance_id)
    assert ec2.describe_instances(Filters=[{"Name": "tag:k", "Values": ["v"]}])["Reservations"] == []
    double.advance(3540)
    with refuses("InvalidInstanceID.NotFound"):
        instance(ec2, instance_id)
    with refuses("InvalidInstanceID.NotFound"):
        ec2.terminate_instances(InstanceIds=[instance_id])


@pytest.mark.parametrize(("unknown", "code"), [(1, "InvalidInstanceID.NotFound"), (1000, "InvalidParameterValue")])
def test_an_unknown_id_or_too_many_keep_all_from_being_terminated(
    ec2: Any, make_instance: Make, refuses: Any, unknown: int, code: str
) -> None:
    instance_id = make_instance()
    with refuses(code):
        ec2.terminate_instances(InstanceIds=[instance_id, *(f"i-{number:017x}" for number in range(unknown))])
    assert instance(ec2, instance_id)["State"]["Name"] == "running"


@pytest.mark.parametrize(("behavior", "state"), [(None, "stopped"), ("stop", "stopped"), ("terminate", "terminated")])
def test_powering_off_is_what_the_shutdown_behaviour_says(
    ec2: Any, double: Any, make_instance: Make, behavior: str | None, state: str
) -> None:
    instance_id = make_instance(**{"InstanceInitiatedShutdownBehavior": behavior} if behavior else {})
    double("power_off", instance=instance_id)
    double.advance(SETTLED_S)
    found = instance(ec2, instance_id)
    assert found["State"]["Name"] == state
    assert found["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_a_dying_host_and_a_launch_that_fails_have_their_reasons(ec2: Any, double: Any, make_instance: Make) -> None:
    instance_id = make_instance()
    double("die", instance=instance_id)
    double("fail_launch", reason="Server.InsufficientInstanceCapacity")
    other = make_instance()
    double.advance(SETTLED_S)
    assert instance(ec2, instance_id)["StateReason"]["Code"] == "Server.InternalError"
    assert instance(ec2, other)["StateReason"]["Code"] == "Server.InsufficientInstanceCapacity"
    assert instance(ec2, other)["State"]["Name"] == "terminated"


def test_a_spot_instance_is_reclaimed_after_its_notice(ec2: Any, double: Any, make_instance: Make) -> None:
    instance_id = make_instance(InstanceMarketOptions={"MarketType": "spot"})
    double("reclaim", instance=instance_id)
    double.advance(119)
    assert instance(ec2, instance_id)["State"]["Name"] == "running"
    double.advance(2)
    found = instance(ec2, instance_id)
    assert found["State"]["Name"] == "terminated"
    assert found["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    with pytest.raises(ValueError, match="no spot instance"):
        double("reclaim", instance=make_instance())


def test_capacity_can_lack_for_a_while_in_a_zone(double: Any, start: Make, refuses: Any) -> None:
    double("no_capacity", zone=ZONE, type="m7i.large", times=2)
    assert start(InstanceType="m7i.xlarge")
    assert start(Placement={"AvailabilityZone": OTHER_ZONE})
    for _ in range(2):
        with refuses("InsufficientInstanceCapacity"):
            start()
    assert start()


def test_a_type_that_a_zone_lacks_is_unsupported_there(ec2: Any, double: Any, start: Make, refuses: Any) -> None:
    rows = ec2.describe_instance_type_offerings(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["m7i.large"]}]
    )["InstanceTypeOfferings"]
    lacking = {z["ZoneName"] for z in ec2.describe_availability_zones()["AvailabilityZones"]} - {
        row["Location"] for row in rows
    }
    assert lacking == {"us-east-1e"}
    with refuses("Unsupported"):
        start(Placement={"AvailabilityZone": "us-east-1e"})
    double("unsupported", zone=ZONE, type="m7i.large")
    with refuses("Unsupported"):
        start()


def test_the_quota_of_vcpus_holds(double: Any, start: Make, refuses: Any) -> None:
    double.settings(vcpu_quota=3)
    start()
    with refuses("VcpuLimitExceeded"):
        start()


def test_a_dry_run_looks_at_the_parameters_and_launches_nothing(double: Any, start: Make, refuses: Any) -> None:
    with refuses("DryRunOperation"):
        start(DryRun=True)
    with refuses("InvalidKeyPair.NotFound"):
        start(DryRun=True, KeyName="nobody")
    assert double.state()["instances"] == {}


def test_nodes_can_end_at_once_by_a_script(ec2: Any, double: Any, make_instance: Make) -> None:
    double("end_nodes", after_s=0.1, script="tests.clouds.aws.test_instances:report")
    instance_id = make_instance(InstanceInitiatedShutdownBehavior="terminate", UserData="do it")
    double.advance(SETTLED_S)
    assert instance(ec2, instance_id)["State"]["Name"] == "terminated"
    assert ec2.get_console_output(InstanceId=instance_id)["Output"] == f"{instance_id} did: do it"


def report(view: dict[str, Any], user_data: bytes) -> str:
    return f"{view['InstanceId']} did: {user_data.decode()}"


def test_what_is_not_modelled_is_an_error(ec2: Any, make_instance: Make, refuses: Any) -> None:
    with refuses("UnsupportedOperation"):
        ec2.reboot_instances(InstanceIds=[make_instance()])

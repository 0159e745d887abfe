"""What is refused before anything is created, each with what would work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_rankvol.backends._aws_places import DEFAULT_TYPES
from airflow_rankvol.errors import AuthDenied, ConfigError, FinalError
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.spec.job import RankJob
from tests.clouds.aws.backend.kit import OTHER_ZONE, ZONE, Lab

ANY_SECRET = {"secret_env": {"TOKEN": "/token"}}


def plan(**fields: Any) -> Plan:
    job = {"nodes": 4, "volumes": "data-${NODE_RANK}:/data", "commands": ["true"], **fields}
    return make_plan(RankJob.model_validate(job), RunIdentity("lab", "dag", "run-1", "group"))


def test_a_job_that_says_little_is_fine(lab: Lab) -> None:
    lab.backend.check(plan())
    counts = lab.double.counts()
    assert all(number <= 3 for number in counts.values()), counts


def test_a_job_that_says_much_is_fine(lab: Lab) -> None:
    lab.backend.check(
        plan(
            volume_template={"type": "io2", "iops": 1000, "size": "100GB", "tags": {"team": "etl"}},
            node={
                "machine_type": "c7i.xlarge, c6i.xlarge",
                "zones": "us-east-1a, us-east-1b",
                "spot": True,
                "max_price": "1",
                "root_size": "20GB",
                "tags": {"team": "etl"},
            },
            gather=["true"],
            gather_node={"machine_type": "m7i.2xlarge"},
        )
    )
    assert lab.double.state()["volumes"] == {}
    assert lab.double.state()["instances"] == {}


def test_what_is_of_another_cloud_is_ignored_with_a_word(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.backend.check(plan(node={"service_account": "a@b", "external_ip": True}))
    assert "ignored on AWS, because they are Google Cloud's: node.service_account, node.external_ip" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"volume_template": {"type": "gp9"}}, "type 'gp9' .*expected one of gp3"),
        ({"volume_template": {"reclaim": "snapshot"}}, "reclaim='snapshot'.*'retain'"),
        ({"volume_template": {"image": "x"}}, "image='x'"),
        ({"volume_template": {"snapshot": "snap-0123456789abcdef0"}}, "no snapshot snap-0123456789abcdef0"),
        ({"volume_template": {"tags": {str(n): "x" for n in range(40)}}}, "5[0-9] tags.*takes 50"),
        ({"node": {"zones": "eu-west-1a"}}, "'eu-west-1a' is no zone.*us-east-1a"),
        ({"node": {"machine_type": "x9.huge"}}, "no 'x9.huge'"),
        ({"node": {"image": "debian"}}, "'debian' was found.*ami-.*ssm:"),
        ({"node": {"subnets": "subnet-0123"}}, "no subnet subnet-0123"),
        ({"node": {"security_groups": "sg-0123"}}, "no sg-0123"),
        ({"node": {"tags": {"a b": "c"}}}, "'a b'.*metadata service"),
        ({"node": {"tags": {str(n): "x" for n in range(20)}}, "rendezvous": True}, "tags.*takes 50"),
        ({"node": {"report": "ssm"}}, r"node\.instance_profile is not set.*report='ssm'"),
        ({"node": {"root_size": "1GB"}}, "root_size.*needs at least"),
        ({"node": {"root_type": "io2"}}, "root_type: 'io2'.*gp3, gp2"),
        ({"node": {"root_type": "st1", "root_size": "200GB"}}, "root_type: 'st1'.*gp3, gp2"),
        ({"node": {"machine_type": "i3.large"}}, r"i3\.large shows volumes not as NVMe devices"),
        ({"node": {"tags": {"Name": "mine"}}}, r"node\.tags: 'Name'"),
        ({"volume_template": {"tags": {"Name": "mine"}}}, "tag 'Name' is the volume's name"),
        ({"nodes": 600, "rendezvous": True}, "at most 512 start together"),
        (
            {"volumes": [f"d{n}-${{NODE_RANK}}:/d{n}" for n in range(40)], "nodes": 1},
            "takes [0-9]+ volumes.*gets the 40",
        ),
        ({"secret_env": {"TOKEN": "token"}}, "secret_env.TOKEN: 'token'.*secretsmanager:NAME"),
        (ANY_SECRET, r"node\.instance_profile is not set.*/token"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_work_is_refused(lab: Lab, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lab.backend.check(plan(**fields))


def test_a_type_that_a_zone_lacks_names_zones_that_have_it(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"m7i\.large is not offered in zone us-east-1e.*us-east-1a"):
        lab.backend.check(plan(node={"machine_type": "m7i.large", "zones": "us-east-1e"}))


AMAZON_LINUX = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-"


@pytest.mark.parametrize("where", ["node", "gather_node"])
@pytest.mark.parametrize(
    ("image", "types", "message"),
    [
        ("x86_64", "m7i.large, m7g.large", r"m7g\.large boots images of arm64, and {}\.image ssm:\S+ is one of x86_64"),
        ("arm64", "m7g.large, m7i.large", r"m7i\.large boots images of x86_64, and {}\.image ssm:\S+ is one of arm64"),
        ("arm64", None, r"m7i\.large boots images of x86_64, and {}\.image ssm:\S+ is one of arm64"),
    ],
)
def test_a_machine_type_that_does_not_boot_the_image_is_refused_whichever_of_the_list(
    lab: Lab, where: str, image: str, types: str | None, message: str
) -> None:
    """At a launch that comes to it, EC2 would refuse for good what may be had later on another type."""
    fields: dict[str, Any] = {where: {"image": f"ssm:{AMAZON_LINUX}{image}", "machine_type": types}, "gather": ["true"]}
    expected = rf"^{where}\.machine_type: {message.format(where)}; expected types that boot it\. Name only such"
    with pytest.raises(ConfigError, match=expected):
        lab.backend.check(plan(**fields))


def test_a_machine_type_that_shows_volumes_otherwise_is_refused_whichever_of_the_list(lab: Lab) -> None:
    """Its nodes would wait in vain for their devices."""
    with pytest.raises(
        ConfigError, match=r"^node\.machine_type: t2\.micro shows volumes not as NVMe.*Choose a newer one"
    ):
        lab.backend.check(plan(node={"machine_type": "t3.micro, t2.micro"}))


@pytest.mark.parametrize(
    ("image", "types"),
    [("x86_64", "m7i.large, m5.large"), ("arm64", "m7g.large, c7g.large"), ("", "m7i.large, m7g.large")],
)
def test_machine_types_that_boot_the_image_or_have_one_each_are_fine(lab: Lab, image: str, types: str) -> None:
    named = {"image": f"ssm:{AMAZON_LINUX}{image}"} if image else {}
    lab.backend.check(plan(node={"machine_type": types, **named}))


def test_nothing_is_asked_of_a_default_machine_type_that_the_region_lacks(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EC2 answers with an error (API Reference, "Error codes": InvalidInstanceType)."""
    offered = {**lab.backend.places.offers(DEFAULT_TYPES), "m7i.large": frozenset[str]()}
    monkeypatch.setattr(lab.backend.places, "offers", lambda _types: offered)
    lab.backend.check(plan())
    asked = {name for call in lab.double.calls("DescribeInstanceTypes") for name in call["params"]["InstanceTypes"]}
    assert asked == {"m6i.large", "m5.large"}


def test_a_subnet_of_another_zone_is_refused_with_the_right_one(lab: Lab) -> None:
    subnets = lab.double.boto3("ec2").describe_subnets()["Subnets"]
    zones = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in subnets}
    lab.backend.check(plan(node={"subnets": {zone: zones[zone] for zone in ("us-east-1a", "us-east-1b")}}))
    with pytest.raises(ConfigError, match="lies in us-east-1b, the volumes in us-east-1a"):
        lab.backend.check(plan(node={"subnets": zones["us-east-1b"], "zones": "us-east-1a"}))


@pytest.mark.parametrize("zones", ["us-east-1a", "us-east-1b, us-east-1a"])
def test_subnets_of_gather_that_leave_out_a_zone_of_the_volumes_are_refused(lab: Lab, zones: str) -> None:
    """Gather would be launched in the default VPC there; a zone that ranks may move to counts, too."""
    subnets = lab.double.boto3("ec2").describe_subnets()["Subnets"]
    ids = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in subnets}
    fields = {"nodes": 1, "gather": ["true"], "node": {"zones": zones}}
    found = {"us-east-1b": ids["us-east-1b"]}
    message = (
        r"gather_node\.subnets has none for zone us-east-1a.*found some for us-east-1b; expected one for each of us"
    )
    with pytest.raises(ConfigError, match=message):
        lab.backend.check(plan(**fields, gather_node={"subnets": found}))
    lab.backend.check(plan(**fields, gather_node={"subnets": {**found, "us-east-1a": ids["us-east-1a"]}}))


def test_a_job_without_zones_gets_one_for_which_gather_has_a_subnet(lab: Lab) -> None:
    subnets = lab.double.boto3("ec2").describe_subnets()["Subnets"]
    for subnet in subnets[:3]:
        lab.backend.check(
            plan(gather=["true"], gather_node={"subnets": {subnet["AvailabilityZone"]: subnet["SubnetId"]}})
        )


def test_a_snapshot_that_is_larger_is_refused(lab: Lab) -> None:
    snapshot = lab.double.boto3("ec2").create_snapshot(VolumeId=lab.volume(size="20GB").id)["SnapshotId"]
    lab.settle()
    with pytest.raises(ConfigError, match="needs at least 20 GiB"):
        lab.backend.check(plan(volume_template={"size": "10GB", "snapshot": snapshot}))
    lab.backend.check(plan(volume_template={"size": "20GB", "snapshot": snapshot}))


@pytest.mark.parametrize("sizes", [("10GB", "60GB"), ("60GB", "10GB")])
def test_each_mount_of_a_snapshot_has_to_hold_it(lab: Lab, sizes: tuple[str, str]) -> None:
    snapshot = lab.double.boto3("ec2").create_snapshot(VolumeId=lab.volume(size="20GB").id)["SnapshotId"]
    lab.settle()
    mounts = [
        {"name": f"of-{size.lower()}-${{NODE_RANK}}", "path": f"/{size}", "snapshot": snapshot, "size": size}
        for size in sizes
    ]
    with pytest.raises(ConfigError, match=r"volume of-10gb-.* size 10GB.* needs at least 20 GiB"):
        lab.backend.check(plan(volumes=mounts))


def test_a_name_that_two_volumes_have_cannot_be_adopted(lab: Lab) -> None:
    lab.foreign_volume("dataset-0")
    lab.backend.check(plan(volumes="dataset-${NODE_RANK}:/data", volume_template={"scope": "global"}))
    lab.foreign_volume("dataset-0")
    with pytest.raises(ConfigError, match="2 volumes have that name"):
        lab.backend.check(plan(volumes="dataset-${NODE_RANK}:/data", volume_template={"scope": "global"}))


def test_another_owners_volume_cannot_be_adopted(lab: Lab) -> None:
    """One of our own that carries another key can."""
    job = {"volumes": "dataset-${NODE_RANK}:/data", "volume_template": {"scope": "global"}}
    lab.other().volume(2, name="dataset-2")
    lab.backend.check(plan(**job))
    replace(lab, owner="somebody").volume(1, name="dataset-1")
    with pytest.raises(
        ConfigError, match=r"volume dataset-1 .* is owner 'somebody''s.*expected no owner's, or 'lab''s.*Rename"
    ):
        lab.backend.check(plan(**job))


def adopting(**fields: Any) -> Plan:
    return plan(volumes="dataset-${NODE_RANK}:/data", volume_template={"scope": "global"}, **fields)


def subnets_by_zone(lab: Lab) -> dict[str, str]:
    subnets = lab.double.boto3("ec2").describe_subnets()["Subnets"]
    return {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in subnets}


@pytest.mark.parametrize("zones", ["", ZONE])
@pytest.mark.parametrize("several", [True, False])
def test_a_subnet_that_leaves_out_the_zone_of_an_adopted_volume_is_refused(lab: Lab, several: bool, zones: str) -> None:
    """Its node would lie in the default VPC, or in a zone in which the volume cannot be attached."""
    ids = subnets_by_zone(lab)
    volume = lab.foreign_volume("dataset-1", zone=OTHER_ZONE)
    node = {"subnets": {ZONE: ids[ZONE]} if several else ids[ZONE], **({"zones": zones} if zones else {})}
    message = (
        rf"node\.subnets: volume dataset-1 \({volume}\) lies in zone {OTHER_ZONE}, and its node has to.*"
        rf"found subnets of {ZONE}, expected one of {OTHER_ZONE}\. Add it, as in"
    )
    with pytest.raises(ConfigError, match=message):
        lab.backend.check(adopting(nodes=2, node=node))
    both = {zone: ids[zone] for zone in (ZONE, OTHER_ZONE)}
    lab.backend.check(adopting(nodes=2, node={**node, "subnets": both}))


def test_a_volume_that_is_being_deleted_counts_for_nothing(lab: Lab) -> None:
    """Its zone is no node's, and one that has its name by now is the only one; as create_volumes has it."""
    ids = subnets_by_zone(lab)
    job = adopting(nodes=1, node={"subnets": {ZONE: ids[ZONE]}})
    gone = lab.foreign_volume("dataset-0", zone=OTHER_ZONE)
    with pytest.raises(ConfigError, match=OTHER_ZONE):
        lab.backend.check(job)
    lab.double.settings(delete_volume_s=30.0)
    lab.double.boto3("ec2").delete_volume(VolumeId=gone)
    lab.settle()
    lab.backend.check(job)
    lab.foreign_volume("dataset-0")
    lab.backend.check(job)
    assert lab.double.state()["volumes"][gone]["State"] == "deleting"


def test_gathers_subnets_have_to_be_where_adopted_volumes_lie(lab: Lab) -> None:
    ids = subnets_by_zone(lab)
    lab.foreign_volume("dataset-0", zone=OTHER_ZONE)
    with pytest.raises(ConfigError, match=r"gather_node\.subnets: volume dataset-0"):
        lab.backend.check(adopting(nodes=1, gather=["true"], gather_node={"subnets": {ZONE: ids[ZONE]}}))


def test_the_zone_of_an_adopted_volume_decides_what_else_has_to_be_there(lab: Lab) -> None:
    """The machine type, for one; and ranks without a volume go where the others' lie."""
    lab.foreign_volume("dataset-0", zone="us-east-1e")
    with pytest.raises(ConfigError, match=r"m7i\.large is not offered in zone us-east-1e"):
        lab.backend.check(adopting(nodes=2, node={"machine_type": "m7i.large"}))


def test_the_volumes_of_a_rank_have_to_lie_in_one_zone(lab: Lab) -> None:
    lab.foreign_volume("dataset-0", zone=ZONE)
    lab.foreign_volume("index-0", zone=OTHER_ZONE)
    volumes = ["dataset-${NODE_RANK}:/data", "index-${NODE_RANK}:/index"]
    with pytest.raises(
        ConfigError, match=rf"rank 0: volume dataset-0 .* lies in zone {ZONE}, volume index-0 .* in {OTHER_ZONE}"
    ):
        lab.backend.check(plan(nodes=1, volumes=volumes, volume_template={"scope": "global"}))


def test_a_volume_of_dag_scope_decides_where_its_node_lies_too(lab: Lab) -> None:
    ids = subnets_by_zone(lab)
    rig = lab.rig(1, node={"zones": OTHER_ZONE}, volume_template={"scope": "dag"})
    rig.create()
    lab.settle()
    later = lab.rig(1, node={"subnets": {ZONE: ids[ZONE]}}, volume_template={"scope": "dag"})
    with pytest.raises(ConfigError, match=rf"lies in zone {OTHER_ZONE}, and its node has to"):
        lab.backend.check(later.plan)


def test_no_node_is_launched_for_whose_zone_there_is_no_subnet(lab: Lab) -> None:
    """Whatever plan has seen: it would lie in the default VPC."""
    volume = lab.volume(zone=OTHER_ZONE)
    request = lab.node_request(volume, zone=OTHER_ZONE, subnets={ZONE: subnets_by_zone(lab)[ZONE]})
    with pytest.raises(FinalError, match=rf"subnets has none for zone {OTHER_ZONE}.*found some for {ZONE}"):
        lab.backend.create_node(request)
    assert lab.count("RunInstances") == 0


@pytest.mark.parametrize("action", ["CreateVolume", "RunInstances"])
def test_a_missing_right_is_told_in_full(lab: Lab, action: str) -> None:
    """STS says what the refusal is about, where it may be asked."""
    lab.double("deny", actions=[f"ec2:{action}"])
    with pytest.raises(AuthDenied, match=rf"ec2:{action} on .* for arn:aws.*docs/aws\.md"):
        lab.backend.check(plan())


def test_a_missing_right_is_told_without_sts_too(lab: Lab) -> None:
    lab.double("deny", actions=["ec2:RunInstances", "sts:*"])
    with pytest.raises(AuthDenied, match="RunInstances answered UnauthorizedOperation: You are not authorized"):
        lab.backend.check(plan())


@pytest.mark.parametrize("state", ["expired", "invalid"])
def test_credentials_that_do_not_count_say_so(lab: Lab, state: str) -> None:
    lab.double("credentials", state=state)
    with pytest.raises(AuthDenied, match="credentials of the connection are not valid"):
        lab.backend.check(plan())
    lab.double("credentials", state="ok")


def test_a_run_id_that_is_too_long_for_a_tag_is_refused(lab: Lab) -> None:
    job = RankJob.model_validate({"nodes": 1, "volumes": "data-${NODE_RANK}:/data", "commands": ["true"]})
    with pytest.raises(ConfigError, match="300 characters"):
        lab.backend.check(make_plan(job, RunIdentity("lab", "dag", "r" * 300, "group")))

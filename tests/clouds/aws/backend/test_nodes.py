"""The life of a node on EC2: launched once, ended only when ours, read by its console."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_rankvol.backends.base import Guard, Selector
from airflow_rankvol.errors import FinalError, NoCapacity, NotOurs, NotReady, RetryableError
from airflow_rankvol.records import NodeState
from tests.clouds.aws.backend.kit import OTHER_ZONE, ZONE, Lab, console_of, report


def test_a_node_is_what_was_asked_for(lab: Lab) -> None:
    volume = lab.volume()
    made = lab.node(volume, spot=True, max_price="0.9", root_size="30GB", tags={"team": "etl"})
    (call,) = lab.double.calls("RunInstances")
    assert call["params"]["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert call["params"]["MetadataOptions"]["HttpTokens"] == "required"
    assert call["params"]["MetadataOptions"]["InstanceMetadataTags"] == "enabled"
    assert call["params"]["InstanceMarketOptions"]["SpotOptions"]["MaxPrice"] == "0.9"
    seen = lab.seen_node(made)
    assert (seen.state, seen.zone, seen.name) == (NodeState.RUNNING, ZONE, made.name)
    assert seen.tags == lab.group.tags(rank=0, attempt=1, role="rank")
    assert seen.address


def test_the_boot_disk_is_ours_but_no_volume_of_the_group(lab: Lab) -> None:
    lab.node(lab.volume())
    described = lab.double.boto3("ec2").describe_volumes()["Volumes"]
    (root,) = [volume for volume in described if any(tag["Key"] == "rankvol:root" for tag in volume["Tags"])]
    assert {"Key": "rankvol:owner", "Value": "lab"} in root["Tags"]
    assert root["Encrypted"]
    for observation in (lab.see(), lab.backend.list_owned(Selector("lab"))):
        assert [volume.name for volume in observation.volumes] == [f"data-{lab.key}-0"]


def test_a_data_disk_of_the_image_goes_with_the_node_and_is_otherwise_the_images(lab: Lab) -> None:
    node = lab.node(lab.volume(), image=lab.image_with_disk(VolumeType="gp3", Iops=3500, VolumeSize=7))
    (view,) = lab.double.state()["instances"].values()
    disks = {item["DeviceName"]: item["Ebs"] for item in view["BlockDeviceMappings"]}
    assert {device: disk["DeleteOnTermination"] for device, disk in disks.items()} == {
        "/dev/xvda": True,
        "/dev/sdb": True,
    }
    disk = lab.double.state()["volumes"][disks["/dev/sdb"]["VolumeId"]]
    assert (disk["Size"], disk["VolumeType"], disk["Iops"]) == (7, "gp3", 3500)
    lab.backend.delete_node(node.id, lab.guard)
    lab.settle()
    assert [volume["Tags"]["Name"] for volume in lab.double.state()["volumes"].values()] == [f"data-{lab.key}-0"]


def test_without_spare_spot_capacity_the_next_machine_type_is_taken(lab: Lab) -> None:
    lab.double.fault("error", "RunInstances", code="UnfulfillableCapacity", message="no spare capacity", status=500)
    node = lab.node(lab.volume(), machine_type="m7i.large, m6i.large", spot=True)
    assert lab.double.state()["instances"][node.id]["InstanceType"] == "m6i.large"


def test_launching_twice_gives_the_same_node(lab: Lab) -> None:
    request = lab.node_request(lab.volume())
    assert lab.backend.create_node(request).id == lab.backend.create_node(request).id
    assert lab.count("RunInstances") == 1


def test_a_lost_answer_launches_no_second_node(lab: Lab) -> None:
    request = lab.node_request(lab.volume())
    lab.double.fault("lose", "RunInstances", when="after")
    with pytest.raises(RetryableError):
        lab.backend.create_node(request)
    lab.backend.create_node(request)
    assert len(lab.double.state()["instances"]) == 1


def test_another_process_with_another_expiry_gets_the_same_node(lab: Lab) -> None:
    """In a rendezvous every rank launches all nodes, each with its own deadline in the tags."""
    volume = lab.volume()
    made = lab.backend.create_node(lab.node_request(volume))
    late = lab.node_request(volume)
    late = type(late)(late.name, late.zone, late.template, late.tags.with_(expiry="2030-01-01T00:00:00+00:00"),
                      late.attachments, late.script, late.lifetime_s, late.token)  # fmt: skip
    with pytest.raises(NotReady, match="another process"):
        lab.process().create_node(late)
    lab.settle()
    assert lab.process().create_node(late).id == made.id


def test_a_node_of_the_same_name_and_key_is_not_taken_for_the_one_another_process_launched(lab: Lab) -> None:
    volume = lab.volume()
    request = lab.node_request(volume)
    foreign = {"Name": request.name, **request.tags.with_(owner="others").to_dict()}
    lab.double.boto3("ec2").run_instances(
        ImageId=lab.double.boto3("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"],
        InstanceType="m7i.large", MinCount=1, MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in foreign.items()]}],
    )  # fmt: skip
    lab.settle()
    made = lab.backend.create_node(request)
    lab.settle()
    late = replace(request, tags=request.tags.with_(expiry="2030-01-01T00:00:00+00:00"))
    assert lab.process().create_node(late).id == made.id


def test_a_node_that_has_ended_since_another_process_launched_it_is_shown_as_ended(lab: Lab) -> None:
    """Its rank reads the record then; waiting for another node of the same attempt would never end."""
    made = lab.node(lab.volume())
    lab.settle()
    lab.backend.delete_node(made.id, lab.guard)
    lab.settle()
    late = lab.node_request(lab.volume())
    late = replace(late, tags=late.tags.with_(expiry="2030-01-01T00:00:00+00:00"))
    again = lab.process().create_node(late)
    assert (again.id, again.state) == (made.id, NodeState.ENDED)


def test_a_node_is_listed_when_ec2_lists_it(lab: Lab) -> None:
    """Who looks next is the triggerer, which knows nothing of this process and would take the node for lost."""
    lab.double.settings(visible_s=5.0)
    made = lab.node(lab.volume())
    assert lab.see().nodes == ()
    lab.settle(5)
    assert lab.seen_node(made).state is NodeState.RUNNING


def test_a_node_lies_in_its_volumes_zone(lab: Lab) -> None:
    volume = lab.volume(zone=OTHER_ZONE)
    lab.backend = lab.process()
    assert lab.node(volume).zone == OTHER_ZONE


def test_volumes_of_two_zones_are_refused(lab: Lab) -> None:
    volumes = lab.volume(0), lab.volume(1, OTHER_ZONE)
    with pytest.raises(FinalError, match=r"zones us-east-1a, us-east-1b.*NodeTemplate\.zones"):
        lab.node(*volumes)
    assert lab.count("RunInstances") == 0


def test_the_next_machine_type_is_taken_where_one_has_no_capacity(lab: Lab) -> None:
    lab.double("no_capacity", type="m7i.large")
    lab.node(lab.volume(), machine_type="m7i.large, m6i.large")
    (instance,) = lab.double.state()["instances"].values()
    assert instance["InstanceType"] == "m6i.large"


def test_no_capacity_at_all_is_tried_again_later(lab: Lab) -> None:
    """What may be had later counts more than what never will."""
    lab.double("no_capacity", type="m7i.large")
    lab.double("unsupported", type="m6i.large")
    with pytest.raises(NoCapacity, match=r"machine_type='m7i\.large, m6i\.large'") as caught:
        lab.node(lab.volume(), machine_type="m7i.large, m6i.large")
    assert "Unsupported" in caught.value.__notes__[0]


def test_a_script_of_more_than_16_kib_is_refused(lab: Lab) -> None:
    import random

    request = lab.node_request(lab.volume())
    script = random.Random(0).randbytes(20_000).hex()
    with pytest.raises(ValueError, match="16384"):
        lab.backend.create_node(type(request)(request.name, ZONE, request.template, request.tags, (), script, 1, "t"))


def test_a_deleted_node_ends_and_is_not_listed_any_more(lab: Lab) -> None:
    made = lab.node(lab.volume())
    lab.see()
    lab.backend.delete_node(made.id, lab.guard)
    lab.settle()
    assert lab.see().nodes == ()
    assert [node.state for node in lab.process().observe(lab.group).nodes] == [NodeState.ENDED]
    assert lab.backend.list_owned(Selector("lab")).nodes == ()
    lab.backend.delete_node(made.id, lab.guard)
    assert lab.count("TerminateInstances") == 1


def test_a_deleted_node_that_still_holds_its_volume_is_listed_as_ended(lab: Lab) -> None:
    """Or its volume would be held by nobody that the engine knows."""
    volume = lab.volume()
    made = lab.node(volume)
    lab.attached(volume, made)  # a third look within the interval would wait, and time move on
    lab.backend.delete_node(made.id, lab.guard)
    assert [node.state for node in lab.see().nodes] == [NodeState.ENDED]
    lab.settle()
    assert lab.see().nodes == ()


def test_deleting_a_node_that_has_ended_takes_no_call(lab: Lab) -> None:
    made = lab.node(lab.volume())
    lab.double("power_off", instance=made.id)
    lab.settle()
    assert lab.seen_node(made).state is NodeState.ENDED
    lab.backend.delete_node(made.id, lab.guard)
    assert lab.see().nodes == ()
    assert lab.count("TerminateInstances") == 0


@pytest.mark.parametrize("known", [True, False])
def test_a_foreign_node_is_not_ended(lab: Lab, known: bool) -> None:
    made = lab.node(lab.volume())
    for guard in (Guard("somebody", lab.key), Guard(lab.owner, "another")):
        with pytest.raises(NotOurs, match="not touched"):
            (lab.backend if known else lab.process()).delete_node(made.id, guard)
    assert lab.count("TerminateInstances") == 0


def test_a_node_that_ec2_does_not_know_yet_is_not_taken_for_gone(lab: Lab) -> None:
    lab.double.settings(visible_s=20.0)
    made = lab.backend.create_node(lab.node_request(lab.volume()))
    with pytest.raises(NotReady):
        lab.backend.delete_node(made.id, lab.guard)


def test_the_report_of_an_ended_node_is_read_once(lab: Lab) -> None:
    made = lab.node(lab.volume())
    lab.double("power_off", instance=made.id, console=console_of(report(exit_code=7)))
    lab.settle()
    lab.see()
    texts = {lab.backend.read_report(made.id) for _ in range(3)}
    assert [json.loads(text)["exit_code"] for text in texts if text] == [7]
    assert lab.count("GetConsoleOutput") == 1
    assert lab.seen_node(made).exit_code == 7


def test_a_console_that_is_late_is_read_once_more(lab: Lab) -> None:
    made = lab.node(lab.volume())
    lab.double("power_off", instance=made.id)
    lab.settle()
    lab.see()
    with pytest.raises(NotReady, match="read once more"):
        lab.backend.read_report(made.id)
    lab.settle(120)  # a connection's poll_interval may be long
    lab.see()
    assert lab.backend.read_report(made.id) is None
    assert lab.backend.read_report(made.id) is None
    assert lab.count("GetConsoleOutput") == 2


def test_a_node_that_was_taken_back_says_so(lab: Lab) -> None:
    made = lab.node(lab.volume(), spot=True)
    lab.double("reclaim", instance=made.id, notice_s=0.0)
    lab.settle()
    seen = lab.seen_node(made)
    assert (seen.state, seen.exit_code) == (NodeState.ENDED, None)
    assert "spot capacity" in seen.reason
    assert lab.backend.read_report(made.id) is None


def test_a_launch_that_ec2_gives_up_says_why(lab: Lab) -> None:
    lab.double("fail_launch")
    made = lab.node(lab.volume())
    assert lab.seen_node(made).reason == "EC2 ended it because of an internal error"


def test_peers_are_ready_with_all_volumes_and_hear_of_each_other(lab: Lab) -> None:
    volumes = [lab.volume(rank) for rank in range(2)]
    nodes = [lab.node(volume, rank=rank) for rank, volume in enumerate(volumes)]
    lab.attached(volumes[0], nodes[0])
    assert [node.ready for node in sorted(lab.see().nodes, key=lambda node: node.name)] == [True, False]
    lab.attached(volumes[1], nodes[1])
    assert all(node.ready and not node.released for node in lab.see().nodes)
    lab.backend.tell_nodes([node.id for node in nodes], {"NODES_IPS": "10.0.0.1\n10.0.0.2"})
    lab.settle()
    assert all(node.released for node in lab.see().nodes)
    assert lab.count("CreateTags") == 1


def test_a_released_node_shows_how_it_ended(lab: Lab) -> None:
    """Its peers have to know whether it succeeded; that is read once, however often one looks."""
    volume = lab.volume()
    made = lab.node(volume)
    lab.see()
    lab.backend.tell_nodes([made.id], {"NODES_IPS": "10.0.0.1"})
    lab.double("power_off", instance=made.id, console=console_of(report(exit_code=3)))
    lab.settle()
    assert [lab.seen_node(made).exit_code for _ in range(3)] == [3, 3, 3]
    assert lab.count("GetConsoleOutput") == 1


def test_a_foreign_node_is_told_nothing(lab: Lab, ami: str) -> None:
    made = lab.double.boto3("ec2").run_instances(ImageId=ami, InstanceType="m7i.large", MinCount=1, MaxCount=1)
    lab.settle()
    with pytest.raises(NotOurs):
        lab.backend.tell_nodes([made["Instances"][0]["InstanceId"]], {"NODES_IPS": "10.0.0.1"})
    assert lab.count("CreateTags") == 0


def test_without_a_template_a_node_is_amazon_linux_on_a_small_machine(lab: Lab, ami: str) -> None:
    lab.node(lab.volume(), machine_type=None)
    (instance,) = lab.double.state()["instances"].values()
    assert (instance["InstanceType"], instance["ImageId"]) == ("m7i.large", ami)


def test_a_graviton_type_gets_the_image_of_its_architecture(lab: Lab, ami: str) -> None:
    lab.node(lab.volume(), machine_type="m7g.large")
    (call,) = lab.double.calls("GetParameter")
    assert call["params"]["Name"].endswith("-arm64")

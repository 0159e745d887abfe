"""What is refused before anything is created, each with what would work."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from airflow_rankvol.backends._gcp_types import FAMILIES
from airflow_rankvol.errors import AuthDenied, ConfigError, FinalError, RetryableError
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.records import NodeState
from airflow_rankvol.spec.job import RankJob
from tests.clouds.gcp.backend.kit import OTHER_ZONE, ZONE, Lab, lab_on
from tests.clouds.gcp.client import Double

ACCOUNT = "node@rankvol-test.iam.gserviceaccount.com"


def plan(run: str = "run-1", **fields: Any) -> Plan:
    job = {"nodes": 4, "volumes": "data-${NODE_RANK}:/data", "commands": ["true"], **fields}
    return make_plan(RankJob.model_validate(job), RunIdentity("lab", "dag", run, "group"))


def test_a_job_that_says_little_is_fine(lab: Lab) -> None:
    lab.backend.check(plan())
    counts = lab.double.counts()
    assert all(number <= 2 for number in counts.values()), counts


def test_a_job_that_says_much_is_fine(lab: Lab) -> None:
    lab.backend.check(
        plan(
            volume_template={
                "type": "hyperdisk-balanced", "iops": 4000, "throughput": 500, "size": "100GB", "tags": {"team": "etl"},
            },
            node={
                "machine_type": "c4-standard-8, n4-standard-8",
                "zones": f"{ZONE}, {OTHER_ZONE}",
                "spot": True,
                "root_size": "20GB",
                "root_type": "hyperdisk-balanced",
                "service_account": ACCOUNT,
                "subnets": "nodes",
                "tags": {"team": "etl"},
            },
            gather=["true"],
            gather_node={"machine_type": "c4-standard-16", "service_account": ACCOUNT},
            secret_env={"TOKEN": "secretmanager:token"},
            destination="gs://bucket/results",
        )
    )  # fmt: skip
    assert lab.double.state()["disks"] == {}
    assert lab.double.state()["instances"] == {}


T4 = {"accelerator": "nvidia-tesla-t4", "gpus_per_node": 1}
SECRET = {"secret_env": {"TOKEN": "secretmanager:token"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"volume_template": {"type": "gp3"}}, "type 'gp3' .*expected one of pd-standard, pd-balanced"),
    ({"volume_template": {"type": "pd-extreme"}}, "pd-extreme takes 500 to 65536 GiB"),
    ({"volume_template": {"iops": 5000}}, "iops=5000; pd-balanced has no iops.*hyperdisk-balanced"),
    ({"volume_template": {"type": "hyperdisk-balanced", "iops": 9}}, "iops=9; hyperdisk-balanced of 10 GiB takes 3000"),
    (
        {"volume_template": {"type": "hyperdisk-balanced", "iops": 3000, "throughput": 2000}},
        "throughput=2000 with iops=3000.*140 to 750",
    ),
    (
        {"volume_template": {"type": "hyperdisk-balanced", "size": "200GB", "iops": 40_000, "throughput": 156}},
        "throughput=156 with iops=40000.*157 to 10000",
    ),
    (
        {"volume_template": {"type": "hyperdisk-balanced", "throughput": 751}},
        "throughput=751 without iops.*3004 or more",
    ),
    ({"node": {"root_type": "hyperdisk-throughput"}}, "root_type: 'hyperdisk-throughput'.*boots from one of"),
    ({"node": {"root_type": "hyperdisk-extreme", "machine_type": "n2-standard-80"}}, "root_type: 'hyperdisk-extreme'"),
    (
        {"node": {"root_type": "pd-balanced", "root_size": "70000GB"}},
        "root_size: 70000GB; pd-balanced takes 1 to 65536",
    ),
    (
        {"node": {"root_type": "pd-extreme", "machine_type": "n2-standard-64"}},
        "root_size is not set; pd-extreme takes 500",
    ),
    ({"volume_template": {"reclaim": "snapshot"}}, "reclaim='snapshot'.*'retain'"),
    ({"volume_template": {"image": "nothing"}}, "there is no projects/rankvol-test/global/images/nothing"),
    (
        {"volume_template": {"snapshot": "nothing"}},
        "no projects/rankvol-test/global/snapshots/nothing.*compute snapshots list.*projects/PROJECT/global/snapshots",
    ),
    ({"volume_template": {"snapshot": "Nothing"}}, "snapshot: 'Nothing' was found; expected.*Did you mean 'nothing'"),
    ({"volume_template": {"image": 'no"'}}, "image: 'no\"' was found; expected a name"),
    ({"volume_template": {"image": "foo/bar"}}, "image: 'foo/bar' was found; .* projects/PROJECT/global/images/NAME"),
    (
        {"volume_template": {"snapshot": "projects/p/global/images/x"}},
        "expected a name, such as 'dataset-1', or projects/PROJECT/global/snapshots/NAME",
    ),
    (
        {"node": {"image": "foo/bar"}},
        r"node\.image: 'foo/bar' was found; expected a name, such as 'debian-13', or proj",
    ),
    ({"node": {"subnets": "subnets/x"}}, r"node\.subnets: 'subnets/x' was found; .*/regions/REGION/subnetworks/NAME"),
    (
        {"node": {"network": "networks/x"}},
        r"node\.network: 'networks/x' was found; .* projects/PROJECT/global/networks/",
    ),
    ({"node": {"image": 'no"'}}, r"node\.image: 'no\"' was found; expected a name.*debian-13"),
    ({"volume_template": {"snapshot": "a-snapshot"}}, "a-snapshot needs at least 20 GiB"),
    ({"volume_template": {"kms_key": "key"}}, "expected projects/PROJECT/locations"),
    ({"volume_template": {"tags": {"Team": "x"}}}, "tag 'Team'.*lower-case"),
    ({"volume_template": {"tags": {"team": "a b"}}}, "tag 'team' with the value 'a b'.*lower-case"),
    ({"volume_template": {"tags": {f"t{n}": "x" for n in range(40)}}}, "40 tags; of the 64 labels"),
    ({"volumes": "Data_${NODE_RANK}:/data", "volume_template": {"scope": "global"}}, "Data_0: a disk's name"),
    ({"node": {"zones": "us-central1-x"}}, "'us-central1-x' is no zone.*us-central1-a"),
    ({"node": {"machine_type": "m7i.large"}}, "machine_type: 'm7i.large' was found; expected .*'n2-standard-4'"),
    ({"node": {"machine_type": 'n2"x'}}, "machine_type: 'n2\"x' was found; expected a name of lower-case letters"),
    ({"node": {"machine_type": "N2-Standard-2"}}, "'N2-Standard-2' was found.*Did you mean 'n2-standard-2'"),
    (
        {"node": {"machine_type": f"zones/{ZONE}/machineTypes/n2-standard-2"}},
        "was found; expected a name.*Did you mean 'n2-standard-2'",
    ),
    (
        {"node": {"machine_type": "n2-standart-2"}},
        rf"machine_type: there is no 'n2-standart-2' in any zone\. Did you mean 'n2-standard-2' or .*--zones={ZONE}`",
    ),
    ({"node": {"machine_type": "qqqqqqqqqqq"}}, "no 'qqqqqqqqqqq' in any zone. See `gcloud compute machine-types list"),
    (
        {"node": {"machine_type": "n2-custom-3-4096"}},
        rf"node\.machine_type: zone {ZONE} has no 'n2-custom-3-4096'.*CPUS-MIB, as n2-custom-4-16384",
    ),
    (
        {"node": {"machine_type": "h3-standard-88", "zones": OTHER_ZONE}},
        "not offered in zone us-central1-b.*-a",
    ),
    ({"node": {"machine_type": "c4-standard-2"}}, "c4-standard-2 takes no disks of type pd-balanced.*hyperdisk-bal"),
    ({"node": {"machine_type": "n4a-standard-2"}}, "n4a-standard-2 takes no disks of type pd-balanced.*hyperdisk-bal"),
    ({"node": {"machine_type": "n2-standard-2", "root_type": "gp3"}}, "root_type: 'gp3'"),
    ({"node": {"machine_type": "n2-standard-2", "root_size": "1GB"}}, "root_size.*needs at least 10 GiB"),
    ({"node": {"image": "nothing"}}, "there is no 'nothing'.*debian-13"),
    ({"node": {"image": "debian-12", "machine_type": "t2a-standard-1"}}, "is for x86.*t2a-standard-1 is an Arm"),
    ({"node": {"subnets": "nowhere"}}, "no projects/rankvol-test/regions/us-central1/subnetworks/nowhere"),
    ({"node": {"subnets": "regions/us-east1/subnetworks/nodes"}}, "does not lie in region us-central1"),
    ({"node": {"network": "nowhere"}}, "no projects/rankvol-test/global/networks/nowhere"),
    ({"node": {"tags": {"A": "c"}}}, "node: tag 'A'"),
    ({"node": {"network_tags": "No"}}, "network_tags: 'No'"),
    ({"node": {"service_account": "default", "scopes": "Storage RO"}}, "scopes: 'Storage RO'"),
    ({"node": {"service_account": "node"}}, "service_account: 'node'.*email"),
    ({"node": {"report": "ssm"}}, "'ssm' is AWS'"),
    ({"node": {"lifetime": "120d"}}, "119 days"),
    ({"node": {"gpus_per_node": 1}}, r"node\.accelerator is not set"),
    (
        {"node": {**T4, "machine_type": "n2-standard-4"}},
        r"node\.accelerator: nvidia-tesla-t4; n2-standard-4 takes none",
    ),
    ({"node": {**T4, "machine_type": "n1-standard-4, e2-standard-4"}}, "e2-standard-4 takes none, only N1 machines"),
    (
        {"gather": ["true"], "node": {**T4, "machine_type": "n1-standard-4"}, "gather_node": T4},
        r"gather_node\.accelerator: nvidia-tesla-t4; e2-standard-2 takes none",
    ),
    ({"node": {"gpus_per_node": 4, "machine_type": "a2-highgpu-1g"}}, "a2-highgpu-1g has 1"),
    (
        {"node": {**T4, "accelerator": "nvidia-t4", "machine_type": "n1-standard-4"}},
        rf"node\.accelerator: there is no 'nvidia-t4' in any zone; zone {ZONE} has nvidia-tesla-p4, nvidia-tesla-t4",
    ),
    (
        {"node": {**T4, "accelerator": "nvidia-tesla-p4", "machine_type": "n1-standard-4", "zones": OTHER_ZONE}},
        rf"no nvidia-tesla-p4 in zone {OTHER_ZONE}\. Set node\.zones to some of {ZONE}, us-central1-c",
    ),
    (
        {"node": {**T4, "accelerator": "nvidia-t4", "machine_type": "g2-standard-4, n1-standard-4"}},
        r"node\.accelerator: there is no 'nvidia-t4'",
    ),
    ({"node": {**T4, "accelerator": 'T4"'}}, r"node\.accelerator: 'T4\"' was found; expected.*nvidia-tesla-t4"),
    (
        {"node": {**T4, "gpus_per_node": 3, "machine_type": "n1-standard-4"}},
        r"node\.gpus_per_node: 3; n1-standard-4 takes 1, 2, 4 of nvidia-tesla-t4\. Choose one",
    ),
    (
        {"volumes": [f"d{n}-${{NODE_RANK}}:/d{n}" for n in range(20)], "node": {"machine_type": "e2-small"}},
        "e2-small takes 15 disks.*each rank has 20",
    ),
    ({"secret_env": {"TOKEN": "/token"}, "node": {"service_account": ACCOUNT}}, "TOKEN: '/token'.*secretmanager:NAME"),
    (SECRET, r"node\.service_account is not set.*secretmanager:token"),
    ({"destination": "gs://bucket/x", "gather": ["true"]}, r"node\.service_account is not set.*gs://bucket/x"),
    ({"destination": "s3://bucket/x", "gather": ["true"]}, "nodes on Google Cloud copy results to Cloud Storage"),
    ({"staging": "s3://bucket/x", "files": {"a": "b"}}, "nodes on Google Cloud fetch files from Cloud Storage"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else None)
def test_what_cannot_work_is_refused(lab: Lab, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lab.backend.check(plan(**fields))


@pytest.mark.parametrize("types", ["n1-standard-4", "g2-standard-4", "n1-standard-4, g2-standard-4"])
def test_accelerators_are_for_machines_that_take_some_and_those_that_have_their_own_ignore_them(
    lab: Lab, types: str
) -> None:
    """A list may have both; each of its machines is launched as it has to be."""
    lab.backend.check(plan(volume_template={"type": "pd-ssd"}, node={**T4, "machine_type": types}))
    for number, name in enumerate(types.split(", ")):
        node = lab.node(lab.volume(number, type="pd-ssd"), rank=number, machine_type=name, **T4)
        assert lab.seen_node(node).state is NodeState.RUNNING


@pytest.mark.parametrize("name", ["n2-custom-4-16384", "custom-4-16384", "e2-custom-medium-4096"])
@pytest.mark.parametrize("zone", [ZONE, ""])
def test_a_custom_machine_type_is_asked_for_by_itself(lab: Lab, name: str, zone: str) -> None:
    """No list has it; for a job without a place all zones of the region are asked."""
    backend = lab_on(lab.double, zone=zone, region="us-central1").backend
    job = plan(node={"machine_type": f"{name}, n2-standard-2"}, gather=["true"])
    backend.check(job)
    assert backend.max_volumes(job.job.node) == (15 if "medium" in name else 127)
    node = lab.node(lab.volume(), machine_type=name)
    assert lab.seen_node(node).state is NodeState.RUNNING


def test_what_cannot_be_a_name_is_asked_for_by_nobody(lab: Lab) -> None:
    job = plan(node={"machine_type": 'n2"x'})
    somewhere = lab_on(lab.double, zone="", region="us-central1").backend
    for ask in (lab.backend.check, somewhere.choose_zone, lambda job: lab.backend.max_volumes(job.job.node)):
        with pytest.raises(ConfigError, match="was found"):
            ask(job)
    asked = [call for call in lab.double.calls() if "machineTypes" in call["action"]]
    assert asked == []


def test_a_name_that_two_zones_have_is_refused(lab: Lab) -> None:
    for zone in (ZONE, OTHER_ZONE):
        lab.foreign_disk("shard-1", zone)
    with pytest.raises(ConfigError, match="2 disks have that name"):
        lab.backend.check(plan(volumes="shard-${NODE_RANK}:/data", volume_template={"scope": "global"}))


def test_a_name_that_a_regional_disk_has_is_refused(lab: Lab) -> None:
    """A node attaches disks of its zone; what lies in two has to be attached in another way."""
    lab.double("regional_disk", name="shard-1", region="us-central1")
    with pytest.raises(ConfigError, match="volume shard-1: a regional disk of that name was found in us-central1"):
        lab.backend.check(plan(volumes="shard-${NODE_RANK}:/data", volume_template={"scope": "global"}))
    lab.backend.check(plan(volumes="other-${NODE_RANK}:/data", volume_template={"scope": "global"}))


def test_another_owners_volume_cannot_be_adopted(lab: Lab) -> None:
    """One of our own that carries another key can."""
    job: dict[str, Any] = {"volumes": "shard-${NODE_RANK}:/data", "volume_template": {"scope": "global"}}
    lab.other().volume(2, name="shard-2")
    lab.backend.check(plan(**job))
    replace(lab, owner="somebody").volume(1, name="shard-1")
    with pytest.raises(
        ConfigError, match=r"volume shard-1 .* is owner 'somebody''s.*expected no owner's, or 'lab''s.*Rename"
    ):
        lab.backend.check(plan(**job))


def adopting(**fields: Any) -> Plan:
    return plan(volumes="shard-${NODE_RANK}:/data", volume_template={"scope": "global"}, **fields)


def test_a_subnet_that_leaves_out_the_zone_of_an_adopted_volume_is_refused(lab: Lab) -> None:
    """Its node would lie in the network default."""
    lab.foreign_disk("shard-1", OTHER_ZONE)
    message = (
        rf"node\.subnets: volume shard-1 \({OTHER_ZONE}/shard-1\) lies in zone {OTHER_ZONE}, and its node has to.*"
        rf"found subnets of {ZONE}, expected one of {OTHER_ZONE}"
    )
    with pytest.raises(ConfigError, match=message):
        lab.backend.check(adopting(node={"zones": ZONE, "subnets": {ZONE: "nodes"}}))
    lab.backend.check(adopting(node={"zones": ZONE, "subnets": {ZONE: "nodes", OTHER_ZONE: "nodes"}}))


def test_a_volume_that_is_being_deleted_counts_for_nothing(lab: Lab) -> None:
    """Its zone is no node's, and one that has its name by now is the only one; as create_volumes has it."""
    job = adopting(node={"zones": ZONE, "subnets": {ZONE: "nodes"}})
    gone = lab.foreign_disk("shard-1", OTHER_ZONE)
    with pytest.raises(ConfigError, match=OTHER_ZONE):
        lab.backend.check(job)
    lab.double.settings(delete_disk_s=30.0)
    lab.double.rest().delete(f"zones/{OTHER_ZONE}/disks/shard-1")
    lab.settle()
    lab.backend.check(job)
    lab.foreign_disk("shard-1")
    lab.backend.check(job)
    assert lab.double.state()["disks"][gone]["status"] == "DELETING"


@pytest.mark.parametrize("gathers", [False, True])
def test_a_machine_has_to_take_the_types_that_adopted_volumes_have(lab: Lab, gathers: bool) -> None:
    """What the template says is for the others alone."""
    lab.foreign_disk("shard-1", type=f"zones/{ZONE}/diskTypes/pd-standard")
    template = {"scope": "global", "type": "hyperdisk-balanced"}
    taking = {"machine_type": "m1-ultramem-40"}  # takes both
    nodes: dict[str, Any] = {"node": taking, "gather": ["true"], "gather_node": {"machine_type": "c4-standard-8"}}
    job: dict[str, Any] = nodes if gathers else {"node": nodes["gather_node"]}
    where = "gather_node" if gathers else "node"
    message = (
        rf"{where}\.machine_type: c4-standard-8 takes no disks of type pd-standard, as volume shard-1 \({ZONE}/sha"
    )
    with pytest.raises(ConfigError, match=message):
        lab.backend.check(plan(volumes="shard-${NODE_RANK}:/data", volume_template=template, **job))


def test_a_machine_need_not_take_the_type_that_no_volume_of_the_job_has(lab: Lab) -> None:
    """The default type is for volumes that are made; here all are there."""
    for rank in range(4):
        lab.foreign_disk(f"shard-{rank}", type=f"zones/{ZONE}/diskTypes/hyperdisk-balanced")
    lab.backend.check(adopting(node={"machine_type": "c4-standard-8"}))
    with pytest.raises(ConfigError, match="takes no disks of type pd-balanced, as volume shard-4 is"):
        lab.backend.check(adopting(nodes=5, node={"machine_type": "c4-standard-8"}))


def test_a_subnet_has_to_be_in_the_region_of_an_adopted_volume(lab: Lab) -> None:
    lab.foreign_disk("shard-1", "us-east1-b")
    with pytest.raises(ConfigError, match=r"nodes does not lie in region us-east1"):
        lab.backend.check(adopting(node={"subnets": "regions/us-central1/subnetworks/nodes"}))


def test_each_zones_subnet_is_looked_for_in_its_own_region(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*/regions/us-east1/subnetworks/nowhere"):
        lab.backend.check(plan(node={"subnets": {ZONE: "nodes", "us-east1-b": "nowhere"}}))


@pytest.mark.parametrize("gather_node", [{"subnets": {OTHER_ZONE: "nodes"}}])
def test_subnets_of_gather_that_leave_out_a_zone_of_the_volumes_are_refused(
    lab: Lab, gather_node: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=rf"gather_node\.subnets has none for zone {ZONE}.*some for {OTHER_ZONE}"):
        lab.backend.check(plan(node={"zones": ZONE}, gather=["true"], gather_node=gather_node))


def test_no_node_is_launched_for_whose_zone_there_is_no_subnet(lab: Lab) -> None:
    """Whatever plan has seen: it would lie in the network default."""
    with pytest.raises(FinalError, match=rf"subnets has none for zone {ZONE}.*found some for {OTHER_ZONE}"):
        lab.backend.create_node(lab.node_request(lab.volume(), zone=ZONE, subnets={OTHER_ZONE: "nodes"}))
    assert lab.count("instances.insert") == 0


def test_all_missing_rights_are_named_at_once(lab: Lab) -> None:
    lab.double("deny", actions=["compute.disks.*"])
    with pytest.raises(AuthDenied, match=r"compute\.disks\.create, compute\.disks\.delete.*gcp-role\.yaml"):
        lab.backend.check(plan())


def test_who_may_not_ask_for_rights_goes_on(lab: Lab) -> None:
    lab.double.fault("error", "projects.testIamPermissions", service="*", code="forbidden", status=403)
    lab.backend.check(plan())


def test_what_is_of_another_cloud_is_ignored_with_a_word(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        lab.backend.check(plan(node={"instance_profile": "p", "security_groups": "sg-1"}))
    assert "node.instance_profile, node.security_groups" in caplog.text


def test_a_network_beside_subnets_is_ignored_with_a_word(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        lab.backend.check(plan(node={"subnets": "nodes"}))
        assert "is ignored" not in caplog.text
        lab.backend.check(plan(node={"subnets": "nodes", "network": "default"}))
    assert "node.network is ignored, because node.subnets is set" in caplog.text


def test_a_family_that_is_not_known_is_let_through_with_a_word(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: dict[str, Any] = {
        "volume_template": {"type": "pd-ssd", "size": "10GB"},
        "node": {"machine_type": "n4a-standard-2"},
    }
    with pytest.raises(ConfigError, match="takes no disks of type pd-ssd"):
        lab.backend.check(plan(**job))
    monkeypatch.delitem(FAMILIES, "n4a")
    with caplog.at_level(logging.WARNING):
        lab.backend.check(plan(**job))
    assert "node.machine_type: the family of n4a-standard-2 is not known" in caplog.text
    assert "of type hyperdisk-balanced, pd-ssd, only its launch tells" in caplog.text


def test_a_quota_that_may_not_do_is_told(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.double.settings(quotas={"SSD_TOTAL_GB": 25.0})
    with caplog.at_level(logging.WARNING):
        lab.backend.check(plan())
    assert "quota SSD_TOTAL_GB of region us-central1 has 25 left of 25; the job asks for 40" in caplog.text


def test_without_a_place_the_connection_has_to_name_one(double: Double) -> None:
    lab = lab_on(double, zone="")
    with pytest.raises(ConfigError, match="set zone or region in its extra"):
        lab.backend.check(plan())
    lab.backend.check(plan(node={"zones": ZONE}))


def test_the_zone_offers_what_the_job_needs(double: Double) -> None:
    """Of the region's zones, one with the machine type; the same for every process."""
    lab = lab_on(double, zone="", region="us-central1")
    asked = plan(node={"machine_type": "a4-highgpu-8g"}, volume_template={"type": "hyperdisk-balanced"})
    assert {lab.process().choose_zone(asked) for _ in range(3)} == {"us-central1-b"}
    chosen = {lab.backend.choose_zone(plan(run)) for run in ("run-1", "run-2")}
    assert len(chosen) == 1  # of the group, whichever run
    groups = {
        lab.backend.choose_zone(make_plan(plan().job, RunIdentity("lab", f"dag-{n}", "run-1", "group")))
        for n in range(20)
    }
    assert len(groups) > 1


def test_the_zone_offers_the_accelerators_that_the_job_adds(double: Double) -> None:
    """Of the region's zones two have them; plan would refuse the others."""
    lab = lab_on(double, zone="", region="us-central1")
    node = {"machine_type": "n1-standard-4", "accelerator": "nvidia-tesla-p4", "gpus_per_node": 1}
    plans = [make_plan(plan(node=node).job, RunIdentity("lab", f"dag-{n}", "run-1", "group")) for n in range(20)]
    assert {lab.backend.choose_zone(asked) for asked in plans} == {"us-central1-a", "us-central1-c"}
    for asked in plans:
        lab.backend.check(asked)


@pytest.mark.parametrize("scope", [f"zones/{ZONE}", ""])
@pytest.mark.parametrize("node", [{}, {"machine_type": "n1-standard-4", **T4}], ids=["machine", "accelerator"])
def test_what_a_list_lacks_is_neither_refused_nor_remembered(lab: Lab, scope: str, node: dict[str, Any]) -> None:
    """For ten minutes a machine type would have been "not offered" in a zone that was not reached for a moment."""
    lab.double("warn", code="UNREACHABLE", scope=scope)
    places = lab.backend.places
    for ask in (lambda: places.offers(["n1-standard-4"], [ZONE]), lambda: places.cards("nvidia-tesla-t4", [ZONE])):
        with pytest.raises(
            RetryableError, match=rf"{scope.removeprefix('zones/') or 'the whole list'} \(UNREACHABLE\)"
        ):
            ask()
    with pytest.raises(RetryableError, match="UNREACHABLE"):
        lab.backend.check(plan(node=node))
    lab.double("warn", code="", scope=scope)
    assert ZONE in places.offers(["n1-standard-4"], [ZONE])["n1-standard-4"]
    assert ZONE in places.cards("nvidia-tesla-t4", [ZONE])
    lab.backend.check(plan(node=node))


def test_a_zone_that_a_list_lacks_stops_no_job_elsewhere(lab: Lab) -> None:
    lab.double("warn", code="UNREACHABLE", scope="zones/us-east1-b")
    assert ZONE in lab.backend.places.offers(["n1-standard-4"], [ZONE])["n1-standard-4"]
    assert ZONE in lab.backend.places.cards("nvidia-tesla-t4", [ZONE])


def test_a_zone_that_cannot_be_reached_is_not_chosen_and_keeps_nobody_from_another(double: Double) -> None:
    lab = lab_on(double, zone="", region="us-central1")
    node = {"machine_type": "n1-standard-4", "accelerator": "nvidia-tesla-p4", "gpus_per_node": 1}
    plans = [make_plan(plan(node=node).job, RunIdentity("lab", f"dag-{n}", "run-1", "group")) for n in range(10)]
    lab.double("warn", code="UNREACHABLE", scope=f"zones/{ZONE}")
    assert {lab.backend.choose_zone(asked) for asked in plans} == {"us-central1-c"}
    assert lab.backend.max_volumes(plans[0].job.node) == 127


def test_zones_of_which_not_all_are_listed_are_asked_for_again(lab: Lab) -> None:
    lab.double("warn", code="PARTIAL_SUCCESS")
    with pytest.raises(RetryableError, match="PARTIAL_SUCCESS"):
        lab.backend.places.all_zones()
    lab.double("warn", code="")
    assert ZONE in lab.backend.places.all_zones()


def test_a_node_holds_as_many_volumes_as_its_machine_type_takes(lab: Lab) -> None:
    from airflow_rankvol.spec.templates import NodeTemplate

    found = {
        name: lab.backend.max_volumes(NodeTemplate(machine_type=name))
        for name in ("e2-small", "n2-standard-2", "n4-standard-2", "n4-standard-2, n2-standard-2")
    }
    assert found == {"e2-small": 15, "n2-standard-2": 127, "n4-standard-2": 15, "n4-standard-2, n2-standard-2": 15}

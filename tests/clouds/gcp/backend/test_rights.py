"""The role that users get, held against the rights that the double was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_rankvol.backends._gcp_rights import ALWAYS, AT_TIMES, needed
from airflow_rankvol.engine.step import mark_collected
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.gcp.backend.kit import ZONE, Lab, lab_on, succeed
from tests.clouds.gcp.client import Double
from tests.clouds.gcp.model import PROJECT

ROLE = Path(__file__).resolve().parents[4] / "docs/gcp-role.yaml"
SUCCEED = f"{succeed.__module__}:{succeed.__name__}"
#: On resources of the job's own choice, which their owners grant: not part of the role.
GRANTED_ELSEWHERE = {"iam.serviceAccounts.actAs"}


def role() -> list[str]:
    found: list[str] = yaml.safe_load(ROLE.read_text())["includedPermissions"]
    return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab on a double that nobody else asks for anything."""
    with Double(tmp_path / "double") as double:
        yield lab_on(double)
        assert double.bugs() == []


def whole_life(lab: Lab) -> None:
    """Do everything that a job can do: plan, create, run, be told, attach, lose a node, gather, list, delete."""
    template: dict[str, Any] = {
        "machine_type": "n2-standard-2", "zones": (ZONE,), "service_account": "default", "network_tags": "ranks",
        "external_ip": True, "subnets": "nodes", "network": "default", "spot": True, "image": "own-family",
    }  # fmt: skip
    rig = lab.rig(2, node=NodeTemplate.model_validate(template), gather=["true"])
    lab.backend.check(rig.plan)
    rig.create()
    lab.double("end_nodes", script=SUCCEED)
    assert all(rig.run_rank(rank).error is None for rank in range(2))
    lab.double("end_nodes", on=False)
    gathered = lab.volume(5)
    gather = lab.backend.create_node(lab.node_request(gathered, read_only=True))
    lab.backend.tell_nodes([gather.id], {"NODES_IPS": "10.0.0.1"})
    lab.backend.boot_trouble(gather.id, lab.backend.clock.now())
    lab.backend.delete_node(gather.id, lab.guard)
    lab.settle()
    for source in ({"snapshot": "a-snapshot"}, {"image": "own-image"}):
        lab.backend.check(lab.rig(1, volume_template={"size": "20GB", **source}).plan)
        lab.volume(6, size="20GB", name=f"of-{next(iter(source))}-{lab.key}", **source)
    cards = {"machine_type": "n1-standard-4", "accelerator": "nvidia-tesla-t4", "gpus_per_node": 1}
    lab.backend.check(lab.rig(1, node=NodeTemplate.model_validate(cards)).plan)
    attach_late(lab)
    lab.backend.max_volumes(NodeTemplate(machine_type="n2-standard-2"))
    lab.see()
    mark_collected(lab.backend, rig.gather_work(), range(2))
    rig.teardown()
    lab.process().delete_volume(gathered.id, lab.guard)


def attach_late(lab: Lab) -> None:
    volume, late = lab.volume(7), lab.volume(8)
    node = lab.node(volume, rank=7, spot=True)
    lab.backend.attach(late.id, node.id)
    lab.settle()
    lab.double("preempt", instance=node.name, notice_s=0.0)
    lab.settle()
    lab.see()
    lab.backend.delete_node(node.id, lab.guard)


def test_the_role_has_all_that_the_backend_asks_for_and_nothing_else(lab: Lab) -> None:
    whole_life(lab)
    needed = set(lab.double.permissions()) - GRANTED_ELSEWHERE
    assert needed == set(role())


def test_the_role_is_what_plan_looks_for() -> None:
    assert set(role()) == ALWAYS | AT_TIMES
    assert len(role()) == len(set(role()))


ELSEWHERE = "projects/of-somebody"
#: A job's fields, and what it needs beyond what every job needs.
JOBS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    ({"node": {"service_account": "default"}}, {"compute.instances.setServiceAccount"}),
    ({"node": {"network_tags": "ranks"}}, {"compute.instances.setTags"}),
    ({"node": {"external_ip": True}}, {"compute.subnetworks.useExternalIp"}),
    ({"node": {"spot": True}}, {"compute.zoneOperations.list"}),
    ({"node": {"subnets": "nodes"}}, {"compute.subnetworks.get"}),
    ({"node": {"network": "default"}}, {"compute.networks.get"}),
    ({"node": {"image": "debian-12"}}, {"compute.images.get", "compute.images.getFromFamily"}),
    (
        {"node": {"image": f"projects/{PROJECT}/global/images/family/own-family"}},
        {"compute.images.getFromFamily", "compute.images.useReadOnly"},
    ),
    ({"node": {"image": "projects/debian-cloud/global/images/family/debian-12"}}, set()),
    ({"node": {"subnets": f"{ELSEWHERE}/regions/us-central1/subnetworks/nodes"}}, set()),
    ({"node": {"network": f"{ELSEWHERE}/global/networks/shared"}}, set()),
    (
        {"volume_template": {"size": "20GB", "snapshot": "a-snapshot"}},
        {"compute.snapshots.get", "compute.snapshots.useReadOnly"},
    ),
    ({"volume_template": {"size": "20GB", "snapshot": f"{ELSEWHERE}/global/snapshots/theirs"}}, set()),
    (
        {"volume_template": {"size": "20GB", "image": "own-image"}},
        {"compute.images.get", "compute.images.useReadOnly"},
    ),
    ({"gather": ["true"]}, {"compute.machineTypes.get"}),
    ({"node": {"machine_type": "n2-custom-4-16384"}}, {"compute.machineTypes.get"}),
    (
        {"node": {"machine_type": "n1-standard-4", "accelerator": "nvidia-tesla-t4", "gpus_per_node": 1}},
        {"compute.acceleratorTypes.list"},
    ),
    (
        {
            "node": {"machine_type": "g2-standard-4", "accelerator": "nvidia-tesla-t4", "gpus_per_node": 1},
            "volume_template": {"type": "pd-ssd"},
        },
        set(),
    ),
]


def plan_of(lab: Lab, fields: dict[str, Any]) -> Any:
    node = {"machine_type": "n2-standard-2", "zones": (ZONE,), **fields.get("node", {})}
    return lab.rig(1, **{**fields, "node": NodeTemplate.model_validate(node)}).plan


@pytest.mark.parametrize(("fields", "more"), JOBS)
def test_plan_looks_for_the_rights_that_the_job_needs(lab: Lab, fields: dict[str, Any], more: set[str]) -> None:
    plan = plan_of(lab, fields)
    assert needed(plan, PROJECT) == ALWAYS | more
    if ELSEWHERE in str(fields):  # the double has no such project
        return
    lab.backend.check(plan)
    if plan.job.gathers_on_node:
        lab.backend.max_volumes(plan.job.node)
    assert set(lab.double.permissions()) <= needed(plan, PROJECT)


def test_all_rights_of_the_role_are_looked_for_by_some_plan(lab: Lab) -> None:
    assert set().union(*(needed(plan_of(lab, fields), PROJECT) for fields, _ in JOBS)) == set(role())

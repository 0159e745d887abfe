"""Links to the clouds' consoles: their URLs, where there is none, and how Airflow comes by them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import DAG

from airflow_rankvol import rank_job
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.loop import launch
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.work import Work, group_of
from airflow_rankvol.links import MAX_LISTED, GroupOnPage, NodeInConsole, Shown, VolumesInConsole
from airflow_rankvol.plan import RunIdentity, make_plan
from airflow_rankvol.provider_info import get_provider_info
from airflow_rankvol.records import Node, Role
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.testing import FakeBackend

VOLUMES, NODE, PAGE = "Volumes in the cloud's console", "Node in the cloud's console", "Rank volumes"
TI: Any = SimpleNamespace(dag_id="dag", task_id="job.run_rank", run_id="run", map_index=3)


def on_aws(*, partition: str = "aws", volumes: tuple[str, ...] = (), nodes: tuple[str, ...] = ()) -> Shown:
    clients = SimpleNamespace(region="eu-central-1", partition=partition)
    return Shown(cast("Any", SimpleNamespace(name="aws", clients=clients)), volumes, nodes)


def on_gcp(*, volumes: tuple[str, ...] = (), nodes: tuple[str, ...] = ()) -> Shown:
    session = SimpleNamespace(project="example.com:my-project")
    return Shown(cast("Any", SimpleNamespace(name="gcp", session=session)), volumes, nodes)


EC2 = "https://console.aws.amazon.com/ec2/home?region=eu-central-1#"
GCE = "https://console.cloud.google.com/compute/"
PROJECT = "?project=example.com%3Amy-project"


@pytest.mark.parametrize(
    ("shown", "volumes", "node"),
    [
        (
            on_aws(volumes=("vol-0a",), nodes=("i-0b",)),
            f"{EC2}VolumeDetails:volumeId=vol-0a",
            f"{EC2}InstanceDetails:instanceId=i-0b",
        ),
        (
            on_aws(volumes=("vol-0a", "vol-0c"), nodes=("i-0b", "i-0d")),
            f"{EC2}Volumes:volumeId=:vol-0a,:vol-0c",
            f"{EC2}Instances:instanceId=:i-0b,:i-0d",
        ),
        (
            on_gcp(volumes=("europe-west4-a/data-0",), nodes=("europe-west4-a/rankvol-1f-r0-a1",)),
            f"{GCE}disksDetail/zones/europe-west4-a/disks/data-0{PROJECT}",
            f"{GCE}instancesDetail/zones/europe-west4-a/instances/rankvol-1f-r0-a1{PROJECT}",
        ),
        (
            on_gcp(volumes=("z-a/data-0", "z-b/data-1"), nodes=("z-a/n0", "z-b/n1")),
            f"{GCE}disks{PROJECT}",
            f"{GCE}instances{PROJECT}",
        ),
    ],
    ids=["aws-one", "aws-many", "gcp-one", "gcp-many"],
)
def test_a_link_leads_to_the_resource_or_to_a_list(shown: Shown, volumes: str, node: str) -> None:
    """One resource has its own page; several are a list."""
    operator: Any = SimpleNamespace(shown=shown)
    assert VolumesInConsole().get_link(operator, ti_key=TI) == volumes
    assert NodeInConsole().get_link(operator, ti_key=TI) == node


@pytest.mark.parametrize(
    "shown",
    [
        Shown(FakeBackend(), ("vol-1",), ("node-1",)),
        on_aws(),
        on_gcp(),
        on_aws(volumes=("",), nodes=("",)),
        on_aws(partition="aws-iso", volumes=("vol-0a",), nodes=("i-0b",)),
    ],
    ids=["no-console", "aws-nothing", "gcp-nothing", "no-id", "console-unknown"],
)
def test_without_a_page_to_lead_to_a_link_is_empty(shown: Shown) -> None:
    """An empty URL is a button that the UI does not offer."""
    operator: Any = SimpleNamespace(shown=shown)
    assert VolumesInConsole().get_link(operator, ti_key=TI) == ""
    assert NodeInConsole().get_link(operator, ti_key=TI) == ""


def test_a_link_to_very_many_volumes_is_bounded() -> None:
    """A URL of a thousand ids is one that no browser takes."""
    ids = tuple(f"vol-{number:017x}" for number in range(1024))
    url = VolumesInConsole().url(on_aws(volumes=ids))
    assert url.count("vol-") == MAX_LISTED
    assert len(url) < 8000


@pytest.mark.parametrize(("stored", "link"), [("https://console.aws.amazon.com/x", True), (None, False)])
def test_a_task_that_goes_on_elsewhere_keeps_the_link_that_it_had(
    monkeypatch: pytest.MonkeyPatch, stored: str | None, link: bool
) -> None:
    """Airflow stores each process' answer over the one before; a task that never got that far has none."""
    asked: list[tuple[str, Any]] = []

    def get_value(*, key: str, ti_key: Any) -> str | None:
        asked.append((key, ti_key))
        return stored

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom.get_value", get_value)
    operator: Any = SimpleNamespace(shown=None)
    assert NodeInConsole().get_link(operator, ti_key=TI) == (stored if link else "")
    assert asked == [("_link_NodeInConsole", TI)]


def test_the_ui_knows_the_links_of_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The links of all tasks survive the serialisation of the DAG, those of the mapped one too."""
    from airflow.serialization.serialized_objects import DagSerialization

    # Airflow's API server reads links; its scheduler, and whatever clears tasks, switches that off for its process.
    monkeypatch.setattr(DagSerialization, "_load_operator_extra_links", True)
    with DAG("linked", schedule=None) as dag:
        rank_job("job", nodes=2, volumes="data-${NODE_RANK}:/data", commands="true", destination="s3://results/etl")
    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    links = {task.task_id.removeprefix("job."): task.extra_links for task in read.tasks}
    assert links["create_volumes"] == [PAGE, VOLUMES]
    assert links["run_rank"] == links["gather"] == [NODE, PAGE, VOLUMES]
    assert links["plan"] == links["delete_volumes"] == links["done"] == [PAGE]


@pytest.mark.parametrize("base", ["", "https://airflow.example/team/"])
def test_the_link_to_the_page_leads_to_the_runs_tab(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    """Below Airflow's base URL, with what a run's id may hold escaped."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    key: Any = SimpleNamespace(dag_id="etl", run_id="manual__2026-01-01T00:00:00+00:00/x")
    operator: Any = SimpleNamespace()
    path = "/dags/etl/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00%2Fx/plugin/rankvol_run"
    assert GroupOnPage().get_link(operator, ti_key=key) == base.rstrip("/") + path


def test_airflow_allows_the_links_that_the_provider_names() -> None:
    """Each class is there under the name that Airflow imports it by."""
    classes = (VolumesInConsole, NodeInConsole, GroupOnPage)
    names = {f"{link.__module__}.{link.__name__}" for link in classes}
    assert set(get_provider_info()["extra-links"]) == names


def test_a_launch_tells_which_node_it_found() -> None:
    """The id is the one that the cloud lists, known before the task defers."""
    backend = FakeBackend()
    fields = {"nodes": 1, "volumes": ["data-${NODE_RANK}:/data"], "commands": ["compute"]}
    plan = make_plan(RankJob.model_validate(fields), RunIdentity("me", "dag", "run", "job"))
    slots = tuple(provision(backend, plan, generation=1))
    begun = backend.clock.now()
    work = Work.begin(role=Role.RANK, attempt=1, group=group_of(plan), slots=slots, template=plan.job.node, now=begun)
    found: list[Node] = []
    assert launch(backend, work, Launcher(plan.job, {}, slots, backend.platform), found=found.append) is None
    (node,) = backend.observe(work.group).nodes
    assert [each.id for each in found] == [node.id]

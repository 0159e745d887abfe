"""What the page reads from Airflow's database, after real runs; and the bars it makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.utils.session import create_session
from sqlalchemy import delete, select, update

from airflow_rankvol import _page_runs as runs
from airflow_rankvol._page_groups import Found, merge, summary, visible
from airflow_rankvol._page_looks import look_at
from airflow_rankvol._page_ranks import detail
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.prices import PriceTable
from airflow_rankvol.records import utc_now
from tests.airflow.harness import DagBench, Run

pytestmark = pytest.mark.parametrize("ground", ["local"], indirect=True)


@pytest.fixture
def ended(bench: DagBench) -> Iterator[Run]:
    """A run of a job, wired by hand, whose second rank failed at its first try."""
    body = """
        from airflow.providers.standard.operators.empty import EmptyOperator
        from airflow_rankvol import CreateRankVolumes, DeleteRankVolumes, GatherRankResults, PlanRankVolumes, RunRank

        job = {"volume_group": "by hand", "nodes": 2, "volumes": ["data-${NODE_RANK}:/data"],
            "volume_template": {"size": "32MB"}, "commands": ["[ $NODE_RANK = 0 ] || exit 3"]}
        with DAG(DAG_ID, schedule=None) as dag:
            plan = PlanRankVolumes(task_id="plan", **job)
            create = CreateRankVolumes(task_id="create", slots=plan.output, **job)
            ranks = RunRank.partial(task_id="rank", **job).expand(slot=create.output)
            gather = GatherRankResults(task_id="gather", slots=create.output, results=ranks.output,
                trigger_rule="all_done", **job)
            delete = DeleteRankVolumes(task_id="delete", collected=gather.output["collected"], **job)
            plan.as_setup() >> create.as_setup() >> ranks >> gather >> delete
            delete.as_teardown(setups=[plan, create], on_failure_fail_dagrun=True)
            gather >> EmptyOperator(task_id="done")
    """
    dag = bench.write(body)
    yield bench.run(dag)
    bench.left(dag)


def shown(run: Run) -> tuple[Found, dict[str, Any], dict[str, Any]]:
    """Return what the page shows of a run with one group."""
    seen = look_at("rankvol_default", runs.run_state)
    assert seen.problem == ""
    jobs = runs.run_groups({run.dag.dag_id}, run.run_id)
    items = [item for item in visible([seen], lambda _: True) if item.where[1] == run.run_id]
    (group,) = merge(items, jobs)
    assert group.job
    table, now = PriceTable.load(), utc_now()
    ranks = detail(group, runs.rank_tasks(group.job), runs.slots(group.job), table, {"rankvol_default": "local"}, now)
    return group, summary(group, table, now), ranks


def test_a_job_is_one_group_before_its_tasks_begin_and_after_airflow_has_forgotten_their_fields(
    bench: DagBench, ended: Run
) -> None:
    """Airflow keeps rendered fields of tasks that have begun, in the latest runs of a DAG."""
    waiting = bench.start(ended.dag)
    with create_session() as session:
        session.execute(delete(RenderedTaskInstanceFields).where(RenderedTaskInstanceFields.run_id == ended.run_id))
    found = runs.run_groups({ended.dag.dag_id})
    assert set(found) == {(ended.dag.dag_id, run.run_id, "by hand") for run in (ended, waiting)}
    for job in found.values():
        assert set(job.steps) == {"plan", "create", "ranks", "gather", "delete"}
    bench.time_out(waiting)


def test_a_dag_that_cannot_be_read_hides_no_other_and_what_was_rendered_counts(
    ended: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tasks without a group of their own the fields that they had in their DAG file are asked for as well."""
    tasks = RenderedTaskInstanceFields.run_id == ended.run_id
    with create_session() as session:
        for row in session.scalars(select(RenderedTaskInstanceFields).where(tasks)):
            session.execute(
                update(RenderedTaskInstanceFields)
                .where(tasks, RenderedTaskInstanceFields.task_id == row.task_id)
                .values(rendered_fields={**row.rendered_fields, "volume_group": "", "conn_id": "rendered"})
            )
    where = (ended.dag.dag_id, ended.run_id, "by hand")
    assert {key: job.conn_id for key, job in runs.run_groups({ended.dag.dag_id}).items()} == {where: "rendered"}

    def unreadable(*_args: Any, **_how: Any) -> Any:
        raise RuntimeError("its timetable is not registered")

    monkeypatch.setattr(DBDagBag, "get_latest_version_of_dag", unreadable)
    assert {key[2] for key in runs.run_groups({ended.dag.dag_id})} == {"plan", "create", "rank", "gather", "delete"}


def test_an_ended_run_is_told_by_its_tasks_and_by_what_it_left(ended: Run) -> None:
    """One rank is done and its volume is kept with the group's; the other's exit code and times are there, too."""
    group, line, ranks = shown(ended)
    assert ended.run_id in {where[1] for where in runs.run_groups(runs.dags_with_jobs())}
    assert group.where == (ended.dag.dag_id, ended.run_id, "by hand")
    assert (line["ranks"], line["tasks"], line["run_state"]) == (2, {"success": 1, "failed": 1}, "failed")
    assert line["volumes"] == {"available": 2}
    assert line["orphans"] == 2
    assert [(row["rank"], row["task"], row["exit_code"], row["attempt"]) for row in ranks["ranks"]] == [
        (0, "success", 0, 1),
        (1, "failed", 3, 1),
    ]
    for row in ranks["ranks"]:
        kinds = [kind for kind, _, _ in row["spans"]]
        assert kinds == ["create", "launch", "attach", "run", "gather", "delete"]
        assert all(start <= end for _, start, end in row["spans"])
        assert row["gib_hours"] > 0


def test_when_the_volumes_are_gone_their_size_and_cost_are_still_told(bench: DagBench) -> None:
    """From the creation until the deletion; without a price that is unknown, and not 0."""
    run = bench.run(bench.job())
    group, line, ranks = shown(run)
    assert (group.items, line["volumes"], line["nodes"]) == ([], {}, {})
    row = ranks["ranks"][1]
    (volume,) = row["volumes"]
    assert (volume["state"], volume["size_gib"], volume["type"]) == ("gone", 32 / 1024, "directory")
    assert 0 < row["gib_hours"] < 32 / 1024
    assert row["usd"] is None
    assert row["unknown"] == ["no price for directory on local"]


@pytest.mark.parametrize("backends", [{}, {"elsewhere": "local"}], ids=["no answer", "another place"])
def test_volumes_of_a_place_that_was_not_looked_at_are_not_called_gone(ended: Run, backends: dict[str, str]) -> None:
    """Whoever reads that looks for them no more, and pays."""
    group, _, _ = shown(ended)
    assert group.job
    bare = Found(group.where, job=group.job)
    tasks, slots = runs.rank_tasks(group.job), runs.slots(group.job)
    table, now = PriceTable.load(), utc_now()
    told = detail(bare, tasks, slots, table, {"rankvol_default": "local"}, now)["ranks"]
    assert {volume["state"] for row in told for volume in row["volumes"]} == {"gone"}
    rows = detail(bare, tasks, slots, table, backends, now)["ranks"]
    assert {volume["state"] for row in rows for volume in row["volumes"]} == {"unknown"}
    assert all(row["usd"] is None and row["gib_hours"] == 0 for row in rows)


def test_an_adopted_volume_is_not_called_gone(ended: Run) -> None:
    """It carries no tags of ours: no look shows it."""
    group, _, _ = shown(ended)
    told = {"volumes": [{"id": "shard-0", "name": "shard-0", "size_gib": 1, "type": None, "adopted": True}]}
    tasks = [runs.RankTask(0, "running", 1, None, told)]
    (row,) = detail(
        Found(group.where, job=group.job), tasks, [], PriceTable.load(), {"rankvol_default": "local"}, utc_now()
    )["ranks"]
    assert [volume["state"] for volume in row["volumes"]] == ["unknown"]


def test_whether_a_run_lives_is_told_by_its_state_and_its_tasks(ended: Run, bench: DagBench) -> None:
    """A run that is over lives while a task of it does; one that nobody knows is unknown."""
    dag_id, run_id = ended.dag.dag_id, ended.run_id
    assert runs.run_state(dag_id, run_id) is RunState.ENDED
    assert runs.run_state(dag_id, "another") is RunState.UNKNOWN
    with create_session() as session:
        of_run = DagRun.fetch_task_instances(dag_id, run_id, session=session)
        of_run[0].state = "deferred"
    assert runs.run_state(dag_id, run_id) is RunState.LIVE
    with create_session() as session:
        DagRun.fetch_task_instances(dag_id, run_id, session=session)[0].state = "success"
        session.execute(update(DagRun).where(DagRun.run_id == run_id).values(state="queued"))
    assert runs.run_state(dag_id, run_id) is RunState.LIVE


def test_an_xcom_that_somebody_has_changed_breaks_nothing(ended: Run, bench: DagBench) -> None:
    """Times that are none, or no dictionary at all, only leave the bar empty."""
    group, _, _ = shown(ended)
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=1)
    slots: list[Mapping[str, Any]] = [{}, {"rank": "first"}, {"rank": 0, "volumes": 3}]
    for events in ({"create": "yesterday"}, {"create": "2026-01-01"}, "none", None):
        for volumes in ([{"id": ["x"], "size_gib": "large", "type": {}}, "none"], "none", {"a": 1}):
            tasks = [runs.RankTask(0, "success", 1, at, {"events": events, "volumes": volumes, "attempt": 1})]
            rows = detail(Found(group.where, job=group.job), tasks, slots, PriceTable.load(), {}, utc_now())["ranks"]
            assert [kind for kind, _, _ in rows[0]["spans"]] == ["gather", "delete"]

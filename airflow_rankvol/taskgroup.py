"""``rank_job``: the tasks of a rank job as one task group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import BaseOperator, TaskGroup, XComArg

from airflow_rankvol._announce_operator import AnnounceDestination
from airflow_rankvol._base_operator import PLANNED_KEY, plain
from airflow_rankvol._endings import COLLECTED_KEY
from airflow_rankvol.hooks import DEFAULT_CONN_ID
from airflow_rankvol.operators import (
    CreateRankVolumes,
    DeleteRankVolumes,
    GatherRankResults,
    PlanRankVolumes,
    RunRank,
)

if TYPE_CHECKING:
    from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate


class RankJobGroup(TaskGroup):
    """The task group of a rank job; ``output`` is what gather returns."""

    output: XComArg


def rank_job(
    group_id: str,
    *,
    volumes: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    commands: str | Sequence[str],
    nodes: int | str = 1,
    volume_template: VolumeTemplate | Mapping[str, Any] | str | None = None,
    node: NodeTemplate | Mapping[str, Any] | str | None = None,
    gather_node: NodeTemplate | Mapping[str, Any] | str | None = None,
    gather: str | Sequence[str] = (),
    files: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
    secret_env: Mapping[str, str] | None = None,
    staging: str | None = None,
    destination: str | None = None,
    collect: str | Sequence[str] | None = None,
    rendezvous: bool = False,
    allow_missing: bool = False,
    conn_id: str = DEFAULT_CONN_ID,
    deferrable: bool = True,
    default_args: Mapping[str, Any] | None = None,
    rank_args: Mapping[str, Any] | None = None,
    **group_args: Any,
) -> RankJobGroup:
    """Run commands on ``nodes`` nodes, each with volumes of its own, and gather their results.

    The group is ``plan`` → ``create_volumes`` → ``run_rank`` (mapped) → ``gather`` → ``delete_volumes`` (teardown), and
    ``done``, a marker after gather by which a failed gather fails the DAG run; with a ``destination`` it emits an event
    of its asset.

    Args:
        volumes: mounts, ``name:path`` or ``{"name": …, "path": …}`` with any field of VolumeTemplate.
        commands: shell commands of every rank, run as one script.
        nodes: number of ranks; an integer or a template, such as ``"{{ params.nodes }}"``.
        gather: shell commands that run once, with every rank's volumes mounted read-only.
        files: name on the node → path relative to the DAG file, or the content: a JSON value or a ``data:`` URL.
        destination: where gather copies files of all ranks to: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or, on
            this machine, a directory.
        collect: globs that say which files, relative to each volume; all of them by default.
        rendezvous: start the ranks together and tell them of each other.
        allow_missing: gather what there is when some ranks failed.
        deferrable: wait in the triggerer instead of in worker slots.
        default_args: arguments of every task, such as ``retries``.
        rank_args: arguments of the mapped task only, such as ``pool`` or ``max_active_tis_per_dagrun``.
        group_args: further arguments of the TaskGroup.

    Returns:
        The task group; ``group >> task`` follows gather, and ``group.output`` is gather's result.
    """
    job = {
        "volumes": plain(volumes),
        "nodes": nodes,
        "volume_template": plain(volume_template),
        "node": plain(node),
        "gather_node": plain(gather_node),
        "commands": plain(commands),
        "gather": plain(gather),
        "files": plain(files),
        "env": plain(env),
        "secret_env": plain(secret_env),
        "staging": staging,
        "destination": destination,
        "collect": plain(collect),
        "rendezvous": rendezvous,
        "allow_missing": allow_missing,
        "conn_id": conn_id,
    }
    # The attribute's attrs converter hides its type from mypy.
    defaults: Any = dict(default_args or {})
    group = RankJobGroup(group_id=group_id, default_args=defaults, **group_args)
    with group:
        job["volume_group"] = group.group_id
        plan = PlanRankVolumes(task_id="plan", **job)
        job["planned_on"] = XComArg(plan, key=PLANNED_KEY)
        create = CreateRankVolumes(task_id="create_volumes", slots=plan.output, **job)
        plan.planned_on = XComArg(create, key=PLANNED_KEY)  # what an earlier try of this run has created is there
        everyone = {"slots": create.output} if rendezvous else {}
        ranks = RunRank.partial(
            task_id="run_rank", deferrable=deferrable, **everyone, **job, **dict(rank_args or {})
        ).expand(slot=create.output)
        gathered = GatherRankResults(
            task_id="gather",
            slots=create.output,
            results=ranks.output,
            deferrable=deferrable,
            trigger_rule="all_done",
            **job,
        )
        delete = DeleteRankVolumes(
            task_id="delete_volumes", collected=XComArg(gathered, key=COLLECTED_KEY), slots=create.output, **job
        )
        plan.as_setup()  # type: ignore[no-untyped-call]  # Airflow's method is not annotated
        create.as_setup()  # type: ignore[no-untyped-call]
        plan >> create >> ranks >> gathered >> delete
        delete.as_teardown(setups=[plan, create], on_failure_fail_dagrun=True)
        # A task whose only follower is such a teardown is no leaf, so its failure would not fail the DAG run
        # (airflow.models.dagrun, is_effective_leaf). This one is the leaf; the scheduler never runs an empty one.
        gathered >> _done(gathered, group.group_id, destination)
    group.output = gathered.output
    return group


def _done(gathered: GatherRankResults, group_id: str | None, destination: Any) -> BaseOperator:
    """Return the group's last task: a mere marker, unless there are files at a destination to tell of."""
    if not destination:
        return EmptyOperator(task_id="done")
    return AnnounceDestination(
        task_id="done",
        destination=destination,
        volume_group=str(group_id),
        result=gathered.output,
        collected=XComArg(gathered, key=COLLECTED_KEY),
    )

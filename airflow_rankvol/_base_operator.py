"""What the five operators share: the job's fields, their rendering, and the way to the backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseOperatorLink, XComArg
from pydantic import BaseModel, ValidationError

from airflow_rankvol._lineage import TellsLineage
from airflow_rankvol._runs import run_state
from airflow_rankvol.backends.base import Backend, Selector
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.engine.work import group_of, group_of_identity
from airflow_rankvol.errors import ConfigError, FinalError
from airflow_rankvol.hooks import DEFAULT_CONN_ID, get_backend, get_owner, where_of
from airflow_rankvol.links import GroupOnPage, Shown
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.records import Group
from airflow_rankvol.spec.contents import inline_content
from airflow_rankvol.spec.job import RankJob, error_text
from airflow_rankvol.templating import shield

if TYPE_CHECKING:
    from airflow.sdk import Context


#: Under it PlanRankVolumes and CreateRankVolumes push where they work.
PLANNED_KEY = "backend"

JOB_FIELDS = (
    "nodes",
    "volumes",
    "volume_template",
    "node",
    "gather_node",
    "commands",
    "gather",
    "files",
    "env",
    "secret_env",
    "staging",
    "destination",
    "collect",
    "rendezvous",
    "allow_missing",
)


@dataclass(frozen=True)
class RankVolumes:
    """One task's view of its job: the backend, the identity, and the job itself (None when it is invalid)."""

    backend: Backend
    identity: RunIdentity
    valid_job: RankJob | None
    problem: str = ""

    @property
    def job(self) -> RankJob:
        """The valid job.

        Raises:
            ConfigError: it is not valid.
        """
        if self.valid_job is None:
            raise ConfigError(self.problem)
        return self.valid_job

    def plan(self) -> Plan:
        """Return the job's plan for this run."""
        return make_plan(self.job, self.identity)

    @property
    def group(self) -> Group:
        """What identifies this run's volume group."""
        return group_of(self.plan()) if self.valid_job else group_of_identity(self.identity)

    def selector(self) -> Selector:
        """Select everything of this owner and DAG."""
        return Selector(owner=self.identity.owner, dag=self.identity.dag_id)


class RankJobOperator(TellsLineage, BaseOperator):
    """Base of the five operators; each takes the whole job, so that each can be wired by hand.

    Args:
        nodes: number of ranks; an integer or a template that gives one.
        volumes: mounts, ``name:path`` or ``{"name": …, "path": …, …}``.
        volume_template, node, gather_node: templates, as objects or as dicts whose strings may be templates.
        commands, gather: shell commands of every rank, and of the gather node.
        files: name on the node → path relative to the DAG file, or the content: a JSON value or a ``data:`` URL.
        env, secret_env: variables, and variables whose values the node fetches by their secret's id.
        destination, collect: where gather copies files to, and the globs that say which.
        conn_id: connection whose type picks the backend.
        volume_group: name of the group; default: the task group that the task lies in.
        planned_on: ``plan.output["backend"]``, where the job was planned: a backend, and a region, project or
            directory. Given it, a task works nowhere else: a connection that has changed or gone meanwhile would let it
            look for its volumes there.
    """

    template_fields: Sequence[str] = (*JOB_FIELDS, "conn_id", "volume_group")
    ui_color = "#dbe9f6"
    operator_extra_links: Sequence[BaseOperatorLink] = (GroupOnPage(),)
    shown: Shown | None = None  # what the task's links lead to, once that is known

    def __init__(
        self,
        *,
        volumes: Any,
        nodes: Any = 1,
        volume_template: Any = None,
        node: Any = None,
        gather_node: Any = None,
        commands: Any = (),
        gather: Any = (),
        files: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        secret_env: Mapping[str, str] | None = None,
        staging: str | None = None,
        destination: str | None = None,
        collect: Any = None,
        rendezvous: Any = False,
        allow_missing: Any = False,
        conn_id: str = DEFAULT_CONN_ID,
        volume_group: str | None = None,
        planned_on: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.volumes = plain(volumes)
        self.nodes = nodes
        self.volume_template = plain(volume_template)
        self.node = plain(node)
        self.gather_node = plain(gather_node)
        self.commands = plain(commands)
        self.gather = plain(gather)
        self.files = plain(files)
        self.env = plain(env)
        self.secret_env = plain(secret_env)
        self.staging = staging
        self.destination = destination
        self.collect = plain(collect)
        self.rendezvous = rendezvous
        self.allow_missing = allow_missing
        self.conn_id = conn_id
        self.volume_group = volume_group
        self.planned_on = planned_on  # not templated: a teardown must not wait for it, nor fail without it

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Render as Airflow does, with ``${{ … }}`` shielded from Jinja."""
        if isinstance(content, str):
            content = shield(content)
        return super().render_template(content, *args, **kwargs)

    def open(self, context: Context, *, checked: bool = True) -> RankVolumes:
        """Return the backend, the identity and the job of this task.

        Raises:
            ConfigError: the connection or (when checked) the job is wrong.
        """
        backend = get_backend(self.conn_id)
        self._check_backend(backend, context)
        ti = context["ti"]
        identity = RunIdentity(
            owner=get_owner(self.conn_id, backend),
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            group_id=self._group_id(),
            map_index=self._group_index(ti.map_index),
        )
        job, problem = self._job()
        if checked and job is None:
            raise ConfigError(problem)
        return RankVolumes(backend=backend, identity=identity, valid_job=job, problem=problem)

    def planned(self, context: Context) -> Any:
        """Return where the job was planned, or None where that is not known."""
        return resolved(self.planned_on, context)

    def _check_backend(self, backend: Backend, context: Context) -> None:
        planned = self.planned(context)
        if planned is not None and planned != where_of(backend):
            raise ConfigError(
                f"connection {self.conn_id!r} leads to {where_of(backend)} now, but this run was planned on {planned}, "
                "where its volumes and nodes are. Nothing was done; let the connection lead there again, and clear "
                "this task. For volumes elsewhere, start another run"
            )

    def read_files(self) -> dict[str, bytes]:
        """Return the content of every file of the job.

        Raises:
            ConfigError: a file cannot be read.
        """
        base = Path(self.dag.fileloc).parent
        contents = {}
        for name, path in (self.files or {}).items():
            content = inline_content(path)
            if content is not None:
                contents[name] = content
                continue
            source = base / str(path)
            try:
                contents[name] = source.read_bytes()
            except OSError as exc:
                raise ConfigError(
                    f"files.{name}: cannot read {source} ({exc.strerror}); expected a path relative to the DAG file"
                ) from exc
        return contents

    def run_state(self, context: Context, dag_id: str, run_id: str) -> RunState:
        """Ask Airflow whether a run lives; unknown is only one that Airflow says it does not have."""
        return run_state(context["ti"], dag_id, run_id, self.log)

    @contextmanager
    def final_errors(self) -> Iterator[None]:
        """Turn errors that a retry cannot mend into Airflow's no-retry failure."""
        from airflow.sdk.exceptions import AirflowFailException

        try:
            yield
        except (ConfigError, FinalError) as exc:
            raise AirflowFailException(f"{self.task_id}: {exc}") from exc

    def _job(self) -> tuple[RankJob | None, str]:
        from airflow.configuration import conf

        fields = {name: getattr(self, name) for name in JOB_FIELDS}
        given = {name: value for name, value in fields.items() if value is not None}
        given["conn_id"] = self.conn_id
        try:
            max_nodes = conf.getint("core", "max_map_length", fallback=1024)
            return RankJob.model_validate(given, context={"max_nodes": max_nodes}), ""
        except ValidationError as exc:
            return None, f"the job is not valid; nothing was created:\n{error_text(exc)}"

    def _group_index(self, map_index: int | None) -> int:
        """Return the index of the mapped task group around this task, or -1; a rank's own index is none."""
        around = self.get_closest_mapped_task_group()
        return map_index if around is not None and map_index is not None else -1

    def _group_id(self) -> str:
        group = self.volume_group or self.task_id.rpartition(".")[0]
        if not group:
            raise ConfigError(
                f"task {self.task_id!r} lies in no task group, so nothing tells its volumes from those of another "
                "set: give all five operators of a set the same volume_group"
            )
        return group


def plain(value: Any) -> Any:
    """Return templates and mounts as the plain dicts that Airflow can render and show."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def resolved(value: Any, context: Context) -> Any:
    """Return what an upstream task pushed, or None when it pushed nothing."""
    from airflow.sdk.exceptions import XComNotFound

    if not isinstance(value, XComArg):
        return value
    try:
        return value.resolve(context)
    except XComNotFound:
        return None

"""``rankvol plan``: from a DAG file or a YAML file to the plans of its jobs; changes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_rankvol._cli_output import note
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.hooks import get_backend, get_owner
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.spec.contents import is_inline
from airflow_rankvol.spec.job import DEFAULT_MAX_NODES, RankJob, error_text

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_rankvol.operators import PlanRankVolumes

_YAML = (".yaml", ".yml", ".json")
_DAGS = (".py", ".zip")


def plans_of(args: argparse.Namespace) -> list[Plan]:
    """Return the plan of every job in the file that the arguments select.

    Raises:
        ConfigError: the file cannot be read, or a job in it is not valid.
    """
    path: Path = args.file
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    suffix = path.suffix.lower()
    if suffix in _YAML:
        return [_plan_of_yaml(path, args)]
    if suffix in _DAGS:
        return _plans_of_dags(path, args)
    raise ConfigError(f"{path}: found {suffix or 'no suffix'!r}; expected {', '.join(_DAGS + _YAML)}")


def plan_rows(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values."""
    run = plan.identity
    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "group": run.group,
        "owner": run.owner,
        "key": plan.key,
        "conn_id": plan.job.conn_id,
        "nodes": plan.job.nodes,
        "machine_type": plan.job.node.machine_type,
        "slots": [
            {**slot.to_dict(), "volumes": [
                {**v.to_dict(), "scope": str(v.scope), "reclaim": str(v.reclaim)} for v in slot.volumes
            ]}
            for slot in plan.slots
        ],
    }  # fmt: skip


def _plan_of_yaml(path: Path, args: argparse.Namespace) -> Plan:
    import yaml

    if args.param:
        raise ConfigError("--param: a YAML job has no Params; change the file, or give --nodes")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not YAML: {exc}") from exc
    if not isinstance(fields, dict):
        raise ConfigError(
            f"{path}: found {type(fields).__name__}; expected one mapping with RankJob's fields, such as "
            "nodes and volumes"
        )
    if args.group:
        fields["group_id"] = args.group
    return _make(fields, args, where=str(path), dag_id=args.dag_id or path.stem)


def _plans_of_dags(path: Path, args: argparse.Namespace) -> list[Plan]:
    found = [(dag, task) for dag in _dags(path, args.dag_id) for task in _plan_tasks(dag)]
    wanted = [(dag, task) for dag, task in found if args.group in (None, _group_of(task))]
    if not wanted:
        groups = ", ".join(_group_of(task) for _, task in found)
        raise ConfigError(
            f"{path}: no group {args.group!r}; found: {groups}"
            if groups
            else f"{path}: no rank_job and no PlanRankVolumes task was found in it"
        )
    return [_plan_of_task(dag, task, args) for dag, task in wanted]


def _dags(path: Path, dag_id: str | None) -> list[DAG]:
    """Load a DAG file the way Airflow's DAG processor does."""
    from airflow.dag_processing.importers import get_importer_registry

    importer = get_importer_registry().get_importer(str(path))
    if importer is None:
        raise ConfigError(f"{path}: Airflow has no importer for such a file")
    with _importable(path):
        result = importer.import_file(str(path.resolve()), safe_mode=False)
    if result.errors:
        error = result.errors[0]
        raise ConfigError(f"{path}: cannot be imported: {error.message}\n{error.stacktrace or ''}".rstrip())
    everything = sorted(result.dags, key=lambda dag: str(dag.dag_id))
    dags = [dag for dag in everything if dag_id in (None, dag.dag_id)]
    if not dags:
        known = ", ".join(str(dag.dag_id) for dag in everything) or "none"
        raise ConfigError(f"{path}: no DAG{f' {dag_id!r}' if dag_id else ''} was found in it; it has: {known}")
    return dags


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Let a DAG file import its neighbours: Airflow puts the root of its bundle on the path."""
    from airflow import settings

    folder = path.resolve().parent
    root = Path(settings.DAGS_FOLDER).expanduser().resolve()
    added = [str(folder), *([str(root)] if root in folder.parents else [])]
    sys.path.extend(added)
    try:
        yield
    finally:
        for entry in added:
            sys.path.remove(entry)


def _plan_tasks(dag: DAG) -> Iterator[PlanRankVolumes]:
    from airflow_rankvol.operators import PlanRankVolumes

    for task in dag.tasks:
        if isinstance(task, PlanRankVolumes):
            yield task


def _group_of(task: PlanRankVolumes) -> str:
    return str(task.volume_group or task.task_id.rpartition(".")[0])


def _plan_of_task(dag: DAG, task: PlanRankVolumes, args: argparse.Namespace) -> Plan:
    from airflow_rankvol._base_operator import JOB_FIELDS

    where = f"task {task.task_id} of DAG {dag.dag_id}"
    context = _context(dag, task, args)
    env = dag.get_template_env()
    values: dict[str, Any] = {}
    for name in (*JOB_FIELDS, "conn_id", "volume_group"):
        if name == "nodes" and args.nodes is not None:
            continue
        template = getattr(task, name)
        try:
            values[name] = task.render_template(template, context, env)
        except Exception as exc:
            raise ConfigError(
                f"{where}: {name}: {template!r} cannot be rendered outside a run "
                f"({type(exc).__name__}: {exc}); known here: {', '.join(sorted(context))}"
            ) from exc
    group = values.pop("volume_group") or _group_of(task)
    fields = {name: value for name, value in values.items() if value is not None}
    if not fields.get("commands"):
        note(f"{where}: commands: found none; a run would refuse that")
    _check_files(dag, fields.get("files"), where)
    return _make({**fields, "group_id": group}, args, where=where, dag_id=str(dag.dag_id))


def _context(dag: DAG, task: PlanRankVolumes, args: argparse.Namespace) -> dict[str, Any]:
    """Return what templates can use without a run: its Params, a sample run, and now as the logical date."""
    from airflow.sdk.execution_time import macros

    now = datetime.now(UTC)
    params = _params(dag, task, args.param)
    run = SimpleNamespace(dag_id=dag.dag_id, run_id=args.run_id, logical_date=now, conf={}, run_type="manual")
    return {
        "dag": dag,
        "dag_run": run,
        "ds": now.strftime("%Y-%m-%d"),
        "ds_nodash": now.strftime("%Y%m%d"),
        "logical_date": now,
        "macros": macros,
        "params": params,
        "run_id": args.run_id,
        "task": task,
        "ts": now.isoformat(),
        "ts_nodash": now.strftime("%Y%m%dT%H%M%S"),
    }


def _params(dag: DAG, task: PlanRankVolumes, given: Sequence[str]) -> dict[str, Any]:
    from airflow.sdk.definitions.param import ParamsDict, process_params

    declared = ParamsDict(dag.params)
    declared.update(ParamsDict(task.params))
    known = declared.dump()
    chosen: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or name not in known:
            raise ConfigError(
                f"--param {item}: expected KEY=VALUE with one of DAG {dag.dag_id}'s Params: "
                f"{', '.join(sorted(known)) or 'it has none'}"
            )
        chosen[name] = _param_value(text, known[name], declared.get_param(name).schema)
    try:
        # Defaults that are not valid alone count only when nothing replaces them, as in a real run.
        return process_params(dag, task, chosen, suppress_exception=False)
    except Exception as exc:
        # jsonschema's message goes on with the whole schema.
        why = str(exc).partition("\n")[0]
        raise ConfigError(f"DAG {dag.dag_id}: {why}; set it with --param KEY=VALUE") from exc


def _param_value(text: str, default: object, schema: Mapping[str, Any]) -> Any:
    """Read a Param's value as YAML, unless it is to be a string."""
    import yaml

    types = schema.get("type", ())
    if "string" in ([types] if isinstance(types, str) else types) or (not types and isinstance(default, str)):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _check_files(dag: DAG, files: object, where: str) -> None:
    if not isinstance(files, Mapping):
        return
    for name, source in files.items():
        path = Path(dag.fileloc).parent / str(source)
        if not is_inline(source) and not path.is_file():
            raise ConfigError(f"{where}: files.{name}: there is no {path}; expected a path relative to the DAG file")


def _make(fields: dict[str, Any], args: argparse.Namespace, *, where: str, dag_id: str) -> Plan:
    from airflow.configuration import conf

    if args.nodes is not None:
        fields["nodes"] = args.nodes
    limit = conf.getint("core", "max_map_length", fallback=DEFAULT_MAX_NODES)
    try:
        job = RankJob.model_validate(fields, context={"max_nodes": limit})
    except ValidationError as exc:
        raise ConfigError(f"{where}: the job is not valid:\n{error_text(exc)}") from exc
    owner = _owner(job.conn_id)
    return make_plan(job, RunIdentity(owner, dag_id, args.run_id, group_id=job.group_id))


def _owner(conn_id: str) -> str:
    """Return the owner, on which names depend; another stands in where the connection is not defined."""
    from airflow.configuration import conf

    from airflow_rankvol._cli_airflow import AirflowDatabase

    try:
        with AirflowDatabase().connections():
            return get_owner(conn_id, get_backend(conn_id))
    except ConfigError as exc:
        owner = conf.get("rankvol", "owner", fallback=None) or "unknown"
        note(f"names are those of owner {owner!r}, because {exc}")
        return str(owner)

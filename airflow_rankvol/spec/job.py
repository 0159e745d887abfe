"""The whole request: N ranks, their volumes, their nodes, and what runs there."""

from __future__ import annotations

import json
import posixpath
import re
import reprlib
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.environment import Commands, Env, Files, GatherCommands, SecretEnv
from airflow_rankvol.spec.explain import error_text, located
from airflow_rankvol.spec.fields import Model, Text, one_or_many, plain_text, whole_number
from airflow_rankvol.spec.mounts import Mount
from airflow_rankvol.spec.naming import Scope, volume_names
from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate

__all__ = ["DEFAULT_CONN_ID", "DEFAULT_MAX_NODES", "RankJob", "error_text"]

#: Airflow's default for ``[core] max_map_length``, beyond which one task cannot be mapped.
DEFAULT_MAX_NODES = 1024
DEFAULT_CONN_ID = "rankvol_default"
#: What goes to ``destination`` unless the job says otherwise: every file but the package's own.
EVERYTHING = ("**",)

_STAGING = re.compile(r"(?:s3|gs)://[a-z0-9][a-z0-9._-]{1,220}(?:/[^\s\x00-\x1f]*)?")
_GROUP_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")
# Keys as long as real ones, one per scope: names are checked before the run that gives the key is known.
_SAMPLE_KEYS = {Scope.RUN: "00000000", Scope.DAG: "11111111", Scope.GLOBAL: "22222222"}


def _nodes(value: object, info: ValidationInfo) -> int:
    largest = (info.context or {}).get("max_nodes", DEFAULT_MAX_NODES)
    nodes = whole_number(value)
    if not 1 <= nodes <= largest:
        raise ConfigError(
            f"{nodes} was found; 1 to {largest} are allowed"
            " (Airflow's [core] max_map_length caps how many ranks one task can be mapped to)"
        )
    return nodes


def _mapping(value: object) -> object:
    """Take a text for the JSON object that it is: so ``"{{ params.node | tojson }}"`` renders."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{reprlib.repr(value)} was found; an object of the template's fields is expected, or its JSON: a DAG "
            "Param renders as that by '{{ params.node | tojson }}'"
        )
    return found


def _staging(value: str) -> str:
    if not _STAGING.fullmatch(value):
        raise ConfigError(f"{value!r} was found; expected 's3://bucket/prefix' or 'gs://bucket/prefix'")
    return value.rstrip("/")


def _destination(value: str) -> str:
    """Take a bucket with a prefix, or a directory; ``file:///path`` is the same as ``/path``."""
    path = value.removeprefix("file://")
    if path.startswith("/"):
        plain_text(path)
        if posixpath.normpath(path) != (path.rstrip("/") or "/") or path.startswith("//") or not path.rstrip("/"):
            raise ConfigError(f"{value!r} was found; a normalised path below / is expected, without '..'")
        return path.rstrip("/")
    if not _STAGING.fullmatch(value):
        raise ConfigError(f"{value!r} was found; expected 's3://bucket/prefix', 'gs://bucket/prefix' or 'file:///path'")
    return value.rstrip("/")


def _glob(value: str) -> str:
    plain_text(value)
    if value.startswith("/") or ".." in value.split("/") or posixpath.normpath(value) != value or value == ".":
        raise ConfigError(
            f"{value!r} was found; a glob relative to each volume is expected, such as 'out/*.parquet' or 'out/**'"
        )
    return value


def _group_id(value: str) -> str:
    if not _GROUP_ID.fullmatch(value):
        raise ConfigError(f"{value!r} was found; 1 to 200 letters, digits, dots, dashes and underscores are allowed")
    return value


def _volumes(value: object) -> object:
    """Take a lone mount for a list of one, and refuse none at all."""
    if not value:
        raise ConfigError(f"{value!r} was found; at least one volume is expected, as 'name:path'")
    return (value,) if isinstance(value, str | dict | Mount) else value


class RankJob(Model):
    """A job of ``nodes`` ranks, each with its own volumes; the fields are the keywords of ``rank_job``.

    Validation takes ``context={"max_nodes": n}`` for another limit than Airflow's default.
    """

    nodes: Annotated[int, BeforeValidator(_nodes)]
    volumes: Annotated[tuple[Mount, ...], BeforeValidator(_volumes)]
    volume_template: Annotated[VolumeTemplate, BeforeValidator(_mapping)] = VolumeTemplate()
    node: Annotated[NodeTemplate, BeforeValidator(_mapping)] = NodeTemplate()
    gather_node: Annotated[NodeTemplate | None, BeforeValidator(_mapping)] = None
    commands: Commands = ()
    gather: GatherCommands = ()
    files: Files = Field(default_factory=dict)
    env: Env = Field(default_factory=dict)
    secret_env: SecretEnv = Field(default_factory=dict)
    staging: Annotated[str, AfterValidator(_staging)] | None = None
    destination: Annotated[str, AfterValidator(_destination)] | None = None
    collect: Annotated[tuple[Annotated[str, AfterValidator(_glob)], ...], BeforeValidator(one_or_many)] = EVERYTHING
    rendezvous: bool = False
    allow_missing: bool = False
    conn_id: Text = DEFAULT_CONN_ID
    group_id: Annotated[str, AfterValidator(_group_id)] = "rank_job"

    def template_of(self, mount: Mount) -> VolumeTemplate:
        """The volume template of one of the job's mounts."""
        return mount.template(self.volume_template)

    @property
    def gathers_on_node(self) -> bool:
        """Whether gathering takes a node, for its commands or to copy files."""
        return bool(self.gather or self.destination)

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        problems = [*_path_problems(self), *_name_problems(self)]
        both = sorted(self.env.keys() & self.secret_env.keys())
        if both:
            problems.append(located(f"{', '.join(both)} is in env too; a variable has one source", "secret_env"))
        if not self.collect or (self.collect != EVERYTHING and not self.destination):
            message = "globs need a destination that files go to" if self.collect else "at least one glob is expected"
            problems.append(located(message, "collect"))
        if problems:
            # A ValidationError raised in a validator keeps the places of its errors.
            raise ValidationError.from_exception_data("RankJob", problems)
        return self


def _path_problems(job: RankJob) -> list[InitErrorDetails]:
    problems = []
    for i, mount in enumerate(job.volumes):
        for j, other in enumerate(job.volumes):
            if j < i and mount.path == other.path:
                message = f"{mount.path!r} is also the path of volumes.{j}; each volume needs a path of its own"
            elif i != j and mount.path.startswith(other.path + "/"):
                message = f"{mount.path!r} lies below {other.path!r} of volumes.{j}; paths must not be nested"
            else:
                continue
            problems.append(located(message, "volumes", i, "path", found=mount.path))
    return problems


def _name_problems(job: RankJob) -> list[InitErrorDetails]:
    """Check the names of every rank and mount: each valid, and no two alike."""
    problems: list[InitErrorDetails] = []
    seen: dict[str, int] = {}
    for i, mount in enumerate(job.volumes):
        try:
            template = job.template_of(mount)
            key = _SAMPLE_KEYS[template.scope]
            names = volume_names(mount.name, nodes=job.nodes, naming=template.naming, scope=template.scope, key=key)
        except ValidationError as error:
            problems += [
                located(e["msg"].removeprefix("Value error, "), "volumes", i, *e["loc"], found=e["input"])
                for e in error.errors()
            ]
        except ConfigError as error:
            problems.append(located(str(error), "volumes", i, "name", found=mount.name))
        else:
            message = _clash(job, i, names, seen)
            if message:
                problems.append(located(message, "volumes", i, "name", found=mount.name))
            seen |= dict.fromkeys(names, i)
    return problems


def _clash(job: RankJob, index: int, names: tuple[str, ...], seen: dict[str, int]) -> str:
    """Say how a mount's names meet those of the mounts before it, or nothing."""
    name = job.volumes[index].name
    for j in range(index):
        if job.volumes[j].name == name:
            return f"{name!r} is also the name of volumes.{j}; each mount needs a name of its own"
    met = next((n for n in names if n in seen), None)
    if met is None:
        return ""
    other = job.volumes[seen[met]].name
    return f"{name!r} gives the name {met!r}, as does {other!r} of volumes.{seen[met]}; one has to differ"

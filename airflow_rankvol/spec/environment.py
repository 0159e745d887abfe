"""What reaches a node besides its volumes: commands, environment variables and files."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.contents import as_text
from airflow_rankvol.spec.fields import one_or_many, plain_text, scalar_text
from airflow_rankvol.spec.naming import interpolate_braces, variables

#: Set on every node by the package; a job cannot set them.
RESERVED_ENV = frozenset(
    {"NODE_RANK", "NODES_NUM", "NODE_IP", "NODES_IPS", "GPUS_PER_NODE", "GPUS_NUM"}
    | {"VOLUME_PATH", "VOLUME_PATHS", "RANKS_PATH", "GATHER_PART", "GATHER_PARTS"}
    | {"MASTER_NODE_IP", "MASTER_ADDR", "MASTER_PORT"}
)
RESERVED_PREFIXES = ("RANKVOL_", "DSTACK_")
# bash(1), "Shell Variables": assigning to one of these is an error, which would end the script at once.
_READ_ONLY_IN_BASH = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_command(value: str) -> str:
    """Refuse an empty command, or one with a bad double-brace variable; the rest is the shell's."""
    if not value.strip():
        raise ConfigError("an empty command was found; leave it out")
    _check_for_shell(value)
    return value


def check_gather_command(value: str) -> str:
    """As `check_command`, and without the rank: gather runs once."""
    check_command(value)
    ranked = [v.source for v in variables(value, braces_only=True) if v.quantity == "rank"]
    if ranked:
        raise ConfigError(
            f"{ranked[0]!r} was found; gather runs once for all ranks, which lie below $RANKS_PATH/<rank>"
        )
    return value


def check_env_names(names: Mapping[Any, object]) -> None:
    """Refuse names that a shell cannot hold, and those that the package or bash sets itself."""
    for name in names:
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
            raise ConfigError(f"{name!r} is no variable name; letters, digits and underscores are allowed")
        if name in RESERVED_ENV or name.startswith(RESERVED_PREFIXES):
            raise ConfigError(
                f"{name!r} is set by the package; choose another name (reserved:"
                f" {', '.join([*sorted(RESERVED_ENV), *(p + '*' for p in RESERVED_PREFIXES)])})"
            )
        if name in _READ_ONLY_IN_BASH:
            raise ConfigError(f"{name!r} is read-only in bash; choose another name")


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{type(value).__name__} was found; a mapping of names to values is expected")
    check_env_names(value)
    env = {name: scalar_text(raw, name) for name, raw in value.items()}
    for name, text in env.items():
        try:
            _check_for_shell(text)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    return env


def _secret_env(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{type(value).__name__} was found; a mapping of names to secret ids is expected")
    check_env_names(value)
    for name, secret in value.items():
        # Not shown: who confuses the id with the secret should not find it in a log.
        if not isinstance(secret, str) or not secret.strip() or not secret.isprintable():
            raise ConfigError(f"{name}: a secret id on one line is expected")
    return dict(value)


def _sources(value: object) -> object:
    """Write JSON values as ``data:`` URLs, so that every source is a text."""
    if not isinstance(value, Mapping):
        return value
    sources = {}
    for target, source in value.items():
        try:
            sources[target] = as_text(source)
        except ConfigError as error:
            raise ConfigError(f"target {target!r}: {error}") from None
    return sources


def _files(value: dict[str, str]) -> dict[str, str]:
    """Refuse targets outside the working directory, and sources that are not relative to the DAG file.

    A source may begin with ``..``: DAG folders often share an ``include/`` one level up.
    """
    for target, path in value.items():
        where = f"target {target!r}"
        plain_text(path)
        if path.startswith(("/", "~")):
            raise ConfigError(
                f"{where}: the source {path!r} is not relative; expected a path relative to the DAG file,"
                " as in 'include/etl.py' ('..' may lead out of its folder)"
            )
        if not target or not target.isprintable():
            raise ConfigError(f"{where} is empty or has control characters; a relative path is expected")
        if target.startswith("/") or ".." in target.split("/"):
            raise ConfigError(f"{where} leaves the working directory; a relative path without '..' is expected")
        normal = posixpath.normpath(target)
        if target != normal or normal == ".":
            raise ConfigError(f"{where} is not a normalised name of a file; normalised it is {normal!r}")
        parents = [p for p in value if target.startswith(p + "/")]
        if parents:
            raise ConfigError(f"{where} lies below the target {parents[0]!r}, which is a file")
    return value


def _check_for_shell(text: str) -> None:
    if "\0" in text:
        raise ConfigError("a NUL character was found; no shell can take one")
    interpolate_braces(text, rank=0, nodes=1)


Commands = Annotated[
    tuple[Annotated[str, AfterValidator(check_command)], ...],
    BeforeValidator(one_or_many),
]
GatherCommands = Annotated[
    tuple[Annotated[str, AfterValidator(check_gather_command)], ...],
    BeforeValidator(one_or_many),
]
Env = Annotated[dict[str, str], BeforeValidator(_env)]
SecretEnv = Annotated[dict[str, str], BeforeValidator(_secret_env)]
Files = Annotated[dict[str, str], BeforeValidator(_sources), AfterValidator(_files)]

"""docker-compose.yaml, read: variables put in, and services in the order in which Compose starts them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yaml"
# $$, ${NAME}, ${NAME:-default} and ${NAME:?message}: what the file uses of the Compose specification's interpolation.
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\})")


def read(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the file's content with variables put in.

    Raises:
        ValueError: one that has to be set is not.
    """
    found: dict[str, Any] = _filled(yaml.safe_load(FILE.read_text(encoding="utf-8")), variables)
    return found


def variables_of(text: str) -> set[str]:
    """Return the names of all variables in a text of the file."""
    return {found["name"] for found in _VARIABLE.finditer(text) if found["name"]}


def in_order(services: Mapping[str, Any]) -> list[str]:
    """Return the names of services, each after those that it depends on or shares a namespace with."""
    return list(TopologicalSorter({name: set(_needs(service)) for name, service in services.items()}).static_order())


def _needs(service: Mapping[str, Any]) -> Iterator[str]:
    yield from service.get("depends_on", {})
    if service.get("pid", "").startswith("service:"):
        yield service["pid"].partition(":")[2]


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, rest = found["name"], found["kind"], found["rest"]
    if not name:
        return "$"
    if value := variables.get(name):
        return value
    if kind == "?":
        raise ValueError(f"{name}: {rest}")
    return rest or ""

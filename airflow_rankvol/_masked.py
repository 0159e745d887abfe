"""Refuses what Airflow masks where a cloud node's script would show it: everybody who may look at the node reads that.

Airflow masks the values of connections and of what it takes for secret Variables, and whatever has a name that sounds
like a secret's, such as ``api_token``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_rankvol._readings import readings
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.contents import inline_content

_SECRET_ENV = "Keep it in the cloud's secret store, and name it in secret_env: the node fetches it itself"  # noqa: S105


def check_values(field: str, values: Mapping[str, Any]) -> None:
    """Refuse what Airflow masks among named values, and within them.

    Raises:
        ConfigError: naming the first one, and whether it is masked for its value or for its name.
    """
    for name, value in values.items():
        _check(value, f"{field}.{name}", name)


def check_texts(field: str, texts: Sequence[str]) -> None:
    """Refuse what Airflow masks in texts, such as commands.

    Raises:
        ConfigError: naming the first one by its number, from 0.
    """
    for number, text in enumerate(texts):
        _check(text, f"{field}.{number}", None)


def check_files(files: Mapping[str, Any]) -> None:
    """Refuse what Airflow masks in contents of ``files``, however it is written there; what is a path is read later.

    Raises:
        ConfigError: naming the first file, and where in it.
    """
    for name, source in files.items():
        content = inline_content(source)
        if content is None:
            continue
        where = f"files.{name}"
        _check(source, where, None)
        for text in readings(name, content):
            _check(text, where, None)


def _check(value: Any, where: str, name: str | None) -> None:
    if not value or _redacted(value, name) == value:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check(inner, f"{where}.{key}", key)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check(inner, f"{where}.{number}", None)
    if _redacted(value, None) != value and isinstance(value, str):
        raise ConfigError(
            f"{where}: found a value that Airflow masks as a secret; it would stand in the node's user data in clear. "
            f"{_SECRET_ENV}"
        )
    if name is not None and _redacted("any", name) != "any":
        raise ConfigError(
            f"{where}: found a value that Airflow masks as a secret for its name's sake; it would stand in the node's "
            f"user data in clear. If it is none, give it another name, or write it into a command. {_SECRET_ENV}"
        )


def _redacted(value: Any, name: str | None) -> Any:
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # imported there for others, but not listed

    return redact(value, name)

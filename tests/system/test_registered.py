"""Airflow's own commands list what this package registers, and each listed class can be imported."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol import __version__
from airflow_rankvol.provider_info import get_provider_info

INFO = get_provider_info()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow home of its own."""
    return tmp_path_factory.mktemp("home")


def listed(home: Path, *command: str) -> list[dict[str, Any]]:
    """Run an ``airflow`` command that lists something."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # makes every Airflow process start three times slower
    done = subprocess.run(
        [Path(sys.executable).with_name("airflow"), *command, "--output", "json"],
        env={**environment, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
        cwd=home,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[") :])
    return rows


def load(path: str) -> Any:
    """Import what a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_providers_list_shows_the_package_and_its_version(home: Path) -> None:
    found = [row for row in listed(home, "providers", "list") if row["package_name"] == "airflow-rankvol"]
    assert [row["version"] for row in found] == [__version__]


def test_providers_hooks_shows_our_connection_type_with_a_hook_that_imports(home: Path) -> None:
    (ours,) = INFO["connection-types"]
    found = [row for row in listed(home, "providers", "hooks") if row["connection_type"] == ours["connection-type"]]
    assert [row["class"] for row in found] == [ours["hook-class-name"]]
    assert load(ours["hook-class-name"]).conn_type == ours["connection-type"]


def test_providers_links_shows_every_link_of_ours_and_each_imports(home: Path) -> None:
    found = {row["extra_link_class_name"] for row in listed(home, "providers", "links")}
    ours = {path for path in found if path.startswith("airflow_rankvol.")}
    assert ours == set(INFO["extra-links"])
    assert all(load(path)().name for path in ours)


def test_plugins_shows_the_page_and_its_class_imports(home: Path) -> None:
    (ours,) = (row for row in listed(home, "plugins") if row["name"] == "rankvol")
    assert load(entry_points(group="airflow.plugins")["rankvol"].value.replace(":", ".")).name == ours["name"]


def test_every_class_and_function_that_the_provider_names_imports() -> None:
    assert all(callable(load(path)) for path in (*INFO["extra-links"], *INFO["cli"]))

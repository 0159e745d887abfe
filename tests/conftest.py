"""One throw-away AIRFLOW_HOME for the whole test process, set before Airflow can be imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader

_home = tempfile.mkdtemp(prefix="rankvol-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)

os.environ.update(
    {
        "AIRFLOW_HOME": _home,
        "AIRFLOW__CORE__DAGS_FOLDER": os.path.join(_home, "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_home}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": os.path.join(_home, "logs"),
    }
)
# What the caller's shell sets must not reach the tests.
for name in [key for key in os.environ if key.startswith(("AIRFLOW_CONN_", "AIRFLOW__RANKVOL__"))]:
    del os.environ[name]
os.makedirs(os.path.join(_home, "dags"))


@pytest.fixture(autouse=True)
def _knows_no_secrets() -> Iterator[None]:
    """What other tests have masked, or these, is nobody else's: one process runs them all."""
    from airflow.sdk._shared.secrets_masker import _secrets_masker  # once the environment is set

    masker = _secrets_masker()
    known = set(masker.patterns), masker.replacer
    masker.reset_masker()
    yield
    masker.patterns, masker.replacer = known


@pytest.fixture(scope="session", autouse=True)
def _service_models_are_parsed_once() -> Iterator[None]:
    """Each boto3 session parses EC2's four megabytes of JSON anew, which takes longer than most tests.

    Its clients share what it has parsed, so clients of several sessions may. Only what botocore completes after reading
    it (``sdk-extras``, of paginators) stays each session's own.
    """
    parsed: dict[str, Any] = {}
    load = JSONFileLoader.load_file

    def load_once(self: JSONFileLoader, path: str) -> Any:
        if os.path.basename(path).startswith("paginators"):
            return load(self, path)
        if parsed.get(path) is None:
            parsed[path] = load(self, path)
        return parsed[path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", load_once)
        yield

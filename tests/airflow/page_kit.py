"""The page's application on an in-memory cloud, with Airflow's own auth manager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi import app as airflow_api
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI
from starlette.testclient import TestClient

from airflow_rankvol import _page_runs
from airflow_rankvol._page_app import make_app
from airflow_rankvol.engine.reap import RunState
from tests.unit.cli_kit import Cloud, install

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def page_cloud(dags_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """An in-memory cloud behind the default connection, whose runs are what the test says."""
    cloud = install(monkeypatch)
    monkeypatch.setattr(_page_runs, "dags_with_jobs", set)  # not what other tests have run in this process
    monkeypatch.setattr(_page_runs, "run_state", lambda dag, run: cloud.runs.get((dag, run), RunState.UNKNOWN))
    return cloud


@pytest.fixture
def page_app(page_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """The page's application with Airflow's own auth manager."""
    monkeypatch.setenv(
        "AIRFLOW__API_AUTH__JWT_SECRET", "a secret of the tests, long enough for SHA-512 and its like" * 2
    )
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "vera:viewer,uma:user,otto:op")
    airflow_api.purge_cached_app()
    airflow_api.create_auth_manager()
    yield make_app()
    airflow_api.purge_cached_app()


@pytest.fixture
def client_of(page_app: FastAPI) -> Callable[..., TestClient]:
    """Log a user in, with the cookie as browsers have it."""

    def client(role: str | None = None, **headers: str) -> TestClient:
        made = TestClient(page_app, base_url="http://airflow.test", headers=headers, raise_server_exceptions=False)
        if role:
            manager = airflow_api.get_auth_manager()
            made.cookies.set("_token", manager.generate_jwt(SimpleAuthManagerUser(username=role, role=role)))
        return made

    return client


def orphans(client: TestClient) -> list[dict[str, Any]]:
    """Return what the page would list for confirmation."""
    found = client.get("/api/orphans").json()["orphans"]
    return [{key: item[key] for key in ("conn_id", "kind", "id", "name")} for item in found]

"""What the page removes where there are several connections, and DAGs that a user may only read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.models.log import Log
from airflow.utils.session import create_session
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from airflow_rankvol import _page_runs
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import AuthDenied
from tests.airflow.page_kit import SAME_ORIGIN, orphans
from tests.unit.cli_kit import Cloud, install_another

ClientOf = Callable[..., TestClient]


@pytest.fixture
def other_cloud(page_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A second connection with another DAG's orphans, next to those of the first."""
    other = install_another(monkeypatch)
    page_cloud.volumes(reclaim="delete_always")
    other.volumes("payroll", "r9", reclaim="delete_always")
    page_cloud.runs |= {("etl", "r1"): RunState.ENDED, ("payroll", "r9"): RunState.ENDED}
    return other


@pytest.fixture
def only_etl(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let users change the DAG etl alone; they still read every other."""

    def authorized(self: Any, *, dag_ids: set[str], method: str = "GET", **_: Any) -> set[str]:
        return dag_ids if method == "GET" else dag_ids & {"etl"}

    return lambda: monkeypatch.setattr(SimpleAuthManager, "filter_authorized_dag_ids", authorized)


def entries() -> int:
    """Return how many removals the audit log has."""
    with create_session() as session:
        return session.scalar(select(func.count()).where(Log.event == "rankvol.remove_orphans")) or 0


def post(client: TestClient, listed: list[dict[str, Any]]) -> Any:
    return client.post("/api/remove", json={"resources": listed}, headers=SAME_ORIGIN)


def test_orphans_of_several_connections_go_together(page_cloud: Cloud, other_cloud: Cloud, client_of: ClientOf) -> None:
    before = entries()
    client = client_of("admin")
    answer = post(client, orphans(client))
    assert [(row["conn_id"], row["action"]) for row in answer.json()["resources"]] == [
        *[("rankvol_default", "removed")] * 2,
        *[("other", "removed")] * 2,
    ]
    assert (page_cloud.names, other_cloud.names) == (set(), set())
    assert entries() == before + 2


def test_a_right_that_is_missing_at_the_second_connection_keeps_what_the_first_one_has(
    page_cloud: Cloud, other_cloud: Cloud, client_of: ClientOf, only_etl: Callable[[], None]
) -> None:
    """The answer says that nothing was removed, and the audit log has nothing either."""
    client, before = client_of("admin"), entries()
    listed = orphans(client)
    assert [item["conn_id"] for item in listed] == [*["rankvol_default"] * 2, *["other"] * 2]
    only_etl()
    answer = post(client, listed)
    assert (answer.status_code, "Nothing was removed" in answer.text) == (403, True)
    assert (len(page_cloud.names), len(other_cloud.names)) == (2, 2)
    assert entries() == before


def test_what_is_listed_for_confirmation_is_what_the_user_may_remove(
    page_cloud: Cloud, client_of: ClientOf, only_etl: Callable[[], None]
) -> None:
    """What he may only see is listed apart, with the reason, and keeps nobody from removing the rest."""
    page_cloud.volumes(reclaim="delete_always")
    payroll = set(page_cloud.volumes("payroll", "r9", reclaim="delete_always"))
    page_cloud.runs |= {("etl", "r1"): RunState.ENDED, ("payroll", "r9"): RunState.ENDED}
    only_etl()
    client = client_of("admin")
    forbidden = client.get("/api/orphans").json()["forbidden"]
    assert {(item["name"], item["why"]) for item in forbidden} == {
        (name, "you may not change DAG payroll") for name in payroll
    }
    answer = post(client, orphans(client))
    assert [row["action"] for row in answer.json()["resources"]] == ["removed", "removed"]
    assert page_cloud.names == payroll


def test_orphans_of_a_connection_that_one_may_not_delete_are_listed_apart(
    page_cloud: Cloud, other_cloud: Cloud, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorized = SimpleAuthManager.is_authorized_connection

    def not_other(self: Any, *, method: Any, user: Any, details: Any = None) -> bool:
        may = authorized(self, method=method, user=user, details=details)
        return may and not (method == "DELETE" and details.conn_id == "other")

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_connection", not_other)
    client = client_of("admin")
    assert {item["why"] for item in client.get("/api/orphans").json()["forbidden"]} == {
        "you may not delete connection other"
    }
    assert post(client, orphans(client)).status_code == 200
    assert (page_cloud.names, len(other_cloud.names)) == (set(), 2)


def test_a_database_that_fails_at_the_second_connection_is_told_with_what_went(
    page_cloud: Cloud, other_cloud: Cloud, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of("admin")
    listed = orphans(client)
    answers = _page_runs.run_state

    def failing(dag: str, run: str) -> RunState:
        if dag == "payroll" and not page_cloud.names:
            raise OperationalError("select", {}, Exception("gone"))
        return answers(dag, run)

    monkeypatch.setattr(_page_runs, "run_state", failing)
    answer = post(client, listed)
    assert answer.status_code == 200
    assert [row["action"] for row in answer.json()["resources"]] == ["removed", "removed", "failed", "failed"]
    assert "does not answer any more" in answer.json()["resources"][-1]["reason"]
    assert len(other_cloud.names) == 2


def test_a_connection_that_fails_keeps_no_other_from_being_emptied(
    page_cloud: Cloud, other_cloud: Cloud, client_of: ClientOf
) -> None:
    client = client_of("admin")
    listed = orphans(client)
    page_cloud.backend.faults.fail("list_owned", AuthDenied)
    rows = post(client, listed).json()["resources"]
    assert [row["action"] for row in rows] == ["failed", "failed", "removed", "removed"]
    assert (len(page_cloud.names), other_cloud.names) == (2, set())

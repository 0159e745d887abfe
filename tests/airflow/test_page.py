"""The page's API: who sees what, who may remove what, and what is removed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.configuration import conf
from airflow.models.log import Log
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from airflow_rankvol import _page_looks, _page_runs
from airflow_rankvol._page_app import HEADERS
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import NotOurs
from tests.airflow.page_kit import SAME_ORIGIN, orphans
from tests.unit.cli_kit import Cloud


def test_without_a_login_there_is_nothing_to_see(page_cloud: Cloud, client_of: Callable[..., TestClient]) -> None:
    page_cloud.volumes()
    for path in ("/", "/page.js", "/api/groups", "/api/ranks?dag=etl&run=r1&group=ranks", "/openapi.json", "/docs"):
        answer = client_of().get(path)
        assert answer.status_code == 401, path
        assert "etl" not in answer.text
    assert client_of().post("/api/remove", json={"resources": []}, headers=SAME_ORIGIN).status_code == 401
    forged = client_of(Authorization="Bearer eyJhbGciOiJub25lIn0.e30.")
    assert forged.get("/api/groups").status_code in (401, 403)


def test_a_viewer_sees_groups_and_ranks_and_may_not_remove(
    page_cloud: Cloud, client_of: Callable[..., TestClient]
) -> None:
    names = page_cloud.volumes(reclaim="delete_always", size="10GB")
    page_cloud.runs["etl", "r1"] = RunState.ENDED
    client = client_of("viewer")
    shown = client.get("/api/groups").json()
    (group,) = shown["groups"]
    assert (group["dag"], group["run"], group["group"], group["ranks"]) == ("etl", "r1", "ranks", 2)
    assert (group["orphans"], group["removable"], group["size_gib"]) == (2, 2, 20)
    assert shown["may_remove"] is False
    ranks = client.get("/api/ranks", params={"dag": "etl", "run": "r1", "group": "ranks"}).json()["ranks"]
    assert [rank["volumes"][0]["name"] for rank in ranks] == names
    assert orphans(client) == []
    listed = orphans(client_of("admin"))
    assert len(listed) == 2
    answer = client.post("/api/remove", json={"resources": listed}, headers=SAME_ORIGIN)
    assert answer.status_code == 403
    assert page_cloud.names == set(names)


def test_a_live_ranks_bar_is_told_by_what_the_cloud_shows(
    page_cloud: Cloud, client_of: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its volume's creation, its node's, and the volumes' attachment; what has not ended yet has no end."""
    page_cloud.volumes(nodes=2)
    page_cloud.runs["etl", "r1"] = RunState.LIVE
    client, cloud = client_of("viewer"), page_cloud.backend
    monkeypatch.setattr(_page_looks, "FRESH_S", 0)

    def bar() -> list[tuple[str, float, float | None]]:
        (group,) = client.get("/api/groups").json()["groups"]
        where = {name: group[name] for name in ("dag", "run", "group")}
        rank = client.get("/api/ranks", params=where).json()["ranks"][0]
        return [(kind, since(start), since(end) if end else None) for kind, start, end in rank["spans"]]

    def since(time: str) -> float:
        return (datetime.fromisoformat(time) - made).total_seconds()

    first = min(cloud.volumes.values(), key=lambda disk: disk.tags.rank if disk.tags else 0)
    made = first.created_at
    assert bar() == [("create", 0, None)]
    cloud.clock.sleep(10)  # after the 2 s that the creation took
    page_cloud.node("node-0", waits_for=first.id)
    assert bar() == [("create", 0, 12), ("launch", 12, None)]
    cloud.clock.sleep(30)
    cloud.attach(first.id, cloud.nodes["node-0"].id)
    assert bar() == [("create", 0, 12), ("launch", 12, 43), ("up", 43, None)]


def test_who_may_delete_the_connection_removes_what_he_confirmed_and_no_more(
    page_cloud: Cloud, client_of: Callable[..., TestClient]
) -> None:
    names = page_cloud.volumes(reclaim="delete_always")
    page_cloud.node("node-0")
    page_cloud.runs["etl", "r1"] = RunState.ENDED
    client = client_of("op")
    assert client.get("/api/groups").json()["may_remove"] is True
    assert client.get("/api/orphans?dag=other").json() == {"orphans": [], "forbidden": []}
    listed = orphans(client)
    assert {item["name"] for item in listed} == {*names, "node-0"}
    confirmed = [item for item in listed if item["name"] != names[1]]
    answer = client.post("/api/remove", json={"resources": confirmed}, headers=SAME_ORIGIN)
    assert {row["name"]: row["action"] for row in answer.json()["resources"]} == {
        names[0]: "removed",
        "node-0": "removed",
    }
    assert page_cloud.names == {names[1]}
    assert [item["name"] for item in orphans(client)] == [names[1]]  # and the page knows at once
    with create_session() as session:
        entry = session.scalars(
            select(Log).where(Log.event == "rankvol.remove_orphans").order_by(Log.id.desc())
        ).first()
    assert entry is not None
    assert entry.owner == "op"
    assert names[0] in json.loads(entry.extra or "")["resources"][1]


@pytest.mark.parametrize("state", [RunState.UNKNOWN, RunState.LIVE])
def test_a_run_that_lives_again_or_is_unknown_keeps_what_was_confirmed(
    page_cloud: Cloud, client_of: Callable[..., TestClient], state: RunState
) -> None:
    names = page_cloud.volumes(reclaim="delete_always")
    page_cloud.runs["etl", "r1"] = RunState.ENDED
    client = client_of("admin")
    confirmed = orphans(client)
    assert len(confirmed) == 2
    page_cloud.runs["etl", "r1"] = state
    answer = client.post("/api/remove", json={"resources": confirmed}, headers=SAME_ORIGIN)
    assert [row["action"] for row in answer.json()["resources"]] == ["keep", "keep"]
    assert page_cloud.names == set(names)


def test_a_database_that_does_not_answer_is_no_word_that_runs_have_ended(
    page_cloud: Cloud, client_of: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = page_cloud.volumes(reclaim="delete_always", expiry="1s")
    page_cloud.backend.clock.sleep(3600)
    client = client_of("admin")
    confirmed = orphans(client)
    assert confirmed

    def broken(dag: str, run: str) -> RunState:
        raise OperationalError("select", {}, Exception("gone"))

    monkeypatch.setattr(_page_runs, "run_state", broken)
    answer = client.post("/api/remove", json={"resources": confirmed}, headers=SAME_ORIGIN)
    assert answer.status_code == 503
    assert page_cloud.names == set(names)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
        ({"Origin": "http://airflow.test"}, 200),
        (SAME_ORIGIN, 200),
    ],
)
def test_another_site_cannot_remove_with_a_users_cookie(
    page_cloud: Cloud, client_of: Callable[..., TestClient], headers: dict[str, str], status: int
) -> None:
    page_cloud.volumes(reclaim="delete_always")
    page_cloud.runs["etl", "r1"] = RunState.ENDED
    client = client_of("admin")
    answer = client.post("/api/remove", json={"resources": orphans(client)}, headers=headers)
    assert answer.status_code == status
    assert bool(page_cloud.names) is (status != 200)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_of_another_site_can_send_is_refused(
    page_cloud: Cloud, client_of: Callable[..., TestClient], kind: str
) -> None:
    names = page_cloud.volumes(reclaim="delete_always")
    page_cloud.runs["etl", "r1"] = RunState.ENDED
    client = client_of("admin")
    body = json.dumps({"resources": orphans(client)})
    answer = client.post("/api/remove", content=body, headers={**SAME_ORIGIN, "Content-Type": kind})
    assert answer.status_code in (415, 422)
    assert page_cloud.names == set(names)


def test_groups_of_dags_that_a_user_may_not_read_are_hidden(
    page_cloud: Cloud, client_of: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    page_cloud.volumes(reclaim="delete_always")
    secret = page_cloud.volumes("payroll", "r9", reclaim="delete_always")
    page_cloud.runs |= {("etl", "r1"): RunState.ENDED, ("payroll", "r9"): RunState.ENDED}
    client = client_of("admin")
    listed = orphans(client)
    assert len(listed) == 4

    def only_etl(self: Any, *, dag_ids: set[str], **_: Any) -> set[str]:
        return dag_ids & {"etl"}

    monkeypatch.setattr(SimpleAuthManager, "filter_authorized_dag_ids", only_etl)
    shown = client.get("/api/groups")
    assert [group["dag"] for group in shown.json()["groups"]] == ["etl"]
    assert "payroll" not in shown.text
    hidden = {"dag": "payroll", "run": "r9", "group": "ranks"}
    assert client.get("/api/ranks", params=hidden).status_code == 404
    answer = client.post("/api/remove", json={"resources": listed}, headers=SAME_ORIGIN)
    assert answer.status_code == 403
    assert set(secret) < page_cloud.names
    assert len(page_cloud.names) == 4


def test_a_place_that_cannot_be_looked_at_hides_no_other_and_tells_viewers_nothing(
    page_cloud: Cloud, client_of: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    page_cloud.volumes()
    monkeypatch.setenv("AIRFLOW__RANKVOL__CONN_IDS", "rankvol_default,no_such_conn")
    assert conf.get("rankvol", "conn_ids") == "rankvol_default,no_such_conn"
    shown = client_of("op").get("/api/groups").json()
    assert len(shown["groups"]) == 1
    assert [problem["conn_id"] for problem in shown["problems"]] == ["no_such_conn"]
    assert "is not defined" in shown["problems"][0]["problem"]
    for_viewers = client_of("viewer").get("/api/groups")
    assert len(for_viewers.json()["problems"]) == 1
    assert "no_such_conn" not in for_viewers.text


def test_what_cannot_be_removed_is_told_and_stays(page_cloud: Cloud, client_of: Callable[..., TestClient]) -> None:
    names = page_cloud.volumes(reclaim="delete_always")
    page_cloud.runs["etl", "r1"] = RunState.ENDED
    client = client_of("admin")
    confirmed = orphans(client)
    page_cloud.backend.faults.fail("delete_volume", NotOurs)
    rows = client.post("/api/remove", json={"resources": confirmed}, headers=SAME_ORIGIN).json()["resources"]
    assert {row["name"]: row["action"] for row in rows} == {names[0]: "failed", names[1]: "removed"}


def test_retained_volumes_are_no_orphans_and_cannot_be_removed_here(
    page_cloud: Cloud, client_of: Callable[..., TestClient]
) -> None:
    page_cloud.volumes(scope="dag", expiry="1s")
    page_cloud.runs["etl", "r1"] = RunState.ENDED
    page_cloud.backend.clock.sleep(timedelta(days=9).total_seconds())
    client = client_of("admin")
    (group,) = client.get("/api/groups").json()["groups"]
    assert (group["orphans"], group["removable"]) == (0, 0)


def test_many_requests_at_once_are_one_look(page_cloud: Cloud, client_of: Callable[..., TestClient]) -> None:
    page_cloud.volumes()
    client = client_of("viewer")
    before = page_cloud.backend.count("list_owned")
    for _ in range(5):
        client.get("/api/groups")
    assert page_cloud.backend.count("list_owned") == before + 1


def test_every_answer_forbids_foreign_code_and_framing(client_of: Callable[..., TestClient]) -> None:
    client = client_of("viewer")
    for path in ("/", "/api/groups", "/nothing", "/../_page_app.py", "/..%2f_page_app.py"):
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert answer.status_code == (200 if path in ("/", "/api/groups") else 404)
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


PROBE = """
import json, sys, time
import airflow.plugins_manager, airflow.sdk
before, start = set(sys.modules), time.process_time()
from airflow_rankvol.plugin import RankVolPlugin
routes = [view["url_route"] for view in RankVolPlugin.external_views]
print(json.dumps([time.process_time() - start, sorted(set(sys.modules) - before), routes]))
"""


def test_the_plugin_adds_next_to_nothing_to_the_processes_that_do_not_show_it() -> None:
    """Schedulers and tasks import it, too: no web framework, no backend, and a few thousandths of a second."""
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True, timeout=60)
    seconds, modules, routes = json.loads(done.stdout.splitlines()[-1])
    assert {name.split(".")[0] for name in modules} == {"airflow", "airflow_rankvol"}
    assert not [name for name in modules if name.startswith(("airflow_rankvol._page", "airflow_rankvol.backends"))]
    assert seconds < 0.1
    assert len(set(routes)) == 2

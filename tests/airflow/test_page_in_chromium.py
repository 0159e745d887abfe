"""The page in a real browser, without the rest of Airflow: 256 ranks, hostile names, the dialog, light and dark."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import uvicorn
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI
from selenium.webdriver.common.by import By

from airflow_rankvol._fake_faults import FakeClock
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.records import utc_now
from tests.system.browser import CHROMIUM, DRIVER, Browser, browser
from tests.unit.cli_kit import Cloud

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed")

HOSTILE = "</td><script>document.title='caught'</script><img src=x onerror=document.title='caught'>"
NODES = 256


@pytest.fixture
def window(page_app: FastAPI, page_cloud: Cloud) -> Iterator[Browser]:
    """A browser of an administrator, and the page on a port of its own."""
    page_cloud.backend.clock = FakeClock(utc_now() - timedelta(minutes=5))
    server = uvicorn.Server(uvicorn.Config(page_app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with browser(f"http://127.0.0.1:{port}") as made:
            made.open("/page.css")  # refused, but a cookie needs a page of its site
            user = SimpleAuthManagerUser(username="ada", role="admin")
            made.driver.add_cookie({"name": "_token", "value": get_auth_manager().generate_jwt(user)})
            yield made
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


def ground(window: Browser) -> str:
    """Return the page's background."""
    return str(window.run("return getComputedStyle(document.body).backgroundColor"))


def test_256_ranks_of_a_hostile_run_are_shown_at_once_listed_removed_and_gone(
    window: Browser, page_cloud: Cloud
) -> None:
    """In light and dark; nothing that a name holds becomes code, and the browser blocks nothing of ours."""
    page_cloud.runs["etl", HOSTILE] = RunState.ENDED
    names = page_cloud.volumes("etl", HOSTILE, nodes=NODES, reclaim="delete_always")
    page_cloud.node("node-0", "etl", HOSTILE)
    window.open("/")
    window.find("summary", f"{NODES + 1} orphaned").click()
    assert HOSTILE in window.find("summary").text
    window.wait(lambda: window.run("return document.querySelectorAll('tbody tr').length") == NODES, "all ranks")
    taken_ms = float(window.run("return document.querySelector('[data-render-ms]').dataset.renderMs"))
    assert taken_ms < 2000, f"{NODES} ranks took {taken_ms} ms"
    window.picture("page-256")

    assert ground(window) == "rgb(255, 255, 255)"
    window.run("document.documentElement.dataset.theme = 'dark'")
    assert ground(window) == "rgb(17, 18, 20)"

    window.find("#filter").send_keys("nothing like it")
    window.wait(lambda: window.texts("summary") == [], "none")
    window.run("document.getElementById('filter').value = ''")

    window.find("#remove").click()
    window.find("#dialog-title", f"Remove {NODES + 1} resources for good?")
    listed = window.run("return [...document.querySelectorAll('dialog td:nth-child(2)')].map((td) => td.textContent)")
    assert set(listed) == {*names, "node-0"}
    assert len(page_cloud.names) == NODES + 1
    window.find("#dialog-remove").click()
    window.find("#dialog-title", f"{NODES + 1} removed, 0 not")
    assert page_cloud.names == set()
    window.find("#dialog-cancel").click()
    window.find("#none")
    assert not window.driver.find_element(By.ID, "remove").is_displayed()
    assert window.run("return document.title") == "Rank volumes"
    assert window.complaints(window.base) == []


def test_the_dialog_lists_apart_what_the_user_may_not_remove(
    window: Browser, page_cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_etl(self: Any, *, dag_ids: set[str], method: str = "GET", **_: Any) -> set[str]:
        return dag_ids if method == "GET" else dag_ids & {"etl"}

    monkeypatch.setattr(SimpleAuthManager, "filter_authorized_dag_ids", only_etl)
    page_cloud.runs |= {("etl", "r1"): RunState.ENDED, ("payroll", "r9"): RunState.ENDED}
    names = page_cloud.volumes(nodes=1, reclaim="delete_always")
    payroll = page_cloud.volumes("payroll", "r9", nodes=1, reclaim="delete_always")
    window.open("/")
    window.find("#remove").click()
    window.find("#dialog-title", "Remove 1 resource for good?")
    listed = window.run("return [...document.querySelectorAll('dialog td:nth-child(2)')].map((td) => td.textContent)")
    assert listed == [*names, *payroll]
    assert "stays: you may not change DAG payroll" in window.find("#dialog-list").text
    window.find("#dialog-remove").click()
    window.find("#dialog-title", "1 removed, 0 not")
    assert page_cloud.names == set(payroll)

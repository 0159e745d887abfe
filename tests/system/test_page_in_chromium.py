"""The page in a real browser, on a real Airflow: login, tab, trigger form, a run to its end, orphans."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from airflow_rankvol.backends.local import LocalBackend
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.plan import RunIdentity, make_plan
from airflow_rankvol.spec.job import RankJob
from tests.system.browser import CHROMIUM, DRIVER, PICTURES, Browser, browser
from tests.system.stack import Stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed"),
]

DAGS = Path(__file__).parents[2] / "dags"
# For the pictures: what a large run looks like, and one whose teardown is skipped.
WIDE = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_rankvol import rank_job
common = {"volumes": ["data-volume-${NODE_RANK}:/data_volume"], "volume_template": {"size": "200GB"}}
with DAG("flights_by_shard", schedule=None) as wide:
    rank_job("shards", nodes=256, commands=["sleep $((5 + NODE_RANK % 23))"], **common)
with DAG("cut_off", schedule=None, dagrun_timeout=timedelta(seconds=20)) as cut:
    rank_job("shards", nodes=3, commands=["sleep 600"], **common)
"""
HOSTILE = "<img src=x onerror=document.title='caught'>"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running Airflow below a path of its host, with an example DAG, an administrator and a viewer."""
    home = tmp_path_factory.mktemp("stack")
    dags = home / "dags"
    dags.mkdir()
    shutil.copy(DAGS / "pi_by_rank.py", dags)
    if PICTURES:
        (dags / "wide.py").write_text(WIDE)
        (home / "prices.yaml").write_text('local: {"*": {"*": {gib: 0.08}}}')
    stack = Stack(home, dags, {"ada": "admin", "vera": "viewer"}, prefix="/team/airflow")
    extra = {"state_dir": str(home / "state"), "mode": "directory", "owner": "us"}
    stack.env["AIRFLOW_CONN_RANKVOL_DEFAULT"] = json.dumps({"conn_type": "rankvol_local", "extra": extra})
    if PICTURES:
        stack.env["AIRFLOW__RANKVOL__PRICES"] = str(home / "prices.yaml")
    stack.start()
    try:
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Iterator[Browser]:
    """An administrator's browser."""
    with browser(stack.base) as window:
        window.log_in(stack, "ada")
        yield window


@pytest.fixture(scope="module")
def run_id(stack: Stack, admin: Browser) -> str:
    """A run of five ranks that was started in the trigger form."""
    admin.open("/dags/pi_by_rank")
    admin.find("button", "Trigger").click()
    field = admin.find("input[name=element_nodes]")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("5")
    admin.picture("trigger-form")
    admin.find("[role=dialog] button", "Trigger").click()
    path = "/api/v2/dags/pi_by_rank/dagRuns?order_by=-run_after&limit=1"
    admin.wait(lambda: (stack.get(path) or {}).get("total_entries"), "the run")
    return str(stack.get(path)["dag_runs"][0]["dag_run_id"])


def leave(stack: Stack, run_id: str, group: str, nodes: int) -> set[str]:
    """Leave volumes behind, as a run does whose teardown never ran."""
    backend = LocalBackend(state_dir=stack.home / "state", mode="directory")
    fields = {
        "nodes": nodes,
        "volumes": "left-${NODE_RANK}:/data",
        "volume_template": {"size": "32MB", "reclaim": "delete_always"},
    }
    plan = make_plan(RankJob.model_validate(fields), RunIdentity("us", "pi_by_rank", run_id, group))
    return {volume.name for slot in provision(backend, plan, generation=1) for volume in slot.volumes}


def test_a_run_from_the_trigger_form_is_seen_through_to_its_end_in_its_tab(
    stack: Stack, admin: Browser, run_id: str
) -> None:
    """The tab of the DAG run shows every rank and its bar, up to the deletion; a task's link leads there."""
    admin.open(f"/dags/pi_by_rank/runs/{quote(run_id)}")
    admin.find("a[href*='plugin/rankvol_run']").click()
    admin.into_frame()
    admin.wait(lambda: len(admin.texts("tbody tr")) == 5, "five ranks")
    assert stack.wait("pi_by_rank", run_id) == "success", stack.states("pi_by_rank", run_id)
    admin.wait(lambda: len(admin.driver.find_elements(By.CSS_SELECTOR, ".p-delete:not(.open)")) >= 5, "deleted")
    assert admin.texts("tbody td:nth-child(2)") == ["success"] * 5
    assert {"create", "launch", "run", "gather", "delete"} <= parts(admin)
    assert all(text.startswith("gone") for text in admin.texts("tbody td:nth-child(4)"))
    task = f"/api/v2/dags/pi_by_rank/dagRuns/{quote(run_id)}/taskInstances/throw.run_rank/links?map_index=0"
    link = stack.get(task)["extra_links"]["Rank volumes"]
    assert link.endswith(f"/dags/pi_by_rank/runs/{quote(run_id, safe='')}/plugin/rankvol_run")
    assert admin.complaints() == []


def parts(window: Browser) -> set[str]:
    """Return what the bars show."""
    classes = window.run("return [...document.querySelectorAll('.track i')].map((i) => i.classList[0])")
    return {name.removeprefix("p-") for name in classes}


def test_an_admin_removes_orphans_that_a_dialog_lists(stack: Stack, admin: Browser, run_id: str) -> None:
    """Nothing goes before the confirmation; a hostile name is text; what is gone is no longer shown."""
    stack.wait("pi_by_rank", run_id)
    names = leave(stack, run_id, HOSTILE, 3)
    admin.into_page(HOSTILE)
    admin.find("summary", HOSTILE).click()
    admin.wait(lambda: len(admin.texts("tr.orphan")) == 3, "three orphans")

    admin.find("#remove").click()
    listed = admin.wait_for_texts("dialog td:nth-child(2)", 3)
    assert set(listed) == names
    admin.find("#dialog-cancel").click()
    assert len(list((stack.home / "state" / "volumes").iterdir())) == 3

    admin.find("#remove").click()
    admin.find("#dialog-remove").click()
    admin.find("#dialog-title", "3 removed, 0 not")
    admin.find("#dialog-cancel").click()
    admin.wait(lambda: HOSTILE not in " ".join(admin.texts("summary")), "it is gone")
    assert list((stack.home / "state" / "volumes").iterdir()) == []
    assert not admin.driver.find_element(By.ID, "remove").is_displayed()
    assert admin.run("return document.title") == "Rank volumes"
    assert admin.complaints() == []


def test_a_viewer_sees_the_page_dark_and_may_not_remove(stack: Stack, run_id: str) -> None:
    """No button, and the API refuses what the button would do."""
    stack.wait("pi_by_rank", run_id)
    names = leave(stack, run_id, "job", 2)
    try:
        with browser(stack.base, dark=True) as window:
            window.open("/rankvol/")
            assert "Not authenticated" in window.find("body").text
            window.log_in(stack, "vera")
            window.into_page("2 orphaned")
            window.find("summary", "2 orphaned").click()
            window.wait(lambda: len(window.texts("tr.orphan")) == 2, "two orphans")
            assert window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(17, 18, 20)"
            assert not window.driver.find_element(By.ID, "remove").is_displayed()
            answer = window.run(
                "const {orphans, forbidden} = await (await fetch('api/orphans')).json();"
                "const resources = forbidden.map(({conn_id, kind, id, name}) => ({conn_id, kind, id, name}));"
                "const headers = {'Content-Type': 'application/json'};"
                "const sent = await fetch('api/remove', {method: 'POST', headers, body: JSON.stringify({resources})});"
                "return [orphans.length, resources.length, sent.status]"
            )
            assert answer == [0, 2, 403]
    finally:
        done = stack.command("rankvol", "reap", "--yes", "--output", "json")
    assert {row["name"] for row in json.loads(done.stdout)} == names


@pytest.mark.skipif(not PICTURES, reason="takes the pictures of the documentation; see CONTRIBUTING.md")
@pytest.mark.timeout(900)
def test_the_pictures_of_the_documentation(stack: Stack, admin: Browser, run_id: str) -> None:
    """A large run, live and ended, and orphans of one that was cut off."""
    runs = {dag: stack.trigger(dag) for dag in ("cut_off", "flights_by_shard")}
    try:
        assert stack.wait("cut_off", runs["cut_off"]) == "failed"
        admin.wait(
            lambda: stack.states("flights_by_shard", runs["flights_by_shard"]).get("shards.run_rank[40]"), "ranks"
        )
        admin.into_page("orphaned")
        for dag, ranks in (("cut_off", 3), ("pi_by_rank", 8)):  # one by one: a table that comes moves what is below it
            admin.find("summary", dag).click()
            admin.wait_for_texts("tbody tr", ranks)
        admin.picture("page")
        admin.find("#remove").click()
        admin.find("dialog td")
        admin.picture("remove")
        admin.find("#dialog-cancel").click()
        assert stack.wait("flights_by_shard", runs["flights_by_shard"], timeout_s=700) == "success"
        with browser(stack.base, dark=True) as window:
            window.log_in(stack, "vera")
            window.into_page("flights_by_shard")
            window.find("summary", "flights_by_shard").click()
            window.wait(lambda: len(window.driver.find_elements(By.CSS_SELECTOR, "tbody tr")) == 256, "all ranks")
            window.picture("page-256-dark")
    finally:
        stack.command("rankvol", "reap", "--yes")

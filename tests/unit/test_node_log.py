"""A node's output in its task's log: one group that Airflow folds, and no secret that Airflow knows."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from airflow.sdk.log import mask_secret, redact  # type: ignore[attr-defined]  # imported there for others

from airflow_rankvol._node_log import LEAST_LINE, NodeLog, secrets_of
from airflow_rankvol._readings import SEARCHED_BYTES
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.work import Work
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.testing import FakeBackend, fails, succeeds
from airflow_rankvol.triggers import RankTrigger
from tests.unit.engine.engine_kit import a_rig
from tests.unit.test_secrets import ODD_SECRETS
from tests.unit.trigger_kit import events_of, launched, reached_by_triggers

KEY = "-----BEGIN KEY-----\nrhubarb-and-custard\n-----END KEY-----"


class Log:
    """Keeps messages as Airflow would write them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *args: Any) -> None:
        self.lines.append(text % args if args else text)

    warning = error = info


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """The log of every trigger."""
    found = Log()
    monkeypatch.setattr(RankTrigger, "log", found)
    return found


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    endings = {("rank", 0): succeeds({"rows": 5}, after_s=20), ("rank", 1): fails(7, log_tail="two\nout of rhubarb\n")}
    backend = FakeBackend(endings=endings, attach_at_launch=True)
    backend.log_interval_s = 3.0
    return reached_by_triggers(backend, monkeypatch)


def name_of(trigger: RankTrigger) -> str:
    return Work.from_dict(trigger.work).node_name


def test_a_deferred_rank_shows_its_output_in_one_group_before_it_ends(cloud: FakeBackend, log: Log) -> None:
    trigger = launched(cloud, 0)
    cloud.logs[name_of(trigger)] = ["one", "two"]
    events_of(trigger)
    assert log.lines == [f"::group::Output of rank 0 ({name_of(trigger)})", "one", "two", "::endgroup::"]


def test_what_a_failed_rank_is_about_is_not_folded_away(cloud: FakeBackend, log: Log) -> None:
    trigger = launched(cloud, 1)
    cloud.logs[name_of(trigger)] = ["one", "two"]
    trigger.trigger_id = None
    (event,) = events_of(trigger)
    assert log.lines[-3:] == ["one", "two", "::endgroup::"]
    assert event.payload["result"]["log_tail"] == "two\nout of rhubarb\n"


def test_a_trigger_that_is_cancelled_leaves_no_open_group(cloud: FakeBackend, log: Log) -> None:
    cloud.endings[("rank", 0)] = succeeds(after_s=80_000)
    trigger = launched(cloud, 0)
    cloud.logs[name_of(trigger)] = ["one"]

    async def cancel() -> None:
        task = asyncio.ensure_future(anext(trigger.run()))
        while "one" not in log.lines:  # noqa: ASYNC110 - it is shown from a thread
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancel())
    assert log.lines[-1] == "::endgroup::"


def test_a_node_that_prints_nothing_makes_no_group(cloud: FakeBackend, log: Log) -> None:
    events_of(launched(cloud, 0))
    assert log.lines == []


def test_where_several_nodes_gather_each_line_says_whose_it_is() -> None:
    rig, log = a_rig(2), Log()
    works = rig.gather_work().in_parts(1)
    shown = NodeLog(log, works)
    shown.of(works[1]).show(["b"])
    shown.of(works[0]).show(["a"])
    shown.close()
    shown.close()
    names = f"{works[0].node_name}, {works[1].node_name}"
    assert log.lines == [f"::group::Output of gather ({names})", "part 1: b", "part 0: a", "::endgroup::"]


def test_a_secret_of_several_lines_is_masked_although_lines_are_logged_one_by_one() -> None:
    mask_secret(KEY)
    rig, log = a_rig(1), Log()
    shown = NodeLog(log, [rig.work(0)])
    shown.of(rig.work(0)).show(["before", *KEY.split("\n"), "after"])
    assert log.lines[1:] == ["before", "***", "after"]


def test_what_was_masked_in_the_task_is_masked_in_the_triggerer(cloud: FakeBackend, log: Log) -> None:
    """The triggerer is another process, which never read the Variable; its trigger brings the secret along."""
    trigger = launched(cloud, 0)
    cloud.endings[("rank", 0)] = succeeds(log_tail="key=hunter2-of-mine\n")
    trigger = RankTrigger(**{**trigger.serialize()[1], "masked": ["hunter2-of-mine"]})
    cloud.logs[name_of(trigger)] = ["connecting with hunter2-of-mine", "done"]
    (event,) = events_of(trigger)
    assert log.lines[1:3] == ["connecting with ***", "done"]
    assert redact("hunter2-of-mine") == "***"  # so are messages of others in this triggerer
    assert "hunter2" not in str(event.payload)


def test_a_trigger_brings_along_the_secrets_that_its_node_is_given_and_no_others() -> None:
    for secret in ("in-an-env-value", "in-a-command", "in-a-file", "of-another-dag", "in-a-large-file"):
        mask_secret(secret)
    job = RankJob.model_validate(
        {
            "nodes": 1,
            "volumes": ["data-${NODE_RANK}:/data"],
            "commands": ["curl -H 'X-Key: in-a-command' localhost"],
            "gather": ["true"],
            "env": {"URL": "db://me:in-an-env-value@host"},
        }
    )
    large = b"in-a-large-file" + b" " * SEARCHED_BYTES
    files = {"etl.py": b"KEY = 'in-a-file'", "model.bin": b"\xff\xfe", "data.csv": large}
    assert secrets_of(Launcher(job, files, (), "local")) == ["in-a-command", "in-a-file", "in-an-env-value"]


@pytest.mark.parametrize("secret", ODD_SECRETS)
def test_a_secret_is_found_however_it_is_written_in_a_file(secret: str) -> None:
    """JSON and Python write some characters with escapes; what has several lines may be printed line by line."""
    mask_secret(secret)
    job = RankJob.model_validate({"nodes": 1, "volumes": ["data-${NODE_RANK}:/data"], "commands": ["true"]})
    found: list[str] = []
    for name, content in (("call.json", json.dumps({"arguments": [{"key": secret}]})), ("a.py", f"KEY = {secret!r}")):
        found = secrets_of(Launcher(job, {name: content.encode()}, (), "local"))
        assert secret in found
        assert {line for line in secret.split("\n") if len(line) >= LEAST_LINE} <= set(found)
    for mine in found:  # as the triggerer does
        mask_secret(mine)
    assert {redact(line) for line in secret.split("\n")} == {"***"}


def test_a_process_that_masks_nothing_brings_nothing_along() -> None:
    job = RankJob.model_validate({"nodes": 1, "volumes": ["data-${NODE_RANK}:/data"], "commands": ["true"]})
    assert secrets_of(Launcher(job, {}, (), "local")) == []

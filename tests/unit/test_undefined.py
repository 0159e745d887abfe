"""A connection that is not found because nobody answers is not taken for undefined."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk import DAG, XComArg
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import supervisor, task_runner
from airflow.sdk.execution_time.comms import ConnectionResult, ErrorResponse, GetConnection
from airflow.secrets import BaseSecretsBackend

from airflow_rankvol import _undefined, operators
from airflow_rankvol.engine.teardown import TeardownReport
from airflow_rankvol.errors import ConfigError, NotReady
from airflow_rankvol.hooks import aget_backend, get_backend, get_owner
from airflow_rankvol.operators import CreateRankVolumes, DeleteRankVolumes, PlanRankVolumes, RunRank
from airflow_rankvol.testing import FakeBackend
from airflow_rankvol.triggers import RankTrigger

NOTHING: dict[str, Any] = dict.fromkeys(("host", "schema", "login", "password", "port"))
LOCAL = ConnectionResult(conn_id="rankvol_default", conn_type="rankvol_local", extra='{"owner": "team-a"}', **NOTHING)
UNDEFINED = ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND)
DOWN = ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 503})
FIELDS: dict[str, Any] = {"nodes": 1, "volumes": ["data-${NODE_RANK}:/data"], "commands": ["true"]}


class Comms:
    """A task's supervisor, which gives these answers one after another, and the last one for ever.

    An error comes as an exception, as of a process' supervisor, or as an answer, as of one in the same process.
    """

    def __init__(self, *answers: ConnectionResult | ErrorResponse, raises: bool) -> None:
        self.answers = list(answers)
        self.raises = raises

    def send(self, message: Any) -> Any:
        if not isinstance(message, GetConnection):
            return None
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if self.raises and isinstance(answer, ErrorResponse):
            raise AirflowRuntimeError(answer)
        return answer

    async def asend(self, message: Any) -> Any:
        return self.send(message)


@pytest.fixture(params=[True, False])
def answers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes this process a task whose supervisor answers so."""
    monkeypatch.setattr(_undefined, "LONGEST_PAUSE_S", 0.0)

    def set_answers(*answers: ConnectionResult | ErrorResponse, patience_s: float = 180.0) -> None:
        monkeypatch.setattr(_undefined, "PATIENCE_S", patience_s)
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Comms(*answers, raises=request.param), raising=False)

    return set_answers


def reads() -> Iterator[Any]:
    """Return every way of reading the default connection."""
    yield get_backend
    yield lambda: asyncio.run(aget_backend())
    yield lambda: get_owner("rankvol_default", SimpleNamespace(name="fake", default_owner=lambda: "me"))


def test_an_api_server_that_does_not_answer_is_no_undefined_connection(answers: Any) -> None:
    answers(DOWN, patience_s=0.0)
    for read in reads():
        with pytest.raises(
            NotReady, match=r"'rankvol_default' was not found, but ExecutionAPI.* failed .*try again once"
        ):
            read()
    with pytest.raises(NotReady):  # and no final error: a retry may find it
        get_backend("other")


def test_a_connection_that_is_there_a_moment_later_is_waited_for(answers: Any) -> None:
    for read in reads():
        answers(DOWN, DOWN, DOWN, LOCAL, LOCAL)
        read()
    answers(DOWN, DOWN, LOCAL)
    assert get_owner("rankvol_default", get_backend()) == "team-a"


def test_a_connection_that_nobody_knows_is_undefined(answers: Any) -> None:
    answers(UNDEFINED)
    assert get_backend().name == asyncio.run(aget_backend()).name == "local"
    with pytest.raises(ConfigError, match="connection 'other' is not defined"):
        get_backend("other")


def test_a_secrets_backend_that_fails_may_know_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow goes on with the next one, which does not know it."""

    class Sealed(BaseSecretsBackend):
        def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:
            raise ConnectionError(f"the vault of {conn_id} is sealed")

    monkeypatch.setattr(supervisor, "ensure_secrets_backend_loaded", lambda: [Sealed()])
    with pytest.raises(NotReady, match=r"Sealed failed when it was asked \(ConnectionError\)"):
        get_backend()


@pytest.mark.parametrize("text", ["aws://AKIA:hunter2/K7MD@/", '{"conn_type": "aws", "password": "hunter2'])
def test_a_connection_in_the_environment_that_cannot_be_read_is_no_undefined_one(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Nobody mends it by waiting; and what could not be read may hold a secret."""
    monkeypatch.setenv("AIRFLOW_CONN_RANKVOL_DEFAULT", text)
    for read in reads():
        with pytest.raises(ConfigError, match=r"'rankvol_default' is defined in the environment, but") as caught:
            read()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_teardown_that_cannot_ask_does_not_call_its_volumes_deleted(answers: Any) -> None:
    answers(DOWN, patience_s=0.0)
    with pytest.raises(NotReady):
        DeleteRankVolumes(task_id="delete_volumes", volume_group="job", **FIELDS).execute({})


@pytest.mark.parametrize("operator", [DeleteRankVolumes, RunRank])
def test_no_task_works_on_another_backend_than_the_plan(answers: Any, operator: Any) -> None:
    """As when the connection was deleted meanwhile: the volumes are not on this machine."""
    answers(UNDEFINED)
    more: dict[str, Any] = {"slot": {}} if operator is RunRank else {}
    task = operator(task_id="a_task", volume_group="job", planned_on="aws", **more, **FIELDS)
    with pytest.raises(Exception, match=r"'rankvol_default' leads to local /.* now, but .* planned on aws"):
        task.execute({})


def test_a_teardown_that_cannot_ask_where_it_was_planned_ends_nodes_and_deletes_no_volume(
    answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(LOCAL)
    sure: list[bool] = []

    def teardown(*_args: Any, **how: Any) -> TeardownReport:
        sure.append(how["sure"])
        return TeardownReport((), (), ())

    monkeypatch.setattr(operators, "teardown", teardown)
    ti = Mock(dag_id="dag", run_id="run", map_index=-1)
    ti.xcom_pull.side_effect = ConnectionError("the store is down")
    with DAG("dag"):
        plan = PlanRankVolumes(task_id="plan", volume_group="job", **FIELDS)
        where = XComArg(plan, key="backend")
        task = DeleteRankVolumes(task_id="delete_volumes", volume_group="job", planned_on=where, collected=[], **FIELDS)
    with pytest.raises(ConnectionError, match="the store is down"):
        task.execute({"ti": ti})
    assert sure == [False]


@pytest.mark.parametrize("adopting", [True, False])
def test_a_teardown_that_cannot_ask_what_was_adopted_deletes_none_of_it_and_fails(
    answers: Any, monkeypatch: pytest.MonkeyPatch, adopting: bool
) -> None:
    """What gather has collected goes all the same; and a job that deletes nothing adopted does not ask."""
    answers(LOCAL)
    asked: list[tuple[Any, ...]] = []

    def teardown(*_args: Any, **how: Any) -> TeardownReport:
        asked.append((how["collected"], how["slots"], how["sure"]))
        return TeardownReport((), (), ())

    monkeypatch.setattr(operators, "teardown", teardown)
    ti = Mock(dag_id="dag", run_id="run", map_index=-1)
    ti.xcom_pull.side_effect = ConnectionError("the store is down")
    with DAG("dag"):
        fields = {**FIELDS, "volume_template": {"scope": "global", "delete_adopted": adopting}}
        create = CreateRankVolumes(task_id="create_volumes", volume_group="job", **fields)
        slots = create.output
        task = DeleteRankVolumes(task_id="delete_volumes", volume_group="job", slots=slots, collected=[0], **fields)
    with pytest.raises(ConnectionError, match="the store is down") if adopting else nullcontext():
        task.execute({"ti": ti})
    assert asked == [([0], None, not adopting)]


def test_where_volumes_are_is_stored_before_one_is_made(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that dies while it makes them leaves it to its plan, which may be cleared, and to its teardown."""
    answers(LOCAL)
    ti = Mock(dag_id="dag", run_id="run", map_index=-1, try_number=1)

    def dies(*_args: Any, **_how: Any) -> None:
        raise SystemExit(9)

    monkeypatch.setattr(operators, "provision", dies)
    with DAG("dag"):
        task = CreateRankVolumes(task_id="create_volumes", volume_group="job", **FIELDS)
    with pytest.raises(SystemExit):
        task.execute({"ti": ti})
    ((key, where), _) = ti.xcom_push.call_args
    assert key == "backend"
    assert where.startswith("local /")


def test_who_reads_its_connection_anew_goes_over_to_no_other_backend(
    answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while somebody deletes the connection and adds it again, with new credentials."""
    answers(UNDEFINED)
    task = RunRank(task_id="a_task", volume_group="job", slot={}, **FIELDS)
    monkeypatch.setattr(task, "_running", (FakeBackend(), []))
    assert task._reopen() is None
    with pytest.raises(NotReady, match=r"leads to local /.* now, but the node is on fake"):
        asyncio.run(RankTrigger("rankvol_default", {}, where="fake")._open())
    assert asyncio.run(RankTrigger("rankvol_default", {})._open()).name == "local"  # one of before that was known

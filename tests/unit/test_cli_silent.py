"""`rankvol` where Airflow's database does not answer: that is no word that a run has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from airflow import settings
from airflow.configuration import AIRFLOW_HOME
from airflow.models.base import Base
from sqlalchemy import Engine, StaticPool, create_engine, text

from airflow_rankvol._cli_airflow import AirflowDatabase, AirflowSilent
from airflow_rankvol.cli import main
from airflow_rankvol.engine.reap import RunState
from tests.unit.cli_kit import Cloud, install, install_another, rows

Configure = Callable[[Engine], None]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return install(monkeypatch)


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Let an engine be the one of Airflow's configuration."""
    return lambda engine: monkeypatch.setattr(settings, "get_engine", lambda: engine)


@pytest.fixture
def broken(tmp_path: Path, configure: Configure) -> None:
    """Configure a database that is there and does not answer."""
    path = tmp_path / "airflow.db"
    path.write_bytes(b"not a database" * 100)
    configure(create_engine(f"sqlite:///{path}"))


def expired(cloud: Cloud) -> set[str]:
    """Make a live run whose node and volumes have expired."""
    cloud.volumes(expiry="1s")
    cloud.node("node-0")
    cloud.backend.clock.sleep(7200)
    cloud.runs["etl", "r1"] = RunState.LIVE
    return cloud.names


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("arguments", [[], ["--yes"], ["--yes", "--run", "r1"], ["--yes", "--name", "node-0"]])
def test_reap_removes_nothing_while_the_database_fails(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    before = expired(cloud)
    assert main(["reap", *arguments]) == 1
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "Airflow's database does not answer (DatabaseError" in answer.err
    assert "--without-airflow" in answer.err
    assert cloud.names == before


@pytest.mark.usefixtures("broken")
def test_without_airflow_the_expiry_alone_counts(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """And nobody's word for a run: a database that fails has not said that it does not know it."""
    young = cloud.volumes("etl", "young", reclaim="delete_always", expiry="9h")
    expired(cloud)
    for arguments in (["--run", "young"], []):
        assert main(["reap", "--yes", "--without-airflow", "-o", "json", *arguments]) == 0
        answer = capsys.readouterr()
        assert "they count as unknown" in answer.err
        assert set(young) <= set(cloud.backend.volumes)
    assert set(cloud.backend.volumes) == set(young)
    assert not cloud.backend.nodes


def test_without_airflow_what_answers_is_heard_all_the_same(cloud: Cloud) -> None:
    before = expired(cloud)
    assert main(["reap", "--yes", "--without-airflow"]) == 0
    assert cloud.names == before


@pytest.mark.usefixtures("broken")
def test_ls_goes_on_and_shows_runs_as_unknown(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes()
    assert main(["ls"]) == 0
    answer = capsys.readouterr()
    assert answer.out.count("unknown") == 2
    assert "Airflow's database cannot be asked which runs live (DatabaseError" in answer.err


@pytest.mark.usefixtures("broken", "cloud")
@pytest.mark.parametrize("arguments", [["ls"], ["reap", "--yes", "--without-airflow"]])
def test_a_default_connection_that_may_be_in_the_database_is_not_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A "0 removed" would be a word on volumes that nobody has looked at."""
    monkeypatch.delenv("AIRFLOW_CONN_RANKVOL_DEFAULT")
    assert main(arguments) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "'rankvol_default' is not defined here, and may be in Airflow's database" in answer.err
    assert "AIRFLOW_CONN_RANKVOL_DEFAULT=" in answer.err


@pytest.mark.parametrize("flag", [[], ["--without-airflow"]])
@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_database_that_fails_on_the_way_ends_the_removal(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], answers: int, flag: list[str]
) -> None:
    """Before the list, before the nodes go, or before the volumes go; who has answered has to answer again."""
    names = cloud.volumes(reclaim="delete_always")
    cloud.node("node-0")
    cloud.runs["etl", "r1"] = RunState.ENDED
    cloud.silent_after = answers
    code = main(["reap", "--yes", *flag])
    assert code == (0 if flag and answers == 0 else 1)
    assert set(cloud.backend.volumes) == set(names)
    assert bool(cloud.backend.nodes) is (answers < 2)
    assert "does not answer" in capsys.readouterr().err or code == 0


def test_a_database_that_fails_at_the_second_place_keeps_the_first_one_too(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = cloud.volumes(reclaim="delete_always")
    other = install_another(monkeypatch)
    others = other.volumes("etl", "r2")
    cloud.runs["etl", "r1"] = RunState.ENDED
    cloud.silent_after = 1
    assert main(["reap", "--yes"]) == 1
    assert (cloud.names, other.names) == (set(names), set(others))
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "error: Airflow's database does not answer" in answer.err


def test_where_airflow_was_never_set_up_runs_are_unknown(configure: Configure, tmp_path: Path) -> None:
    """Its default file is absent, or a database has none of its tables."""
    default = Path(AIRFLOW_HOME, "airflow.db")
    if not default.exists():  # other tests of this process may have made it
        configure(create_engine(f"sqlite:///{default}"))
        assert AirflowDatabase(needed=True).run_state("etl", "r1") is RunState.UNKNOWN
        assert not default.exists()
    empty = tmp_path / "empty.db"
    empty.touch()
    configure(create_engine(f"sqlite:///{empty}"))
    assert AirflowDatabase(needed=True).run_state("etl", "r1") is RunState.UNKNOWN


def test_a_file_that_somebody_has_chosen_and_that_is_absent_is_a_failure(configure: Configure, tmp_path: Path) -> None:
    """As where its disk is not mounted."""
    configure(create_engine(f"sqlite:///{tmp_path}/gone.db"))
    with pytest.raises(AirflowSilent, match=r"gone\.db"):
        AirflowDatabase(needed=True).run_state("etl", "r1")
    assert AirflowDatabase().run_state("etl", "r1") is RunState.UNKNOWN
    assert list(tmp_path.iterdir()) == []


def test_the_tables_are_looked_for_in_the_configured_schema(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `sql_alchemy_schema` set, no other schema need have them."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        connection.execute(text("ATTACH DATABASE ':memory:' AS of_airflow"))
        connection.execute(text("CREATE TABLE of_airflow.dag_run (id INTEGER)"))
    configure(engine)
    assert "has no table dag_run" in AirflowDatabase().problem
    monkeypatch.setattr(Base.metadata, "schema", "of_airflow")
    assert AirflowDatabase().problem == ""


def test_rows_say_what_was_not_removed_when_the_database_fails_on_the_way(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.volumes(reclaim="delete_always")
    cloud.runs["etl", "r1"] = RunState.ENDED
    cloud.silent_after = 1
    assert main(["reap", "--yes", "-o", "json"]) == 1
    assert {row["action"] for row in rows(capsys)} == {"failed"}

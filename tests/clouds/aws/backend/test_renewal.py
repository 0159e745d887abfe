"""Credentials that expire while nodes run: what gives them out is asked again, and what it gives is used."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from airflow_rankvol.backends import _aws_connection as connection
from airflow_rankvol.backends._aws_connection import Clients, aws_backend
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.base import Selector
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.engine.loop import Line, wait
from airflow_rankvol.errors import AuthDenied, ConfigError, CredentialsRefused
from tests.clouds.aws.backend.kit import Lab, settings
from tests.clouds.aws.client import Double

OLD, NEW = "ASIAOLDOLDOLDOLDOLD0", "ASIANEWNEWNEWNEWNEW0"
EVERYTHING = Selector("lab")
SUCCEED = "tests.clouds.aws.backend.kit:succeed"


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has made no backend yet, on a machine without credentials in its environment."""
    connection._SHARED.forget()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


class Profile:
    """A profile in a file, which somebody keeps up to date."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._credentials, self._config, self._given = folder / "credentials", folder / "config", folder / "given.json"
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(self._credentials))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(self._config))

    def key(self, key: str) -> None:
        self._credentials.write_text(f"[p]\naws_access_key_id={key}\naws_secret_access_key=x\naws_session_token=t\n")

    def process(self, key: str, expiration: str) -> None:
        given = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": "x", "SessionToken": "t"}
        self._given.write_text(json.dumps({**given, "Expiration": expiration}))
        self._config.write_text(f"[profile p]\ncredential_process = cat {self._given}\n")

    def lose(self) -> None:
        self._credentials.write_text("")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    return Profile(tmp_path, monkeypatch)


def by_profile(double: Double) -> Settings:
    given = settings(double, profile_name="p", owner="lab")
    return Settings(given.conn_id, given.conn_type, given.extra)


def test_credentials_that_come_expired_are_refused_until_some_come_that_are_not(
    double: Double, profile: Profile
) -> None:
    """botocore has no error of its own for them; a process, the metadata services and roles give such ones."""
    profile.process(OLD, "2020-01-01T00:00:00Z")
    backend = aws_backend(by_profile(double))
    with pytest.raises(CredentialsRefused, match="had expired already") as refused:
        backend.list_owned(EVERYTHING)
    assert "the connection aws_test was given credentials" in str(refused.value)
    assert "renew them, or let the connection use a role" in str(refused.value)
    profile.process(NEW, "2100-01-01T00:00:00Z")
    backend.list_owned(EVERYTHING)
    assert "ec2:DescribeVolumes" in double.actions(NEW)


def test_a_profile_that_is_written_anew_is_read_again(double: Double, profile: Profile) -> None:
    """The connection says the same as before, so the process' backend is the same, with all that it saw."""
    profile.key(OLD)
    backend = aws_backend(by_profile(double))
    backend.list_owned(EVERYTHING)
    double("credentials", state="expired")
    with pytest.raises(CredentialsRefused):
        backend.list_owned(EVERYTHING)
    profile.key(NEW)
    double("credentials", state="ok")
    assert aws_backend(by_profile(double)) is backend
    backend.list_owned(EVERYTHING)
    assert "ec2:DescribeVolumes" in double.actions(NEW)


def test_a_profile_that_is_not_there_while_it_is_written_is_no_error_of_its_own(
    double: Double, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger waits for credentials; a connection that is wrong would end its task."""
    monkeypatch.setattr(connection, "ANEW_S", 0.0)
    profile.key(OLD)
    backend = aws_backend(by_profile(double))
    double("credentials", state="expired")
    with pytest.raises(CredentialsRefused):
        backend.list_owned(EVERYTHING)
    profile.lose()
    with pytest.raises(CredentialsRefused):
        backend.list_owned(EVERYTHING)
    with pytest.raises(ConfigError):
        AwsBackend(Clients(by_profile(double))).list_owned(EVERYTHING)
    profile.key(NEW)
    double("credentials", state="ok")
    backend.list_owned(EVERYTHING)
    assert "ec2:DescribeVolumes" in double.actions(NEW)


def test_many_threads_that_are_refused_at_once_sign_in_once(
    double: Double, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = connection._client

    def note(given: Settings, service: str) -> object:
        made.append(service)
        return real(given, service)

    monkeypatch.setattr(connection, "_client", note)
    monkeypatch.setattr(connection, "ANEW_S", float("inf"))  # however slow this machine is
    profile.key(OLD)
    backend = aws_backend(by_profile(double))
    backend.list_owned(EVERYTHING)
    double("credentials", state="invalid")
    errors: list[BaseException] = []

    def look() -> None:
        for _ in range(3):
            try:
                backend.list_owned(EVERYTHING)
            except AuthDenied as exc:
                errors.append(exc)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 24
    assert made == ["ec2", "ec2"]
    monkeypatch.setattr(connection, "ANEW_S", 0.0)
    for _ in range(2):  # the first one's refusal has the second one's client made anew
        with pytest.raises(AuthDenied):
            backend.list_owned(EVERYTHING)
    assert made == ["ec2", "ec2", "ec2"]


def test_a_task_that_waits_itself_goes_on_with_new_credentials(lab: Lab) -> None:
    """As a trigger does: the node has run on meanwhile."""
    lab.double("end_nodes", script=SUCCEED, after_s=1200.0)
    rig = lab.rig(1)
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    rig.until_attached(work)
    lab.double("credentials", state="expired")
    told: list[str] = []

    def renew() -> AwsBackend:
        if (lab.backend.clock.now() - begun).total_seconds() > 900:
            lab.double("credentials", state="ok")
        backend: AwsBackend = lab.backend
        return backend

    begun = lab.backend.clock.now()
    (outcome,) = wait(rig.backend, [work], lambda _work: None, Line("aws_test", renew, told.append))
    assert (outcome.error, outcome.result.output) == (None, {"rank": 0})
    assert "RequestExpired" in told[0]
    assert lab.count("RunInstances") == 1


def test_a_right_to_attach_that_is_missing_ends_the_rank_and_is_named(lab: Lab) -> None:
    rig = lab.rig(1)
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    lab.double("deny", actions=["ec2:AttachVolume"])
    begun = lab.backend.clock.now()
    (outcome,) = rig.until_end(work)
    assert type(outcome.error) is AuthDenied
    assert "no policy allows ec2:AttachVolume on *" in str(outcome.error)
    assert "Give the connection's identity this right" in str(outcome.error)
    assert (lab.backend.clock.now() - begun).total_seconds() < 60
    lab.settle(60)
    assert rig.observe().nodes == ()
    assert len(rig.observe().volumes) == 1

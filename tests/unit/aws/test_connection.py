"""From an aws connection to a backend: in a task, in the triggerer's event loop, with every way to say it wrong."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from airflow_rankvol.backends import _aws_connection as connection
from airflow_rankvol.backends._aws_connection import Clients, aws_backend
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.base import Backend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.hooks import aget_backend, get_backend, get_owner

REGION = {"region_name": "eu-central-1"}


@pytest.fixture(autouse=True)
def _anew() -> None:
    """A process that has made no backend yet."""
    connection._SHARED.forget()


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str = "aws_test", **extra: object) -> None:
    text = {"conn_type": "aws", "login": "AKIATEST", "password": "secret", "extra": {**REGION, **extra}}
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(text))


def settings(**extra: object) -> Settings:
    return Settings("aws_test", "aws", {**REGION, **extra}, "AKIATEST", "secret")


@pytest.mark.parametrize("conn_id", ["aws_test", "rankvol_default"])
def test_an_aws_connection_gives_the_aws_backend(monkeypatch: pytest.MonkeyPatch, conn_id: str) -> None:
    connect(monkeypatch, conn_id, poll_interval="2.5", owner="team-a")
    backend = get_backend(conn_id)
    assert isinstance(backend, AwsBackend)
    assert isinstance(backend, Backend)
    assert backend.poll_interval_s == 2.5
    assert backend.clients.region == "eu-central-1"
    assert get_owner(conn_id, backend) == "team-a"


def test_the_event_loop_neither_imports_nor_makes_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take long, and nothing else moves in the triggerer meanwhile; nor may a connection be read there."""
    connect(monkeypatch)
    made_in: list[str] = []
    real = connection.aws_backend

    def note(given: Settings) -> AwsBackend:
        made_in.append(threading.current_thread().name)
        return real(given)

    monkeypatch.setattr(connection, "aws_backend", note)
    backend = asyncio.run(aget_backend("aws_test"))
    assert isinstance(backend, AwsBackend)
    assert made_in != [threading.main_thread().name]
    assert backend.clients._clients == {}


def test_the_clients_do_not_read_the_connection_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    monkeypatch.setattr(AwsBaseHook, "get_connection", lambda *_: pytest.fail("the connection was read"))
    credentials = Clients(settings()).get("ec2")._request_signer._credentials
    assert (credentials.access_key, credentials.secret_key) == ("AKIATEST", "secret")


def test_a_process_has_one_backend_for_a_connection() -> None:
    """So that the rate, and what was just made, are known to all of its tasks and triggers."""
    assert aws_backend(settings()) is aws_backend(settings())
    assert aws_backend(settings()) is not aws_backend(settings(owner="other"))


def test_the_limiter_is_that_of_the_region() -> None:
    first, second = Clients(settings()), Clients(settings(owner="other"))
    assert first._rate() is second._rate()
    assert first._rate() is not Clients(settings(region_name="us-east-1"))._rate()


def test_the_connections_config_wins_over_ours() -> None:
    config = Clients(settings(config_kwargs={"read_timeout": 7})).get("ec2").meta.config
    assert (config.read_timeout, config.retries["mode"]) == (7, "adaptive")
    plain = Clients(settings(config_kwargs={"retries": {"mode": "standard"}})).get("ec2").meta.config
    assert plain.retries["mode"] == "standard"


def test_endpoint_and_verify_reach_the_client() -> None:
    client = Clients(settings(endpoint_url="http://127.0.0.1:1", verify=False)).get("ec2")
    assert client.meta.endpoint_url == "http://127.0.0.1:1"
    assert client._endpoint.http_session._verify is False


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"owner": 5}, "owner of an aws connection: found 5; expected text"),
        ({"poll_interval": "often"}, "poll_interval of an aws connection: found 'often'; expected a number"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"region_name": ["eu-central-1"]}, "region_name"),
        ({"config_kwargs": "retries"}, "config_kwargs of an aws connection: found 'retries'; expected a JSON object"),
        ({"poll_intervall": 5}, "'poll_intervall'; did you mean 'poll_interval'"),
        ({"Owner": "x"}, "'Owner'; did you mean 'owner'"),
    ],
    ids=str,
)
def test_a_wrong_extra_says_what_is_expected(extra: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aws_backend(settings(**extra))


def test_fields_of_other_hooks_are_left_to_them() -> None:
    aws_backend(settings(bucket_name="x", session_kwargs={"profile_name": None}))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"config_kwargs": {"no_such_option": 1}}, "connection 'aws_test' of type aws cannot be used"),
        ({"role_arn": "arn:aws:iam::1:role/x", "assume_role_method": "magic"}, "cannot be used.*magic"),
    ],
    ids=["config", "role"],
)
def test_an_extra_that_boto3_refuses_is_named(extra: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Clients(settings(**extra)).get("ec2")


def test_no_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    backend = aws_backend(Settings("aws_test", "aws", {}, "a", "b"))
    with pytest.raises(ConfigError, match="region_name"):
        backend.ec2.call("DescribeVolumes", "observe", "group")


def test_without_the_provider_the_message_has_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "installed", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'airflow-rankvol\[amazon\]'"):
        aws_backend(settings())


def test_an_owner_has_to_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch)
    with pytest.raises(ConfigError, match="no owner is set for connection 'aws_test'"):
        get_owner("aws_test", get_backend("aws_test"))


def test_no_secret_is_shown() -> None:
    backend = aws_backend(settings(aws_session_token="hunter2"))
    assert "secret" not in f"{settings()!r} {backend!r} {backend.clients!r}"
    assert "hunter2" not in repr(settings(aws_session_token="hunter2"))

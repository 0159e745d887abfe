"""From a google_cloud_platform connection to a backend: in a task, in the triggerer's event loop, and said wrong."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading

import pytest
from google.auth import compute_engine, impersonated_credentials
from google.auth.compute_engine import _metadata
from google.auth.exceptions import TransportError
from google.oauth2.credentials import Credentials

from airflow_rankvol.backends import _gcp_connection as connection
from airflow_rankvol.backends._gcp_connection import Session, gcp_backend
from airflow_rankvol.backends.base import Backend
from airflow_rankvol.backends.gcp import GcpBackend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.errors import ConfigError, RetryableError
from airflow_rankvol.hooks import aget_backend, get_backend, get_owner

FIRST, RANKS = "first@b.iam.gserviceaccount.com", "ranks@a-project.iam.gserviceaccount.com"
ANONYMOUS = {"project": "a-project", "is_anonymous": True}


@pytest.fixture(autouse=True)
def _anew() -> None:
    """A process that has made no backend yet."""
    connection._SHARED.forget()


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str = "gcp_test", **extra: object) -> None:
    text = {"conn_type": "google_cloud_platform", "extra": {**ANONYMOUS, **extra}}
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(text))


def settings(**extra: object) -> Settings:
    return Settings("gcp_test", "google_cloud_platform", {**ANONYMOUS, **extra})


@pytest.mark.parametrize("conn_id", ["gcp_test", "rankvol_default"])
def test_a_google_connection_gives_the_gcp_backend(monkeypatch: pytest.MonkeyPatch, conn_id: str) -> None:
    connect(monkeypatch, conn_id, poll_interval="2.5", owner="team-a", zone="europe-west3-a")
    backend = get_backend(conn_id)
    assert isinstance(backend, GcpBackend)
    assert isinstance(backend, Backend)
    assert backend.poll_interval_s == 2.5
    assert backend.session.project == "a-project"
    assert (backend.session.zone, backend.session.region) == ("europe-west3-a", "europe-west3")
    assert get_owner(conn_id, backend) == "team-a"


def test_a_connection_can_name_an_ai_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "gcp_test", zone="us-central1-ai1a")
    backend = get_backend("gcp_test")
    assert isinstance(backend, GcpBackend)
    assert (backend.session.zone, backend.session.region) == ("us-central1-ai1a", "us-central1")


def test_the_event_loop_neither_imports_nor_signs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take long, and nothing else moves in the triggerer meanwhile; nor may a connection be read there."""
    connect(monkeypatch)
    made_in: list[str] = []
    real = connection.gcp_backend

    def note(given: Settings) -> GcpBackend:
        made_in.append(threading.current_thread().name)
        return real(given)

    monkeypatch.setattr(connection, "gcp_backend", note)
    backend = asyncio.run(aget_backend("gcp_test"))
    assert isinstance(backend, GcpBackend)
    assert made_in != [threading.main_thread().name]
    assert backend.session._signed_in is None


def test_the_hook_does_not_read_the_connection_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook

    monkeypatch.setattr(GoogleBaseHook, "get_connection", lambda *_: pytest.fail("the connection was read"))
    assert Session(settings()).project == "a-project"


@pytest.mark.parametrize(
    ("chain", "delegates"),
    [
        (RANKS, []),
        (f"{FIRST},{RANKS}", [FIRST]),
        ([FIRST, RANKS], [FIRST]),
    ],
    ids=["one account", "a chain as text", "a chain as a list"],
)
def test_a_connection_may_act_as_another_service_account(
    monkeypatch: pytest.MonkeyPatch, chain: object, delegates: list[str]
) -> None:
    """The last one of the chain; what the connection's own credentials do is to ask for its tokens."""
    own = Credentials("a-token")  # type: ignore[no-untyped-call]
    monkeypatch.setattr("google.auth.default", lambda *_, **_named: (own, "own-project"))
    extra = {"project": "a-project", "impersonation_chain": chain}
    session = Session(Settings("gcp_test", "google_cloud_platform", extra))
    found = session.credentials
    assert isinstance(found, impersonated_credentials.Credentials)
    assert found.service_account_email == RANKS
    assert [*(found._delegates or ())] == delegates
    assert found._source_credentials.token == "a-token"
    assert session.project == "a-project"


def test_a_process_has_one_backend_for_a_connection() -> None:
    """So that the rate, and what was just seen, are known to all of its tasks and triggers."""
    assert gcp_backend(settings()) is gcp_backend(settings())
    assert gcp_backend(settings()) is not gcp_backend(settings(owner="other"))


def test_the_limiter_is_that_of_the_project() -> None:
    first, second = Session(settings()), Session(settings(owner="other"))
    assert first.limiter() is second.limiter()
    assert first.limiter() is not Session(settings(project="another")).limiter()


def test_services_are_at_googles_unless_the_connection_says_where() -> None:
    assert Session(settings()).base("compute") == "https://compute.googleapis.com"
    assert Session(settings(endpoint_url="http://127.0.0.1:1/")).base("storage") == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"owner": 5}, "owner of a google_cloud_platform connection: found 5; expected text"),
        ({"poll_interval": "often"}, "poll_interval of .*: found 'often'; expected a number"),
        ({"zone": "Frankfurt"}, "zone of .*'Frankfurt'; expected a zone as in 'us-central1-a'"),
        ({"region": "europe-west3-a"}, "region of .*expected a region as in 'us-central1'"),
        ({"zone": "us-central1-ai1"}, "expected a zone as in"),
        ({"zone": "us-east1-b", "region": "us-central1"}, "'us-east1-b' does not lie in its region 'us-central1'"),
        ({"endpoint_url": "localhost:1"}, "endpoint_url of .*expected http"),
        ({"endpoint_ur": "http://localhost"}, "'endpoint_ur'; did you mean 'endpoint_url'"),
        ({"Owner": "x"}, "'Owner'; did you mean 'owner'"),
    ],
    ids=str,
)
def test_a_wrong_extra_says_what_is_expected(extra: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gcp_backend(settings(**extra))


def test_fields_of_other_hooks_are_left_to_them() -> None:
    gcp_backend(settings(keyfile_dict="", extra__google_cloud_platform__scope="x", database_type="postgres"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"key_path": "/nowhere.json", "is_anonymous": False},
            "connection 'gcp_test' .*cannot be used.*nowhere.*Correct its extra",
        ),
        ({"keyfile_dict": "{", "is_anonymous": False}, "connection 'gcp_test' .*cannot be used: .*Invalid key JSON"),
        ({"project": ""}, "its credentials name no project; set project in its extra"),
    ],
    ids=str,
)
def test_credentials_that_cannot_be_had_are_told(extra: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = Session(settings(**extra)).project


def test_without_the_provider_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "installed", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'airflow-rankvol\[google\]'"):
        gcp_backend(settings())


def test_nothing_of_googles_is_imported_before_it_is_used_and_its_compute_client_never() -> None:
    """A task that only parses a DAG, or makes a backend, pays for neither."""
    code = (
        "import sys, airflow_rankvol.backends.gcp, airflow_rankvol.backends._gcp_check\n"
        "from airflow_rankvol.backends._gcp_connection import gcp_backend\n"
        "from airflow_rankvol.backends.settings import Settings\n"
        "backend = gcp_backend(Settings('c', 'google_cloud_platform', {'project': 'p', 'is_anonymous': True}))\n"
        "late = ('google.auth', 'requests', 'airflow.providers.google.common')\n"
        "early = [name for name in sys.modules if name.startswith(late)]\n"
        "assert early == [], early\n"
        "backend.session.project\n"
        "assert 'google.cloud.compute_v1' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_metadata_server_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a node goes on waiting."""

    def fail(*_: object, **__: object) -> str:
        raise TransportError("the metadata server is unavailable")  # type: ignore[no-untyped-call]

    monkeypatch.setattr(_metadata, "get_universe_domain", fail)
    session = Session(settings())
    session._signed_in = (compute_engine.Credentials(), "a-project")  # type: ignore[no-untyped-call]
    with pytest.raises(RetryableError, match="the metadata server is unavailable"):
        session.base("compute")
    endpoint = Session(settings(endpoint_url="http://127.0.0.1:1"))
    endpoint._signed_in = session._signed_in
    assert endpoint.base("compute") == "http://127.0.0.1:1"


def test_a_signals_handler_signs_in_while_its_thread_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's ``on_kill`` ends its node by it, in the very thread that may read the credentials just then."""
    session = Session(settings())
    handled: list[object] = []
    real = connection._sign_in

    def interrupted(given: Settings) -> object:
        if not handled:
            handled.append("began")
            handled.append(session.credentials)
        return real(given)

    monkeypatch.setattr(connection, "_sign_in", interrupted)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(session.credentials), daemon=True)
    thread.start()
    thread.join(30)
    assert found, "the handler waits for its own thread"
    assert len(handled) == 2
    assert found == [session.credentials]

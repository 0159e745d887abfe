"""From a ``google_cloud_platform`` connection to a backend: credentials and project come from GoogleBaseHook.

So every way of signing in that Airflow's users have works: a key file, its JSON, default credentials, impersonation,
workload identity. The hook never looks the connection up: it gets what ``hooks`` has read. Calls are plain REST:
importing ``google.cloud.compute_v1`` costs seconds and 160 MB in every task.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_rankvol.backends._gcp_errors import no_answer, passes
from airflow_rankvol.backends._per_process import PerProcess
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.errors import ConfigError, RankVolError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from requests import Response

    from airflow_rankvol.backends._rate import RateLimiter
    from airflow_rankvol.backends.gcp import GcpBackend

DEFAULT_POLL_INTERVAL_S = 10.0
#: Our own fields of a google_cloud_platform connection's extra.
OUR_FIELDS = frozenset({"owner", "poll_interval", "endpoint_url", "zone", "region"})
#: Those that google provider 22 reads (``GoogleBaseHook``); other hooks add theirs.
GOOGLE_FIELDS = frozenset(
    {
        "project", "key_path", "keyfile_dict", "credential_config_file", "scope", "key_secret_name",
        "key_secret_project_id", "num_retries", "impersonation_chain", "idp_issuer_url", "client_id", "client_secret",
        "idp_extra_params", "idp_extra_parameters", "is_anonymous", "quota_project_id",
    }
)  # fmt: skip
#: AI zones have a number of their own, as us-central1-ai1a (Compute Engine's documentation, "AI zones").
ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-(?:ai[0-9]+)?[a-z]")
REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_TEXTS = ("owner", "endpoint_url", "zone", "region")
#: Seconds for a connection, and for an answer: a call that hangs is given up before the engine's patience is over.
CONNECT_S, READ_S = 10.0, 30.0
#: As many idle connections are kept.
MAX_IDLE = 64
#: So often, in seconds, credentials are read anew at most while they are refused: a thousand ranks may be at once.
ANEW_S = 5.0

_SHARED: PerProcess[GcpBackend, RateLimiter] = PerProcess()


def gcp_backend(settings: Settings) -> GcpBackend:
    """Return the backend of a connection; one per process, so that its rate and what it saw are shared.

    Raises:
        ConfigError: the google provider is not installed, or a field of the extra is wrong.
    """
    check_extra(settings)
    if not installed():
        raise ConfigError(
            f"connection {settings.conn_id!r} is of type google_cloud_platform, which needs the google provider: "
            "pip install 'airflow-rankvol[google]'"
        )
    from airflow_rankvol.backends.gcp import GcpBackend

    poll_interval_s = settings.seconds("poll_interval", DEFAULT_POLL_INTERVAL_S)
    return _SHARED.backend(settings, lambda: GcpBackend(Session(settings), poll_interval_s=poll_interval_s))


def installed() -> bool:
    """Say whether the google provider and google-auth are there."""
    with suppress(ModuleNotFoundError):  # a parent package is missing
        return all(importlib.util.find_spec(name) for name in ("google.auth", "airflow.providers.google"))
    return False


def check_extra(settings: Settings) -> None:
    """Refuse a field of the extra whose value or name is wrong.

    Unknown fields are left to the other hooks that use the connection, unless they look like a slip of the pen.

    Raises:
        ConfigError: says what was found and what is expected.
    """
    for name in _TEXTS:
        settings.text(name)
    settings.seconds("poll_interval", DEFAULT_POLL_INTERVAL_S)
    for name, pattern, example in (("zone", ZONE, "us-central1-a"), ("region", REGION, "us-central1")):
        found = settings.text(name)
        if found and not pattern.fullmatch(found):
            raise ConfigError(f"{name} of {settings.label}: found {found!r}; expected a {name} as in {example!r}")
    zone, region = settings.text("zone"), settings.text("region")
    if zone and region and zone.rpartition("-")[0] != region:
        raise ConfigError(f"zone of {settings.label}: {zone!r} does not lie in its region {region!r}; leave one out")
    url = settings.text("endpoint_url")
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(f"endpoint_url of {settings.label}: found {url!r}; expected http(s)://host")
    for name in settings.extra:
        meant = difflib.get_close_matches(name, OUR_FIELDS, n=1, cutoff=0.75)
        if meant and name not in OUR_FIELDS | GOOGLE_FIELDS:
            raise ConfigError(f"the extra of {settings.label} has {name!r}; did you mean {meant[0]!r}?")


class Session:
    """Authorised HTTP of one connection, for all threads of this process.

    Nothing is made before it is used: in a thread of the caller, never in an event loop.
    """

    def __init__(self, settings: Settings, limiter: RateLimiter | None = None) -> None:
        self.conn_id = settings.conn_id
        self.zone = settings.text("zone")
        self.region = settings.text("region") or self.zone.rpartition("-")[0]
        self._settings = settings
        self._limiter = limiter
        # A signal's handler may call while its thread reads the credentials. Both read them then, and what the thread
        # has read counts from then on; what is idle with the others is closed before it is used.
        self._lock = threading.RLock()
        self._signed_in: tuple[Credentials, str] | None = None
        self._refused: tuple[Credentials, str] | None = None
        self._anew_at = float("-inf")
        # requests' sessions are not made for several threads at once: each call borrows one.
        self._idle: deque[Any] = deque(maxlen=MAX_IDLE)

    def __repr__(self) -> str:
        return f"Session({self.conn_id!r})"

    @property
    def project(self) -> str:
        """The project that the connection works in."""
        return self._sign_in()[1]

    @property
    def credentials(self) -> Credentials:
        """The connection's credentials."""
        return self._sign_in()[0]

    def base(self, service: str) -> str:
        """Return where a service listens: ``https://compute.googleapis.com``, or the connection's endpoint_url."""
        if url := self._settings.text("endpoint_url").rstrip("/"):
            return url
        from google.auth.exceptions import GoogleAuthError

        credentials = self.credentials
        try:  # a machine's own credentials ask its metadata server, once
            domain = getattr(credentials, "universe_domain", None) or "googleapis.com"
        except GoogleAuthError as exc:
            raise no_answer(exc, "sign_in", self._settings.label) from exc
        return f"https://{service}.{domain}"

    def request(
        self,
        http: str,
        url: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        read_s: float = READ_S,
        again: bool = False,
    ) -> Response:
        """Do a request; what does not come to an answer is an error of requests' or of google-auth's.

        Args:
            body: sent as JSON.
            again: may be sent once more where the connection broke: an idle one may have been closed meanwhile.
        """
        from google.auth.exceptions import TransportError
        from requests.exceptions import ConnectionError as Broken
        from requests.exceptions import Timeout

        for last in (not (again and self._retries()), True):
            session = self._borrow()
            try:
                answer: Response = session.request(
                    http, url, params=query, json=body, timeout=(CONNECT_S, read_s), max_allowed_time=None
                )
            except (Broken, TransportError) as exc:
                session.close()
                if last or isinstance(exc, Timeout):
                    raise
                continue
            except BaseException:
                session.close()
                raise
            self._idle.append(session)
            return answer
        raise AssertionError("unreachable")

    def limiter(self) -> RateLimiter:
        """Return the limiter of this project, the same for all of the process' connections to it."""
        from airflow_rankvol.backends._gcp_calls import RATES
        from airflow_rankvol.backends._rate import RateLimiter

        if self._limiter is None:
            place = f"{self.base('compute')}/{self.project}"
            self._limiter = _SHARED.limiter(place, lambda: RateLimiter(RATES))
        return self._limiter

    def _retries(self) -> bool:
        return str(self._settings.extra.get("num_retries", "")).strip() != "0"

    def _borrow(self) -> Any:
        from google.auth.transport.requests import AuthorizedSession

        credentials = self.credentials
        with suppress(IndexError):
            while (session := self._idle.pop()).credentials is not credentials:
                session.close()  # one of credentials that were refused
            return session
        session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
        session.headers["User-Agent"] = "airflow-rankvol"
        return session

    def sign_anew(self) -> None:
        """Have the credentials read anew with the next call: those that there are were refused.

        They are what the key's file and the machine said when they were read. The connection's own fields are another
        backend's when they change.
        """
        with self._lock:
            if self._signed_in and time.monotonic() - self._anew_at >= ANEW_S:
                self._anew_at = time.monotonic()
                self._refused, self._signed_in = self._signed_in, None

    def _sign_in(self) -> tuple[Credentials, str]:
        with self._lock:
            if self._signed_in is None:
                self._signed_in = self._read()
            return self._signed_in

    def _read(self) -> tuple[Credentials, str]:
        try:
            return _sign_in(self._settings)
        except RankVolError:
            # While somebody writes the key's file anew, for example. What was refused is so until that is done.
            if self._refused is None:
                raise
            return self._refused


def _sign_in(settings: Settings) -> tuple[Credentials, str]:
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
    from airflow.sdk import Connection
    from google.auth.exceptions import GoogleAuthError

    class Hook(GoogleBaseHook):
        """The provider's hook, which is given the connection instead of looking it up."""

        @classmethod
        def get_connection(cls, conn_id: str) -> Connection:
            return Connection(conn_id=conn_id, conn_type=settings.conn_type, extra=json.dumps(dict(settings.extra)))

    try:
        credentials, project = Hook(gcp_conn_id=settings.conn_id).get_credentials_and_project_id()
    except GoogleAuthError as exc:
        if passes(exc):
            raise no_answer(exc, "sign_in", settings.label) from exc
        raise ConfigError(
            f"connection {settings.conn_id!r} has no usable credentials: {exc}. Set key_path or keyfile_dict in its "
            "extra, or give this machine default credentials"
        ) from exc
    except Exception as exc:
        raise ConfigError(
            f"connection {settings.conn_id!r} of type google_cloud_platform cannot be used: {type(exc).__name__}: {exc}"
            ". Correct its extra: key_path or keyfile_dict have to be a service account's key as Google gave it out"
        ) from exc
    if not project:
        raise ConfigError(f"connection {settings.conn_id!r}: its credentials name no project; set project in its extra")
    return credentials, project

"""From an ``aws`` connection to a backend: boto3 clients come from the amazon provider's AwsBaseHook.

So every way of signing in that Airflow's users have works: keys, profile, role, web identity, endpoint_url, verify,
config_kwargs, a session factory of their own. The hook never looks the connection up: it gets what ``hooks`` has read.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow_rankvol.backends._per_process import PerProcess
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.errors import ConfigError

if TYPE_CHECKING:
    from airflow_rankvol.backends._aws_rate import Limiter
    from airflow_rankvol.backends.aws import AwsBackend

log = logging.getLogger(__name__)

DEFAULT_POLL_INTERVAL_S = 10.0
#: Our own fields of an aws connection's extra.
OUR_FIELDS = frozenset({"owner", "poll_interval"})
#: Those that amazon provider 9.39 reads (``AwsConnectionWrapper``, ``BaseSessionFactory``); other hooks add theirs.
AMAZON_FIELDS = frozenset(
    {
        "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region_name", "profile_name",
        "session_kwargs", "config_kwargs", "endpoint_url", "verify", "service_config", "role_arn",
        "assume_role_method", "assume_role_kwargs", "assume_role_with_saml", "profile", "s3_config_file",
        "assume_role_with_web_identity_federation", "assume_role_with_web_identity_federation_audience",
        "assume_role_with_web_identity_token_file", "aws_account_id", "aws_iam_role", "external_id", "host",
        "test_endpoint_url",
    }
)  # fmt: skip
_TEXTS = ("region_name", "profile_name", "endpoint_url", "role_arn", "assume_role_method", "owner")
_OBJECTS = ("session_kwargs", "config_kwargs", "service_config", "assume_role_kwargs")
# A connection's own config_kwargs win over these. ``adaptive`` slows down where the limiter's buckets are shared with
# other processes; the pool holds a connection for each call that the engine may have under way.
# A call that hangs is given up before the engine's patience (180 s) is over: every call of ours may be repeated.
_CONFIG: dict[str, Any] = {
    "retries": {"mode": "adaptive", "max_attempts": 4},
    "max_pool_connections": 72,
    "connect_timeout": 10,
    "read_timeout": 20,
}
# A presigned URL is otherwise one of signature version 2 and of the global endpoint, which new regions do not know.
_S3_CONFIG: dict[str, Any] = {"signature_version": "s3v4", "s3": {"addressing_style": "virtual"}}

#: The client of EC2 that repeats no call by itself.
ONCE = "ec2-once"
#: So often, in seconds, the clients are made anew at most while they are refused: that takes a tenth of a second each,
#: and a thousand ranks may be refused at once.
ANEW_S = 5.0

_SHARED: PerProcess[AwsBackend, Limiter] = PerProcess()


def aws_backend(settings: Settings) -> AwsBackend:
    """Return the backend of an aws connection; one per process, so that its rate and what it saw are shared.

    Raises:
        ConfigError: the amazon provider is not installed, or a field of the extra is wrong.
    """
    check_extra(settings)
    if not installed():
        raise ConfigError(
            f"connection {settings.conn_id!r} is of type aws, which needs the amazon provider: "
            "pip install 'airflow-rankvol[amazon]'"
        )
    from airflow_rankvol.backends.aws import AwsBackend

    poll_interval_s = settings.seconds("poll_interval", DEFAULT_POLL_INTERVAL_S)
    return _SHARED.backend(settings, lambda: AwsBackend(Clients(settings), poll_interval_s=poll_interval_s))


def installed() -> bool:
    """Say whether the amazon provider and boto3 are there."""
    with suppress(ModuleNotFoundError):  # a parent package is missing
        return all(importlib.util.find_spec(name) for name in ("boto3", "airflow.providers.amazon"))
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
    for name in _OBJECTS:
        found = settings.extra.get(name)
        if found not in (None, "") and not isinstance(found, dict):
            raise ConfigError(f"{name} of an aws connection: found {found!r}; expected a JSON object")
    for name in settings.extra:
        meant = difflib.get_close_matches(name, OUR_FIELDS, n=1, cutoff=0.75)
        if meant and name not in OUR_FIELDS | AMAZON_FIELDS:
            raise ConfigError(f"the extra of an aws connection has {name!r}; did you mean {meant[0]!r}?")


class Clients:
    """The boto3 clients of one connection, made when first used: in a thread of the caller, never in an event loop."""

    def __init__(self, settings: Settings, limiter: Limiter | None = None) -> None:
        self.conn_id = settings.conn_id
        self._settings = settings
        self._limiter = limiter
        self._lock = threading.RLock()
        self._clients: dict[str, Any] = {}
        self._refused: dict[str, Any] = {}
        self._anew_at = float("-inf")

    def __repr__(self) -> str:
        return f"Clients({self.conn_id!r})"

    @property
    def region(self) -> str:
        """The region that the connection works in."""
        return str(self.get("ec2").meta.region_name)

    @property
    def partition(self) -> str:
        """The region's partition, such as ``aws`` or ``aws-cn``."""
        return str(self.get("ec2").meta.partition)

    def get(self, service: str) -> Any:
        """Return the client of a service; boto3's clients may be shared by threads.

        Raises:
            ConfigError: the connection's extra cannot be used.
        """
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._made(service)
            return self._clients[service]

    def sign_anew(self) -> None:
        """Have the clients made anew with the next calls: those that there are were refused.

        A client signs with what its profile, its files and its machine said when it was made. The connection's own
        fields are another backend's when they change.
        """
        with self._lock:
            if time.monotonic() - self._anew_at >= ANEW_S:
                self._anew_at = time.monotonic()
                self._refused, self._clients = {**self._refused, **self._clients}, {}

    def _made(self, service: str) -> Any:
        try:
            with _readable(self.conn_id):
                return _client(self._settings, service)
        except Exception:
            # While somebody writes its profile anew, for example. What was refused is so until that is done.
            if service not in self._refused:
                raise
            return self._refused[service]

    def call(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Call an EC2 action, as soon as its bucket has a token; errors are the SDK's."""
        return self._call("ec2", action, lambda: parameters)

    def call_once(self, action: str, parameters: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Call an EC2 action with parameters that hold only for the moment, asked for when its bucket has a token.

        The SDK does not repeat it: a while later it might not be right any more.
        """
        return self._call(ONCE, action, parameters)

    def _call(self, service: str, action: str, parameters: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        from botocore import xform_name

        client = self.get(service)
        self._rate().acquire(action)
        answer: dict[str, Any] = getattr(client, xform_name(action))(**parameters())
        return answer

    def _rate(self) -> Limiter:
        """Return the limiter of this region, the same for all of the process' connections to it."""
        from airflow_rankvol.backends._aws_rate import Limiter

        if self._limiter is None:
            self._limiter = _SHARED.limiter(str(self.get("ec2").meta.endpoint_url), Limiter)
        return self._limiter


def _client(settings: Settings, service: str) -> Any:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
    from botocore.config import Config

    extra = {name: value for name, value in settings.extra.items() if value is not None}
    wrapper = AwsConnectionWrapper.from_connection_metadata(
        settings.conn_id, settings.login or None, settings.password or None, extra
    )
    ours = Config(**_CONFIG, **(_S3_CONFIG if service == "s3" else {}))
    wrapper.botocore_config = ours.merge(wrapper.botocore_config or Config())
    if service == ONCE:
        service = "ec2"
        wrapper.botocore_config = wrapper.botocore_config.merge(
            Config(retries={"mode": "standard", "total_max_attempts": 1})
        )
    hook = AwsBaseHook(aws_conn_id=settings.conn_id, client_type=service)
    # A cached property, which would look the connection up by itself.
    hook.__dict__["conn_config"] = wrapper
    return hook.get_conn()


@contextmanager
def _readable(conn_id: str) -> Iterator[None]:
    """Say of whatever keeps a client from being made that it is the connection's fault, unless AWS answered."""
    from botocore.exceptions import BotoCoreError, ClientError

    from airflow_rankvol.backends._aws_errors import came_expired

    try:
        yield
    except (BotoCoreError, ClientError, ConfigError):
        raise
    except Exception as exc:
        if came_expired(exc):
            raise
        raise ConfigError(f"connection {conn_id!r} of type aws cannot be used: {type(exc).__name__}: {exc}") from exc

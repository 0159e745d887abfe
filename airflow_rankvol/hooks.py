"""Airflow connections to backends; the only reader of connections.

The connection's type picks the backend. ``rankvol_default`` need not exist: without it, work stays on this machine.
A backend gets plain values (``backends.settings.Settings``) and never looks a connection up by itself: in the
triggerer's event loop only this module's ``aget_backend`` may do that.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from airflow.sdk import BaseHook

from airflow_rankvol._undefined import apatiently, check_undefined, patiently
from airflow_rankvol.backends.base import Selector
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_rankvol.backends.base import Backend
    from airflow_rankvol.plan import Plan

Mode = Literal["auto", "image", "directory"]
DEFAULT_CONN_ID = "rankvol_default"
LOCAL_TYPE = "rankvol_local"
AWS_TYPE = "aws"
GCP_TYPE = "google_cloud_platform"
DEFAULT_POLL_INTERVAL_S = 0.2

#: Connection type → "module:function" that makes a backend from ``Settings``. Other packages add theirs with an entry
#: point of the same form in the group ``airflow_rankvol.backends``.
BACKENDS: dict[str, str] = {
    LOCAL_TYPE: "airflow_rankvol.hooks:local_backend",
    AWS_TYPE: "airflow_rankvol.backends._aws_connection:aws_backend",
    GCP_TYPE: "airflow_rankvol.backends._gcp_connection:gcp_backend",
}

_LOCAL_KEYS = frozenset({"state_dir", "mode", "owner", "poll_interval"})


class RankVolHook(BaseHook):
    """Rank volumes by a connection of any type that there is a backend for; it creates nothing by itself."""

    conn_name_attr = "rankvol_conn_id"
    default_conn_name = DEFAULT_CONN_ID

    def __init__(self, rankvol_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rankvol_conn_id = rankvol_conn_id

    def get_conn(self) -> Backend:
        """Return the backend of this connection."""
        return get_backend(self.rankvol_conn_id)

    def test_connection(self) -> tuple[bool, str]:
        """Say what works with this connection, and what does not: a right that is missing, an owner, a default network.

        A job of one rank with the default templates is checked as its ``plan`` task would: nothing is created.
        """
        works: list[str] = []
        try:
            backend = self.get_conn()
            owner = get_owner(self.rankvol_conn_id, backend)
            seen = backend.list_owned(Selector(owner))
            works.append(
                f"{backend.name}: owner {owner!r} has {len(seen.volumes)} volumes and {len(seen.nodes)} nodes there"
            )
            backend.check(_smallest_plan(owner, self.rankvol_conn_id))
            works.append("volumes and nodes may be made")
            works += filter(None, [getattr(backend, "not_tried", "")])
        except Exception as exc:  # noqa: BLE001 - whatever it is, whoever asked reads it
            return False, "; but ".join([*works, str(exc)])
        return True, "; ".join(works)


class LocalRankVolHook(RankVolHook):
    """Rank volumes on this machine: a volume is an ext4 image or a directory, a node is a process."""

    conn_type = LOCAL_TYPE
    hook_name = "Rank volumes on this machine"

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the state directory can be used, and in which mode volumes are made."""
        worked, said = super().test_connection()
        if not worked:
            return worked, said
        try:
            backend = self.get_conn()
            state_dir = Path(getattr(backend, "state_dir", ""))
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            return True, f"{state_dir} is usable; volumes are made in {getattr(backend, 'mode', '?')} mode; {said}"
        except Exception as exc:  # noqa: BLE001 - whatever it is, the connection form shows it
            return False, str(exc)


def _smallest_plan(owner: str, conn_id: str) -> Plan:
    from airflow_rankvol.plan import RunIdentity, make_plan
    from airflow_rankvol.spec.job import RankJob

    fields = {"nodes": 1, "volumes": "test-${NODE_RANK}:/test", "commands": "true", "conn_id": conn_id}
    job = RankJob.model_validate(fields)
    return make_plan(job, RunIdentity(owner, "test_connection", "test_connection", "test_connection"))


def local_backend(settings: Settings) -> Backend:
    """Make the local backend from a ``rankvol_local`` connection's extra.

    Raises:
        ConfigError: a field is unknown, or its value is not what the field takes.
    """
    unknown = sorted(set(settings.extra) - _LOCAL_KEYS)
    if unknown:
        raise ConfigError(
            f"the extra of a {LOCAL_TYPE} connection has unknown field(s) {', '.join(unknown)}; "
            f"known: {', '.join(sorted(_LOCAL_KEYS))}"
        )
    mode = settings.extra.get("mode") or "auto"
    if mode not in ("auto", "image", "directory"):
        raise ConfigError(f"mode of a {LOCAL_TYPE} connection: found {mode!r}; expected auto, image or directory")
    settings.text("owner")
    state_dir = settings.text("state_dir")
    poll_interval_s = settings.seconds("poll_interval", DEFAULT_POLL_INTERVAL_S)
    from airflow_rankvol.backends.local import LocalBackend

    return LocalBackend(
        state_dir=Path(state_dir or default_state_dir()).expanduser(),
        mode=cast("Mode", mode),
        poll_interval_s=poll_interval_s,
    )


def default_state_dir() -> Path:
    """Return ``rankvol/`` below AIRFLOW_HOME."""
    from airflow.configuration import AIRFLOW_HOME

    return Path(AIRFLOW_HOME) / "rankvol"


def get_backend(conn_id: str = DEFAULT_CONN_ID) -> Backend:
    """Return the backend of a connection.

    Raises:
        ConfigError: the connection does not exist, is of another type, or has a wrong extra.
        NotReady: it was not found, and who may know it does not answer.
    """
    return backend_of(_settings(conn_id))


def where_of(backend: Backend) -> str:
    """Return where a backend's volumes and nodes are: its name, with the region, project or directory, if it tells."""
    return f"{backend.name} {getattr(backend, 'where', '')}".strip()


async def aget_backend(conn_id: str = DEFAULT_CONN_ID) -> Backend:
    """Return the backend of a connection from inside the triggerer's event loop.

    Raises:
        ConfigError, NotReady: as ``get_backend``.
    """
    connection = await apatiently(partial(_aconnection, conn_id))
    if connection is None:
        return backend_of(Settings(conn_id, LOCAL_TYPE))
    _check_extra(conn_id, connection.extra)
    settings = _settings_of(conn_id, connection, await connection.aextra_dejson())
    # In a thread: importing a cloud's SDK takes a second, and nothing else moves in the loop meanwhile.
    return await asyncio.to_thread(backend_of, settings)


def is_defined(conn_id: str) -> bool:
    """Say whether Airflow finds a connection."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return False
    return True


def get_owner(conn_id: str, backend: Backend) -> str:
    """Return the owner tag: of the connection's extra, else ``[rankvol] owner``, else the backend's default.

    Raises:
        ConfigError: a cloud backend without a configured owner, or an owner in the extra that is no text.
    """
    from airflow.configuration import conf

    configured = _settings(conn_id).text("owner") or conf.get("rankvol", "owner", fallback=None)
    owner = configured or backend.default_owner()
    if not owner:
        raise ConfigError(
            f"no owner is set for connection {conn_id!r} ({backend.name}). Every volume and node carries it, and only "
            "by it leftovers are found again: set [rankvol] owner (AIRFLOW__RANKVOL__OWNER) to the same value in "
            "every component, or owner in the connection's extra"
        )
    return str(owner)


def backend_of(settings: Settings) -> Backend:
    """Return the backend for a connection's type and extra."""
    found = {point.name: point.value for point in entry_points(group="airflow_rankvol.backends")}
    known = {**found, **BACKENDS}
    if settings.conn_type not in known:
        raise ConfigError(
            f"connection {settings.conn_id!r} is of type {settings.conn_type!r}; this version of airflow_rankvol "
            f"knows {', '.join(sorted(known))}. Name a connection of one of these types"
        )
    module, _, name = known[settings.conn_type].partition(":")
    factory: Callable[[Settings], Backend] = getattr(importlib.import_module(module), name)
    return factory(settings)


def _settings(conn_id: str) -> Settings:
    connection = patiently(partial(_connection, conn_id))
    if connection is None:
        return Settings(conn_id, LOCAL_TYPE)
    _check_extra(conn_id, connection.extra)
    return _settings_of(conn_id, connection, connection.extra_dejson)


def _settings_of(conn_id: str, connection: Connection, extra: Mapping[str, Any]) -> Settings:
    login, password = connection.login or "", connection.password or ""
    return Settings(conn_id, str(connection.conn_type), extra, login, password)


def _check_extra(conn_id: str, extra: str | None) -> None:
    """Refuse what is no JSON object: `Connection.extra_dejson` only logs it, and goes on with an empty one."""
    try:
        found = json.loads(extra) if extra else {}
    except ValueError as exc:
        # The text itself is not shown: it may hold secrets.
        raise ConfigError(
            f"the extra of connection {conn_id!r} is not JSON ({exc}); expected an object"
            """ as in {"mode": "directory"}"""
        ) from None
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"the extra of connection {conn_id!r} is a JSON {type(found).__name__}; expected an object"
            """ as in {"mode": "directory"}"""
        )


def _connection(conn_id: str) -> Connection | None:
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as exc:
        check_undefined(conn_id)
        _check_default(conn_id, exc)
        return None


async def _aconnection(conn_id: str) -> Connection | None:
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return await BaseHook.aget_connection(conn_id)
    except AirflowNotFoundException as exc:
        await asyncio.to_thread(check_undefined, conn_id)
        _check_default(conn_id, exc)
        return None


def _check_default(conn_id: str, exc: Exception) -> None:
    if conn_id != DEFAULT_CONN_ID:
        raise ConfigError(
            f"connection {conn_id!r} is not defined. Create it (types: {', '.join(sorted(BACKENDS))}), or leave "
            f"conn_id out to work on this machine"
        ) from exc

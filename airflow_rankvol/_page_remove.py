"""The page's only deed: to remove orphans that a user has confirmed, by the rules of ``rankvol reap``."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field

from airflow_rankvol import _page_access as access
from airflow_rankvol._reaping import Survey, configured_conn_ids, place_of
from airflow_rankvol.engine.reap import Finding, RunState, survey
from airflow_rankvol.errors import RankVolError

log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()


class Named(BaseModel):
    """One resource that a user has seen in the list, and confirmed."""

    model_config = ConfigDict(extra="forbid")

    conn_id: str
    kind: str
    id: str
    name: str


class Removal(BaseModel):
    """What a user has confirmed."""

    model_config = ConfigDict(extra="forbid")

    resources: list[Named] = Field(min_length=1, max_length=20_000)


def remove(user: Any, removal: Removal, state_of: Callable[[str, str], RunState]) -> dict[str, Any]:
    """Look again, and remove what was confirmed and still goes; the rest stays, and the answer says why.

    Raises:
        HTTPException: the user may not, or somebody is at it already. Then nothing was removed.
    """
    wanted: dict[str, set[tuple[str, str, str]]] = {}
    for named in removal.resources:
        wanted.setdefault(named.conn_id, set()).add((named.kind, named.id, named.name))
    for conn_id in wanted:
        if conn_id not in configured_conn_ids() or not access.connection(user, conn_id, "DELETE"):
            raise HTTPException(403, f"You may not remove what belongs to connection {conn_id}")
    if not _one_at_a_time.acquire(blocking=False):
        raise HTTPException(409, "Orphans are being removed already; look again in a moment. Nothing was removed")
    try:
        rows: list[dict[str, Any]] = []
        for conn_id, keys in wanted.items():
            rows += _remove_from(user, conn_id, keys, state_of)
        return {"resources": rows}
    finally:
        _one_at_a_time.release()


def _remove_from(
    user: Any, conn_id: str, keys: set[tuple[str, str, str]], state_of: Callable[[str, str], RunState]
) -> list[dict[str, Any]]:
    try:
        place = place_of(conn_id)
        findings = survey(place.backend, place.selector, state_of)
    except (RankVolError, OSError) as exc:
        return [_row(conn_id, key, "failed", str(exc)) for key in sorted(keys)]
    confirmed = {_key(finding): finding for finding in findings if _key(finding) in keys}
    named = {dag for finding in confirmed.values() for dag in access.dags_of(finding)}
    allowed = access.dags(user, named) & access.dags(user, named, "PUT")
    foreign = [key for key, finding in confirmed.items() if not access.dags_of(finding) <= allowed]
    if foreign:
        raise HTTPException(403, "You may not change the DAG of one of these resources. Nothing was removed")
    found = Survey(place, list(confirmed.values()))
    if found.doomed:
        _tell(user, conn_id, found.doomed)
        try:
            found.reap(state_of)
        except (RankVolError, OSError) as exc:
            log.warning("Removing orphans of connection %s failed: %s", conn_id, exc)
    rows = [_row(conn_id, key, *_verdict(row)) for key, row in zip(confirmed, found.rows(), strict=True)]
    gone = [_row(conn_id, key, "removed", "it was gone already") for key in sorted(keys - set(confirmed))]
    return rows + gone


def _key(finding: Finding) -> tuple[str, str, str]:
    return finding.kind, finding.resource.id, finding.resource.name


def _verdict(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["action"], row["reason"]


def _row(conn_id: str, key: tuple[str, str, str], action: str, reason: str) -> dict[str, Any]:
    kind, resource_id, name = key
    return {"conn_id": conn_id, "kind": kind, "id": resource_id, "name": name, "action": action, "reason": reason}


def _tell(user: Any, conn_id: str, findings: list[Finding]) -> None:
    """Write into Airflow's audit log who removes what, before it goes."""
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    labels = [finding.resource.label for finding in findings]
    log.info("%s removes orphans of connection %s: %s", user.get_name(), conn_id, ", ".join(labels))
    extra = json.dumps({"conn_id": conn_id, "resources": labels})
    with create_session(scoped=False) as session:
        session.add(Log(event="rankvol.remove_orphans", owner=user.get_name(), extra=extra))

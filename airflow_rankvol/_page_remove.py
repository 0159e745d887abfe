"""The page's only deed: to remove orphans that a user has confirmed, by the rules of ``rankvol reap``."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError

from airflow_rankvol import _page_access as access
from airflow_rankvol._reaping import Survey, configured_conn_ids, place_of
from airflow_rankvol.engine.reap import Finding, RunState, survey
from airflow_rankvol.errors import RankVolError

log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()

#: A resource as the page knows it: its kind, its id and its name.
Key = tuple[str, str, str]


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


@dataclass(frozen=True)
class _Look:
    """What of the confirmed is there in one place; ``survey`` is None where that could not be seen."""

    conn_id: str
    keys: set[Key]
    survey: Survey | None = None
    problem: str = ""


def remove(user: Any, removal: Removal, state_of: Callable[[str, str], RunState]) -> dict[str, Any]:
    """Look again, and remove what was confirmed and still goes; the rest stays, and the answer says why.

    Every place is looked at, and every right asked for, before the first resource goes.

    Raises:
        HTTPException: the user may not, or somebody is at it already. Then nothing was removed.
    """
    wanted: dict[str, set[Key]] = {}
    for named in removal.resources:
        wanted.setdefault(named.conn_id, set()).add((named.kind, named.id, named.name))
    for conn_id in wanted:
        if conn_id not in configured_conn_ids() or not access.connection(user, conn_id, "DELETE"):
            raise HTTPException(403, f"You may not remove what belongs to connection {conn_id}. Nothing was removed")
    if not _one_at_a_time.acquire(blocking=False):
        raise HTTPException(409, "Orphans are being removed already; look again in a moment. Nothing was removed")
    try:
        looks = [_look(conn_id, keys, state_of) for conn_id, keys in wanted.items()]
        _authorise(user, [finding for look in looks if look.survey for finding in look.survey.findings])
        _tell(user, looks)
        return {"resources": [row for look in looks for row in _reap(look, state_of)]}
    finally:
        _one_at_a_time.release()


def _look(conn_id: str, keys: set[Key], state_of: Callable[[str, str], RunState]) -> _Look:
    try:
        place = place_of(conn_id)
        findings = survey(place.backend, place.selector, state_of)
    except (RankVolError, OSError) as exc:
        return _Look(conn_id, keys, problem=str(exc))
    return _Look(conn_id, keys, Survey(place, [finding for finding in findings if _key(finding) in keys]))


def _authorise(user: Any, confirmed: list[Finding]) -> None:
    changeable = access.changeable(user, {dag for finding in confirmed for dag in access.dags_of(finding)})
    if any(not access.dags_of(finding) <= changeable for finding in confirmed):
        raise HTTPException(403, "You may not change the DAG of one of these resources. Nothing was removed")


def _reap(look: _Look, state_of: Callable[[str, str], RunState]) -> list[dict[str, Any]]:
    """Remove what goes in one place; a failure there is told in its rows, with what other places did."""
    found = look.survey
    if found is None:
        return [_row(look.conn_id, key, "failed", look.problem) for key in sorted(look.keys)]

    def ask(dag: str, run: str) -> RunState:
        try:
            return state_of(dag, run)
        except SQLAlchemyError as exc:
            raise RankVolError(f"Airflow's database does not answer any more ({type(exc).__name__})") from exc

    if found.doomed:
        try:
            found.reap(ask)
        except (RankVolError, OSError) as exc:
            log.warning("Removing orphans of connection %s failed: %s", look.conn_id, exc)
    confirmed = [_key(finding) for finding in found.findings]
    rows = [_row(look.conn_id, key, *_verdict(row)) for key, row in zip(confirmed, found.rows(), strict=True)]
    missing = sorted(look.keys - set(confirmed))
    return rows + [_row(look.conn_id, key, "removed", "it was gone already") for key in missing]


def _key(finding: Finding) -> Key:
    return finding.kind, finding.resource.id, finding.resource.name


def _verdict(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["action"], row["reason"]


def _row(conn_id: str, key: Key, action: str, reason: str) -> dict[str, Any]:
    kind, resource_id, name = key
    return {"conn_id": conn_id, "kind": kind, "id": resource_id, "name": name, "action": action, "reason": reason}


def _tell(user: Any, looks: list[_Look]) -> None:
    """Write into Airflow's audit log who removes what, before it goes."""
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    doomed = {look.conn_id: look.survey.doomed for look in looks if look.survey and look.survey.doomed}
    with create_session(scoped=False) as session:
        for conn_id, findings in doomed.items():
            labels = [finding.resource.label for finding in findings]
            log.info("%s removes orphans of connection %s: %s", user.get_name(), conn_id, ", ".join(labels))
            extra = json.dumps({"conn_id": conn_id, "resources": labels})
            session.add(Log(event="rankvol.remove_orphans", owner=user.get_name(), extra=extra))

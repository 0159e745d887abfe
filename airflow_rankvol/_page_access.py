"""Who may see what on the page, and who may remove; Airflow's auth manager decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails

if TYPE_CHECKING:
    from fastapi import Request

    from airflow_rankvol.engine.reap import Finding


def dags(user: Any, dag_ids: Iterable[str], method: Literal["GET", "PUT"] = "GET") -> set[str]:
    """Return those DAGs that a user may read or change; also ones that Airflow does not have (any more)."""
    from airflow.models.dag import DagModel

    known = sorted(set(dag_ids))
    teams = DagModel.get_dag_id_to_team_name_mapping(known) if known else {}
    by_team: dict[str | None, set[str]] = defaultdict(set)
    for dag_id in known:
        by_team[teams.get(dag_id)].add(dag_id)
    manager = get_auth_manager()
    return set[str]().union(
        *(
            manager.filter_authorized_dag_ids(dag_ids=of_team, user=user, method=method, team_name=team)
            for team, of_team in by_team.items()
        )
    )


def changeable(user: Any, dag_ids: Iterable[str]) -> set[str]:
    """Return those DAGs whose resources a user may remove."""
    known = set(dag_ids)
    return dags(user, known) & dags(user, known, "PUT")


def connection(user: Any, conn_id: str, method: Literal["GET", "DELETE"]) -> bool:
    """Say whether a user may read, or remove what belongs to, a connection."""
    from airflow.models.connection import Connection

    details = ConnectionDetails(conn_id=conn_id, team_name=Connection.get_team_name(conn_id))
    return bool(get_auth_manager().is_authorized_connection(method=method, details=details, user=user))


def dags_of(finding: Finding) -> set[str]:
    """Return the DAGs that a resource tells of: the one that made it, and the one that has it."""
    return {finding.tags.dag, finding.tags.used_dag or finding.tags.dag}


def is_own(request: Request) -> bool:
    """Say whether a request comes from the page itself, and not from another site with this user's cookie.

    Browsers tell with ``Sec-Fetch-Site``, older ones with ``Origin``. Whoever sends a token is no browser on its own.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site == "same-origin"
    if origin is not None:
        return urlsplit(origin).netloc in _hosts(request)
    return request.headers.get("authorization", "").lower().startswith("bearer ")


def _hosts(request: Request) -> set[str]:
    from airflow.configuration import conf

    base = urlsplit(conf.get("api", "base_url", fallback="") or "").netloc
    return {host for host in (request.headers.get("host", ""), base) if host}

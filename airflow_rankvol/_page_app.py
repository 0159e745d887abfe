"""The page's application: static files and a small JSON API, all behind Airflow's login.

Imported by the API server only, with the first request (``plugin.LazyApp``). What FastAPI reads from signatures has to
be imported at module level: annotations are texts here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import SQLAlchemyError

from airflow_rankvol import _page_access as access
from airflow_rankvol import _page_runs as runs
from airflow_rankvol._page_groups import Found, Item, merge, plain_item, summary, visible
from airflow_rankvol._page_looks import Looks, Seen
from airflow_rankvol._page_ranks import detail
from airflow_rankvol._page_remove import Removal, remove
from airflow_rankvol._reaping import configured_conn_ids
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.prices import PriceTable
from airflow_rankvol.records import to_iso, utc_now

FILES = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
#: Only files of this package, no inline code, and only Airflow's own pages may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

#: For how long the list of DAGs with rank jobs holds, in seconds.
DAGS_HOLD_S = 60.0

User = Annotated[BaseUser, Depends(get_user)]


class Page:
    """What the endpoints answer from; one for each process of the API server."""

    def __init__(self) -> None:
        self.looks = Looks(runs.run_state)
        self._dags: tuple[float, set[str]] = (float("-inf"), set())

    def items(self, user: Any) -> tuple[list[Seen], list[Item]]:
        """Look at every connection; return all looks, and of what is there what the user may see."""
        looks = self.looks.all(configured_conn_ids())
        named = {dag for seen in looks for finding in seen.findings for dag in access.dags_of(finding)}
        readable = access.dags(user, named)
        return looks, visible(looks, lambda finding: access.dags_of(finding) <= readable)

    def groups(self, user: Any, dag: str | None, run: str | None) -> tuple[list[Seen], list[Found]]:
        """Return the groups that the user may see, of all runs or of one."""
        looks, items = self.items(user)
        items = [item for item in items if dag in (None, item.where[0]) and run in (None, item.where[1])]
        # What is there names its DAGs by itself, also those whose first run has only begun.
        dags = access.dags(user, {dag} if dag else self._dags_with_jobs() | {item.where[0] for item in items})
        jobs = runs.run_groups(dags, run, {item.where[:2] for item in items})
        return looks, merge(items, jobs)

    def _dags_with_jobs(self) -> set[str]:
        """Ask at most once a minute: no index helps Airflow's database with that question."""
        at, found = self._dags
        if time.monotonic() - at > DAGS_HOLD_S:
            found = runs.dags_with_jobs()
            self._dags = (time.monotonic(), found)
        return found


def prices() -> tuple[PriceTable, str]:
    """Return the prices, and what is wrong with those that were configured."""
    from airflow.configuration import conf

    try:
        return PriceTable.load(conf.get("rankvol", "prices", fallback=None) or None), ""
    except ConfigError as exc:
        return PriceTable.load(), str(exc)


def problems(user: Any, looks: list[Seen], of_prices: str) -> list[dict[str, str]]:
    """Return what could not be looked at; what a connection answered is for those who may read it."""
    told = [
        {"conn_id": seen.conn_id, "problem": seen.problem}
        if access.connection(user, seen.conn_id, "GET")
        else {"conn_id": "", "problem": "A connection cannot be looked at now; who may read connections sees why"}
        for seen in looks
        if seen.problem
    ]
    return told + ([{"conn_id": "", "problem": of_prices}] if of_prices else [])


def make_app() -> FastAPI:
    """Return the application."""
    # No documentation pages: they would be open to everybody.
    app = FastAPI(title="Rank volumes", dependencies=[Depends(get_user)], openapi_url=None)
    app.state.page = Page()
    app.middleware("http")(_with_headers)
    app.add_exception_handler(SQLAlchemyError, _no_database)
    app.get("/api/groups")(get_groups)
    app.get("/api/ranks")(get_ranks)
    app.get("/api/orphans")(get_orphans)
    app.post("/api/remove")(post_remove)
    app.get("/{name:path}")(get_file)
    return app


def get_file(name: str) -> Response:
    """Return a file of the page; there is nothing of anybody's in it."""
    known = {path.name: path for path in FILES.iterdir() if path.suffix in _TYPES}
    path = known.get(name or "index.html")
    if path is None:
        raise HTTPException(404, "Not found")
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix])


def get_groups(request: Request, user: User, dag: str | None = None, run: str | None = None) -> dict[str, Any]:
    """Return every group that the user may see, and whether he may remove something."""
    page: Page = request.app.state.page
    looks, groups = page.groups(user, dag or None, run or None)
    table, wrong = prices()
    now, known = utc_now(), {seen.conn_id for seen in looks}
    return {
        "now": to_iso(now),
        "groups": [{**summary(group, table, now), "elsewhere": sorted({*group.conn_ids} - known)} for group in groups],
        "places": [seen.conn_id for seen in looks if access.connection(user, seen.conn_id, "GET")],
        "problems": problems(user, looks, wrong),
        "may_remove": any(access.connection(user, seen.conn_id, "DELETE") for seen in looks),
    }


def get_ranks(request: Request, user: User, dag: str, run: str, group: str) -> dict[str, Any]:
    """Return one group with every rank of it."""
    page: Page = request.app.state.page
    looks, groups = page.groups(user, dag, run)
    found = next((each for each in groups if each.where == (dag, run, group)), None)
    if found is None:
        raise HTTPException(404, f"There is no group {group} of run {run} of DAG {dag}, or you may not see it")
    table, _ = prices()
    now = utc_now()
    tasks = runs.rank_tasks(found.job) if found.job else []
    slots = runs.slots(found.job) if found.job else []
    backends = {seen.conn_id: seen.place.backend.name for seen in looks if seen.place and not seen.problem}
    return {
        "now": to_iso(now),
        "group": summary(found, table, now),
        **detail(found, tasks, slots, table, backends, now),
    }


def get_orphans(request: Request, user: User, dag: str | None = None, run: str | None = None) -> dict[str, Any]:
    """Return what `rankvol reap` would remove: what the user may remove, to confirm it, and what he only sees."""
    page: Page = request.app.state.page
    looks, items = page.items(user)
    table, _ = prices()
    now = utc_now()
    doomed = [
        item for item in items if item.finding.remove and dag in (None, item.where[0]) and run in (None, item.where[1])
    ]
    changeable = access.changeable(user, {of for item in doomed for of in access.dags_of(item.finding)})
    deletable = {seen.conn_id for seen in looks if access.connection(user, seen.conn_id, "DELETE")}
    answer: dict[str, list[dict[str, Any]]] = {"orphans": [], "forbidden": []}
    for item in doomed:
        row = {**plain_item(item, table, now), **dict(zip(("dag", "run", "group"), item.where, strict=True))}
        why = _forbidden(item, changeable, deletable)
        answer["forbidden" if why else "orphans"].append({**row, "why": why} if why else row)
    return answer


def _forbidden(item: Item, changeable: set[str], deletable: set[str]) -> str:
    if item.seen.conn_id not in deletable:
        return f"you may not delete connection {item.seen.conn_id}"
    dags = sorted(access.dags_of(item.finding) - changeable)
    return f"you may not change DAG {', '.join(dags)}" if dags else ""


def post_remove(request: Request, user: User, removal: Removal) -> dict[str, Any]:
    """Remove orphans that the user has confirmed by their ids, as far as `rankvol reap` would."""
    if not access.is_own(request):
        raise HTTPException(403, "Refused: the request comes from another site")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Refused: expected application/json")
    page: Page = request.app.state.page
    try:
        return remove(user, removal, runs.run_state)
    finally:
        page.looks.forget()


async def _with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


async def _no_database(request: Request, exc: Exception) -> JSONResponse:  # noqa: ARG001 - as FastAPI calls it
    return JSONResponse({"detail": f"Airflow's database does not answer ({type(exc).__name__})"}, 503)

"""The page in Airflow's UI: an entry of its navigation and a tab of every DAG run.

Schedulers, triggerers and tasks load plugins, too, so importing this costs next to nothing: the application is built
when the API server gets the first request for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_rankvol.links import PAGE_NAME, RUN_ROUTE

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class LazyApp:
    """The page's application, built with the first request for it."""

    def __init__(self) -> None:
        self._app: Any = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self._app is None:
            await asyncio.to_thread(self._build)  # it imports for a moment, and the API server has others to answer
        await self._app(scope, receive, send)

    def _build(self) -> None:
        from airflow_rankvol._page_app import make_app

        with self._lock:
            self._app = self._app or make_app()


class RankVolPlugin(AirflowPlugin):
    """Registered by the entry point ``airflow.plugins``; hrefs are relative, so that a prefix of ``base_url`` holds."""

    name = "rankvol"
    fastapi_apps = [{"name": "rankvol", "app": LazyApp(), "url_prefix": "/rankvol"}]  # noqa: RUF012 - as Airflow asks
    external_views = [  # noqa: RUF012
        {
            "name": PAGE_NAME,
            "href": "rankvol/",
            "destination": "nav",
            "category": "browse",
            "url_route": "rankvol",
        },
        {
            "name": PAGE_NAME,
            "href": "rankvol/?dag={DAG_ID}&run={RUN_ID}",
            "destination": "dag_run",
            "url_route": RUN_ROUTE,
        },
    ]

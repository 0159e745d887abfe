"""What all lists share: filters, order, pages and scopes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from tests.clouds.gcp.errors import GceError, invalid, not_modelled
from tests.clouds.gcp.filters import matcher
from tests.clouds.gcp.model import PROJECT, ROOT

T = TypeVar("T")
Json = dict[str, Any]

NOTHING = "NO_RESULTS_ON_PAGE"
PAGE = 500  # disc: maxResults, "Acceptable values are 0 to 500, inclusive"


class Lister(Generic[T]):
    """Answers list and aggregatedList for resources of one kind.

    Args:
        scope: "zones", "regions" or "global".
        collection: such as "disks"; also the name of the part of an aggregated list.
        kind: such as "disk", as in ``compute#diskList``.
    """

    def __init__(self, scope: str, collection: str, kind: str) -> None:
        self._scope = scope
        self._collection = collection
        self._kind = kind

    def answer(
        self, params: Json, found: Iterable[T], view: Callable[[T], Json], lost: Mapping[str, str] | None = None
    ) -> Json:
        """Return one page of a list; nothing but a warning where its place is lost (see ``aggregated``)."""
        place = "global" if self._scope == "global" else f"{self._scope}/{params[self._scope.removesuffix('s')]}"
        missed = {name: code for name, code in (lost or {}).items() if name in ("", place)}
        page, token = self._page(params, () if missed else found, view)
        seen: Json = {
            "kind": f"compute#{self._kind}List",
            "id": f"projects/{PROJECT}/{place}/{self._collection}",
            "selfLink": f"{ROOT}projects/{PROJECT}/{place}/{self._collection}",
            "items": page,
            "warning": _warning(*next((code, name or "all") for name, code in missed.items())) if missed else None,
        }
        # A list without results has no items at all.
        return {k: v for k, v in {**seen, "nextPageToken": token}.items() if v}

    def aggregated(
        self,
        params: Json,
        found: Iterable[T],
        view: Callable[[T], Json],
        scopes: Iterable[str],
        lost: Mapping[str, str],
    ) -> Json:
        """Return one page of the list of all zones; scopes without results have a warning in their place.

        Args:
            scopes: such as "zones/us-central1-a" and "regions/us-central1" (disc: disks.aggregatedList lists both).
            lost: scopes that are not listed, each with its warning's code (disc: warning.code, such as
                UNREACHABLE, "A given scope cannot be reached"); the empty one stands for the whole list.
        """
        page, token = self._page(params, found, view)
        items: Json = {}
        for scope in scopes:
            here = [v for v in page if _where(v) == scope]
            if here and not lost.keys() & {"", scope}:
                items[scope] = {self._collection: here}
            else:
                items[scope] = {"warning": _warning(lost.get(scope, NOTHING), scope)}
        seen: Json = {
            "kind": f"compute#{self._kind}AggregatedList",
            "id": f"projects/{PROJECT}/aggregated/{self._collection}",
            "selfLink": f"{ROOT}projects/{PROJECT}/aggregated/{self._collection}",
            "items": items,
        }
        if "" in lost:
            seen["warning"] = _warning(lost[""], "all")
        return {**seen, "nextPageToken": token} if token else seen

    def _page(self, params: Json, found: Iterable[T], view: Callable[[T], Json]) -> tuple[list[Json], str]:
        if params.get("orderBy") not in (None, "name"):
            raise not_modelled(f"orderBy={params['orderBy']}")
        limit = params.get("maxResults", PAGE)
        if not 0 <= limit <= PAGE:
            raise invalid("maxResults", limit, f"Acceptable values are 0 to {PAGE}, inclusive.")
        matches = matcher(params.get("filter", ""))
        views = [seen for seen in map(view, found) if matches(seen)]
        rest = _after(params, views)
        if not limit or len(rest) <= limit:
            return rest, ""
        return rest[:limit], _token(params, rest[limit - 1])


def _where(view: Json) -> str:
    kind = "zone" if "zone" in view else "region"
    return f"{kind}s/{view[kind].rpartition('/')[2]}"


def _warning(code: str, scope: str) -> Json:
    text = "There are no results" if code == NOTHING else "Not everything is listed"
    data = [{"key": "scope", "value": scope}]
    return {"code": code, "message": f"{text} for scope '{scope}' on this page.", "data": data}


def _token(params: Json, last: Json) -> str:
    place = [params.get("filter", ""), last["name"], last.get("zone", "")]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _after(params: Json, views: list[Json]) -> list[Json]:
    """Return what comes after the page that a token was for."""
    token = params.get("pageToken")
    if not token:
        return views
    try:
        wish, name, zone = json.loads(base64.urlsafe_b64decode(token))
    except ValueError:
        raise invalid("pageToken", token, "The page token is malformed.") from None
    if wish != params.get("filter", ""):
        # [U] what another filter does with a token; a client that changes it between pages has a bug.
        raise GceError(400, "invalid", "Invalid value for field 'pageToken': it was given for another filter.")
    return [v for v in views if (v["name"], v.get("zone", "")) > (name, zone)]

"""Which method of which API a request is for, and what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from tests.clouds.common.recorder import Call
from tests.clouds.gcp.catalog import REGIONS, ZONES
from tests.clouds.gcp.discovery import Api, Method, Wrong
from tests.clouds.gcp.errors import GceError, invalid, not_found
from tests.clouds.gcp.fields import Mask, parsed
from tests.clouds.gcp.model import PROJECT, PROJECT_NUMBER

Json = dict[str, Any]
_DOCUMENTS = (("compute", "v1"), ("storage", "v1"), ("secretmanager", "v1"), ("cloudresourcemanager", "v1"))
_DOWNLOAD = "/download"


@dataclass
class Request:
    """A request as it came in; ``method`` is None when no API has such a path."""

    method: Method | None
    service: str
    action: str
    params: Json
    raw: bytes
    kind: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: Any = None
    problem: GceError | None = None
    media: bool = False
    path: str = ""
    http: str = "GET"
    host: str = ""
    fields: Json = field(default_factory=dict)
    mask: Mask = field(default_factory=Mask)

    def call(self) -> Call:
        """Return the request as the recorder keeps it."""
        params = {**self.params, **({"body": self.body} if self.body is not None else {})}
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        return Call(
            self.service,
            self.action,
            params,
            agent=self.headers.get("user-agent", ""),
            access_key=key,
            token=str(self.params.get("requestId", "")),
        )


class Reader:
    """Reads requests by the discovery documents."""

    def __init__(self) -> None:
        self.apis = {name: Api.load(name, version) for name, version in _DOCUMENTS}

    def read(self, environ: dict[str, Any]) -> Request:
        """Return what a request is about; what is wrong with it is told when it is its turn."""
        http, path = environ["REQUEST_METHOD"], environ["RAW_URI"].partition("?")[0]
        media = path.startswith(_DOWNLOAD)
        query = parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)
        headers = {k.removeprefix("HTTP_").replace("_", "-").lower(): v for k, v in environ.items() if "HTTP_" in k}
        request = Request(
            method=None,
            service="",
            action=f"{http} {path}",
            params={},
            raw=environ["double.body"],
            kind=environ["CONTENT_TYPE"],
            query=query,
            headers=headers,
            path=path,
            http=http,
            host=f"http://{headers.get('host', '127.0.0.1')}",
        )
        for api in self.apis.values():
            if found := api.find(http, path.removeprefix(_DOWNLOAD) if media else path):
                self._fill(request, api, *found)
                break
        request.media = request.media or media
        return request

    def _fill(self, request: Request, api: Api, method: Method, path: dict[str, str]) -> None:
        request.method, request.service, request.action = method, method.service, method.id
        request.params = dict(path)
        query = api.parse_query(method, request.query)
        if isinstance(query, Wrong):
            request.problem = invalid(query.where, query.value, query.why)
            return
        request.params |= query
        request.media = query.get("alt") == "media"
        if "fields" in query and method.service == "compute":
            request.mask, request.problem = _mask(api, method, query["fields"])
            if request.problem:
                return
        if wrong := api.bad_path(method, path):
            request.problem = invalid(wrong.where, wrong.value, wrong.why)
            return
        if method.upload:
            return
        request.problem = _place(method, request.params) or self._body(request, api, method)

    @staticmethod
    def _body(request: Request, api: Api, method: Method) -> GceError | None:
        # disc: a method that takes no body may get an empty object from clients that always send one.
        text = request.raw.strip()
        if text and not request.kind.startswith("application/json"):
            return GceError(400, "badRequest", f"Expected application/json, found {request.kind!r}")
        try:
            body = json.loads(text) if text else None
        except ValueError as error:
            return GceError(400, "parseError", f"Parse Error: {error}")
        if not method.request and body == {}:
            body = None
        request.body = body
        if wrong := api.bad_request(method, body):
            value = "" if isinstance(wrong.value, (dict, list)) else wrong.value
            return invalid(f"resource{wrong.where}", value, wrong.why)
        return None


def _mask(api: Api, method: Method, text: str) -> tuple[Mask, GceError | None]:
    """Return which part of an answer is wanted, or what is wrong with the wish."""
    try:
        mask = parsed(text)
        wrong = mask.unknown({"$ref": method.response}, api.schemas)
    except ValueError:
        mask, wrong = Mask(), text
    return mask, GceError(400, "invalidParameter", f"Invalid field selection {wrong}") if wrong else None


def _place(method: Method, params: Json) -> GceError | None:
    """Return what is wrong with project, region or zone of a call of Compute Engine's."""
    if method.service != "compute":
        return None
    project = params.get("project")
    if project not in (PROJECT, PROJECT_NUMBER) and not method.id.startswith("images."):
        return not_found(f"projects/{project}")
    if "zone" in params and params["zone"] not in ZONES:
        return invalid("zone", params["zone"], "Unknown zone.")
    if "region" in params and params["region"] not in REGIONS:
        return invalid("region", params["region"], "Unknown region.")
    return None

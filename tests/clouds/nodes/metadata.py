"""Metadata services: what a node asks about itself by HTTP."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import unquote, urlsplit

#: Returns what stands at a path, such as ``/latest/meta-data/instance-id``; None where there is nothing.
Content = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Request:
    """An HTTP request; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return unquote(urlsplit(self.target).path)


@dataclass(frozen=True)
class Response:
    """The answer to a request."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]


class ImdsV2:
    """EC2's instance metadata service with ``HttpTokens=required`` (EC2 User Guide, "Use IMDS").

    Args:
        content: decides, at every request, what stands where.
    """

    _TOKEN, _TTL = "x-aws-ec2-metadata-token", "x-aws-ec2-metadata-token-ttl-seconds"

    def __init__(self, content: Content) -> None:
        self._content = content
        self._tokens: dict[str, float] = {}

    def __call__(self, request: Request) -> Response:
        """Answer."""
        if request.path == "/latest/api/token":
            return self._new_token(request)
        if request.method not in {"GET", "HEAD"}:
            return Response(405)
        if self._tokens.get(request.headers.get(self._TOKEN, ""), 0) <= time.monotonic():
            return Response(401)
        body = self._content(request.path)
        return Response(404) if body is None else Response(200, body)

    def _new_token(self, request: Request) -> Response:
        if request.method != "PUT":
            return Response(405)
        if "x-forwarded-for" in request.headers:  # a request that came through a proxy gets no token
            return Response(403)
        ttl_s = request.headers.get(self._TTL, "")
        if not (ttl_s.isdecimal() and 1 <= int(ttl_s) <= 21600):
            return Response(400)
        token = secrets.token_urlsafe(42)
        self._tokens[token] = time.monotonic() + int(ttl_s)
        return Response(200, token.encode(), {self._TTL: ttl_s})


class GceMetadata:
    """Compute Engine's metadata server (gce/metadata/querying-metadata, gce/metadata/manage-guest-attributes).

    Args:
        content: decides, at every request, what stands where.
        write: sets a guest attribute by namespace and key; None as the value deletes it. Says whether that may be.
    """

    _FLAVOR: ClassVar = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
    _ATTRIBUTE = re.compile(r"/computeMetadata/v1/instance/guest-attributes/([A-Za-z0-9_-]+)/([A-Za-z0-9_-]+)")
    #: "a maximum of 10 queries per minute per VM instance", "a burst of 3 queries per second"; what comes faster may
    #: be removed.
    _LIMITS = ((1.0, 3), (60.0, 10))

    def __init__(self, content: Content, write: Callable[[str, str, str | None], bool]) -> None:
        self._content = content
        self._write = write
        self._written: list[float] = []

    def __call__(self, request: Request) -> Response:
        """Answer."""
        # "If you don't provide this header, the metadata server denies your request."
        if request.headers.get("metadata-flavor") != "Google" or "x-forwarded-for" in request.headers:
            return Response(403, b"Missing Metadata-Flavor:Google header.")
        if request.method in {"PUT", "DELETE"}:
            return self._change(request)
        if request.method not in {"GET", "HEAD"}:
            return Response(405)
        body = self._content(request.path)
        return Response(404, b"", self._FLAVOR) if body is None else Response(200, body, self._FLAVOR)

    def _change(self, request: Request) -> Response:
        found = self._ATTRIBUTE.fullmatch(request.path)
        if found is None:
            return Response(404, b"", self._FLAVOR)
        value = request.body.decode() if request.method == "PUT" else None
        now = time.monotonic()
        self._written = [*(at for at in self._written if now - at < 60), now]
        if any(sum(now - at < seconds for at in self._written) > most for seconds, most in self._LIMITS):
            value = None
        return Response(200 if self._write(found[1], found[2], value) else 403, b"", self._FLAVOR)

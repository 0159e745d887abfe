"""What stands beside Compute Engine: Cloud Storage, Secret Manager, Resource Manager's permissions."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import google_crc32c

from tests.clouds.gcp.calls import Request
from tests.clouds.gcp.errors import GceError, not_modelled
from tests.clouds.gcp.model import PROJECT, PROJECT_NUMBER
from tests.clouds.gcp.rights import Rights
from tests.clouds.gcp.storage import Storage
from tests.clouds.gcp.world import World

Answer = tuple[int, list[tuple[str, str]], bytes]
Json = dict[str, Any]
Checked = Callable[[Request, Json], Answer]
_JSON = [("Content-Type", "application/json; charset=UTF-8")]


class Services:
    """Answers for them."""

    def __init__(self, world: World, rights: Rights) -> None:
        self.storage = Storage(world)
        self._rights = rights
        self.secrets: dict[str, list[bytes]] = {}
        self.clear()

    def clear(self) -> None:
        """Be as new."""
        self.storage.clear()
        self.secrets.clear()

    @staticmethod
    def claim(request: Request) -> None:
        """Name what the documents have no method for: parts of uploads, objects by their own URL."""
        if request.method is not None:
            return
        if dict(request.query).get("upload_id"):
            request.service, request.action = "storage", "objects.insert"
        elif request.path.count("/") >= 2 and "/v1/" not in request.path:
            request.service = "storage"
            request.action = {"GET": "objects.get", "HEAD": "objects.get", "PUT": "objects.insert"}.get(
                request.http, ""
            )
            bucket, _, name = request.path.strip("/").partition("/")
            request.params = {"bucket": bucket, "object": unquote(name)}

    def answer(self, request: Request, checked: Checked) -> Answer:
        """Return the answer.

        Raises:
            GceError: The service refuses, or the double cannot.
        """
        if request.service == "storage":
            return self._storage(request, checked)
        if request.action == "projects.secrets.versions.access":
            return checked(request, self._secret(request.params))
        if request.action == "projects.testIamPermissions":
            wanted = request.body.get("permissions", [])
            return checked(request, {"permissions": [p for p in wanted if not self._rights.lacks(p)]})
        if request.method is None:
            return 404, [("Content-Type", "text/html")], b"<title>Error 404 (Not Found)!!1</title>"
        raise not_modelled(f"{request.service}.{request.action}")

    def _secret(self, params: Json) -> Json:
        """projects.secrets.versions.access: by number, or the latest."""
        name, version = params["secretsId"], params["versionsId"]
        versions = self.secrets.get(name, [])
        number = len(versions) if version == "latest" else int(version) if version.isdigit() else 0
        path = f"projects/{PROJECT_NUMBER}/secrets/{name}"
        if params["projectsId"] not in (PROJECT, PROJECT_NUMBER) or not 1 <= number <= len(versions):
            text = (
                f"Secret [{path}] not found or has no versions." if not versions else f"Version [{version}] not found."
            )
            raise GceError(404, "notFound", text)
        data = versions[number - 1]
        payload = {"data": base64.b64encode(data).decode(), "dataCrc32c": str(google_crc32c.value(data))}
        return {"name": f"{path}/versions/{number}", "payload": payload}

    # -- Cloud Storage

    def _storage(self, request: Request, checked: Checked) -> Answer:
        upload_id = dict(request.query).get("upload_id")
        if upload_id:
            return self._part(request, upload_id)
        if request.method is None:
            return self._plain(request)
        if request.method.upload:
            return self._upload(request, checked)
        if request.media and request.action == "objects.get":
            return self._content(request)
        if request.action == "objects.delete":
            self.storage.delete(request.params)
            return 204, [], b""
        reads = {
            "buckets.get": self.storage.buckets_get,
            "objects.get": self.storage.get,
            "objects.list": self.storage.list,
        }
        if request.action in reads:
            return checked(request, reads[request.action](request.params))
        if request.action == "buckets.insert":
            return checked(request, self.storage.buckets_insert(request.params, request.body))
        raise not_modelled(f"storage.{request.action}")

    def _upload(self, request: Request, checked: Checked) -> Answer:
        if request.params.get("uploadType") == "resumable":
            number = self.storage.begin(request.params, request.raw)
            return 200, [("Location", f"{request.host}{request.path}?uploadType=resumable&upload_id={number}")], b""
        return checked(request, self.storage.upload(request.params, request.raw, request.kind))

    def _part(self, request: Request, number: str) -> Answer:
        made = self.storage.resume(number, request.raw, request.headers.get("content-range", ""))
        if made is None:
            received = self.storage.received(number)
            return 308, [("Range", f"bytes=0-{received - 1}")] if received else [], b""
        return 200, _JSON, json.dumps(made).encode()

    def _content(self, request: Request) -> Answer:
        blob = self.storage.blob(request.params["bucket"], request.params["object"])
        headers = [("Content-Type", blob.kind), ("x-goog-generation", str(blob.generation))]
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if part is None:
            return 200, headers, blob.content
        start, size = int(part[1]), len(blob.content)
        if start >= size:
            raise GceError(416, "requestedRangeNotSatisfiable", "The requested range cannot be satisfied.")
        content = blob.content[start : int(part[2] or size) + 1]
        where = ("Content-Range", f"bytes {start}-{start + len(content) - 1}/{size}")
        return 206, [*headers, where], content

    def _plain(self, request: Request) -> Answer:
        """Serve an object by its own URL: signed, or with a token."""
        if not request.headers.get("authorization"):
            self.storage.check_signature(dict(request.query))
        if request.http == "PUT":
            bucket = {"bucket": request.params["bucket"]}
            self.storage.put(bucket, request.params["object"], request.raw, {"contentType": request.kind})
            return 200, [], b""
        return self._content(request)

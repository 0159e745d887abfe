"""Cloud Storage, as far as staging files and a destination need it: buckets, objects, uploads, signed URLs."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import google_crc32c

from tests.clouds.gcp.errors import GceError, invalid, not_modelled
from tests.clouds.gcp.listing import PAGE
from tests.clouds.gcp.model import stamp
from tests.clouds.gcp.world import World

Json = dict[str, Any]
_RANGE = re.compile(r"bytes (?:([0-9]+)-[0-9]+|\*)/([0-9]+|\*)")
_QUANTUM = 256 * 1024


@dataclass
class Blob:
    """An object in a bucket."""

    bucket: str
    name: str
    content: bytes
    generation: int
    at: float
    kind: str = "application/octet-stream"
    metadata: dict[str, str] = field(default_factory=dict)

    def view(self) -> Json:
        """Return it as answers hold it."""
        seen: Json = {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "bucket": self.bucket,
            "name": self.name,
            "size": str(len(self.content)),
            "generation": str(self.generation),
            "metageneration": "1",
            "contentType": self.kind,
            "storageClass": "STANDARD",
            "md5Hash": base64.b64encode(hashlib.md5(self.content, usedforsecurity=False).digest()).decode(),
            "crc32c": base64.b64encode(google_crc32c.value(self.content).to_bytes(4, "big")).decode(),
            "etag": f"E{self.generation}",
            "timeCreated": stamp(self.at),
            "updated": stamp(self.at),
        }
        return {**seen, "metadata": self.metadata} if self.metadata else seen


class Storage:
    """All buckets."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._buckets: dict[str, dict[str, Blob]] = {}
        self._uploads: dict[str, Json] = {}
        self._numbers = itertools.count(1_700_000_000_000_001)

    def clear(self) -> None:
        """Be as new: one bucket, which is empty."""
        with self._lock:
            self._buckets = {"bucket": {}}
            self._uploads.clear()

    def _bucket(self, name: str) -> dict[str, Blob]:
        if name not in self._buckets:
            raise GceError(404, "notFound", "The specified bucket does not exist.")
        return self._buckets[name]

    def blob(self, bucket: str, name: str) -> Blob:
        """Return an object."""
        found = self._bucket(bucket).get(name)
        if found is None:
            raise GceError(404, "notFound", f"No such object: {bucket}/{name}")
        return found

    @staticmethod
    def _bucket_view(name: str) -> Json:
        return {"kind": "storage#bucket", "id": name, "name": name, "location": "US", "storageClass": "STANDARD"}

    # -- the calls

    def buckets_get(self, params: Json) -> Json:
        """buckets.get."""
        self._bucket(params["bucket"])
        return self._bucket_view(params["bucket"])

    def buckets_insert(self, params: Json, body: Json) -> Json:
        """buckets.insert."""
        name = body.get("name", "")
        if name in self._buckets:
            raise GceError(409, "conflict", "Your previous request to create the named bucket succeeded.")
        self._buckets[name] = {}
        return self._bucket_view(name)

    def get(self, params: Json) -> Json:
        """objects.get, of its metadata; the app serves ``alt=media``."""
        return self.blob(params["bucket"], params["object"]).view()

    def delete(self, params: Json) -> None:
        """objects.delete."""
        self.blob(params["bucket"], params["object"])
        del self._buckets[params["bucket"]][params["object"]]

    def list(self, params: Json) -> Json:
        """objects.list: by name, with a prefix and a delimiter."""
        prefix, delimiter = params.get("prefix", ""), params.get("delimiter", "")
        names = sorted(n for n in list(self._bucket(params["bucket"])) if n.startswith(prefix))
        after, limit = params.get("pageToken", ""), params.get("maxResults", PAGE)
        folders = {_folder(n, prefix, delimiter): None for n in names}
        folders.pop("", None)
        plain = [n for n in names if not _folder(n, prefix, delimiter) and n > after]
        seen: Json = {"kind": "storage#objects"}
        seen["items"] = [self._buckets[params["bucket"]][n].view() for n in plain[:limit]]
        if len(plain) > limit:
            seen["nextPageToken"] = plain[limit - 1]
        return {k: v for k, v in {**seen, "prefixes": list(folders)}.items() if v}

    def upload(self, params: Json, content: bytes, kind: str) -> Json:
        """objects.insert with content: simple or multipart."""
        about: Json = {}
        if params.get("uploadType") == "multipart":
            about, content, kind = _parts(content, kind)
        name = params.get("name") or about.get("name")
        if not name:
            raise invalid("name", "", "Required")
        return self.put(params, str(name), content, about | {"contentType": about.get("contentType", kind)})

    def put(self, params: Json, name: str, content: bytes, about: Json) -> Json:
        """Store an object, unless a precondition forbids it."""
        bucket = self._bucket(params["bucket"])
        with self._lock:
            there = bucket.get(name)
            wanted = params.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != (there.generation if there else 0):
                text = "At least one of the pre-conditions you specified did not hold."
                raise GceError(412, "conditionNotMet", text)
            blob = Blob(params["bucket"], name, content, next(self._numbers), self._world.now())
            blob.kind = about.get("contentType") or blob.kind
            blob.metadata = about.get("metadata", {})
            bucket[name] = blob
            return blob.view()

    def begin(self, params: Json, body: bytes) -> str:
        """Begin a resumable upload, and return its number."""
        self._bucket(params["bucket"])
        number = f"upload-{next(self._numbers)}"
        about = json.loads(body or b"{}")
        self._uploads[number] = {"params": params, "about": about, "content": b""}
        return number

    def resume(self, number: str, content: bytes, place: str) -> Json | None:
        """Take the next part of a resumable upload; the object when it was the last one."""
        upload = self._uploads.get(number)
        if upload is None:
            raise GceError(404, "notFound", "The upload is not known.")
        found = _RANGE.fullmatch(place) if place else None
        if place and not found:
            raise GceError(400, "badContentRange", f"Failed to parse Content-Range header: {place!r}")
        begin, total = (found[1], found[2]) if found else (None, str(len(content)))
        have: bytes = upload["content"]
        if begin is not None and int(begin) != len(have):
            text = f"the upload offset is {begin} byte(s), which exceeds or repeats the {len(have)} that are there"
            raise GceError(400, "badContentRange", text)
        upload["content"] = have = have + content
        if not total.isdecimal() or len(have) < int(total):
            # storage/docs/performing-resumable-uploads: parts but the last are multiples of 256 KiB.
            upload["content"] = have[: len(have) // _QUANTUM * _QUANTUM]
            return None
        params, about = upload["params"], upload["about"]
        name = params.get("name") or about.get("name", "")
        return self.put(params, name, upload["content"], about)

    def received(self, number: str) -> int:
        """Return how much of a resumable upload is there."""
        return len(self._uploads[number]["content"])

    def check_signature(self, query: dict[str, str]) -> None:
        """Refuse a signed URL that is not, or no longer, good (storage/docs/access-control/signed-urls)."""
        try:
            begins = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            ends = begins + timedelta(seconds=int(query["X-Goog-Expires"]))
            signed = query["X-Goog-Signature"] and query["X-Goog-Credential"]
        except (KeyError, ValueError):
            raise GceError(403, "AccessDenied", "Access denied.") from None
        if not signed or self._world.now() >= ends.timestamp():
            raise GceError(400, "ExpiredToken", "Invalid argument. The provided token has expired.")


def _folder(name: str, prefix: str, delimiter: str) -> str:
    rest = name.removeprefix(prefix)
    return prefix + rest.partition(delimiter)[0] + delimiter if delimiter and delimiter in rest else ""


def _parts(content: bytes, kind: str) -> tuple[Json, bytes, str]:
    """Return metadata, content and its type of a multipart upload; a mail parser would change line ends."""
    if not kind.startswith("multipart/related") or "boundary=" not in kind:
        raise not_modelled(f"a multipart upload of {kind}")
    mark = b"--" + kind.partition("boundary=")[2].strip("\"' ").encode()
    parts = [part.partition(b"\r\n\r\n") for part in content.split(mark)[1:3]]
    about, data = (body.removesuffix(b"\r\n") for _, _, body in parts)
    found = re.search(rb"(?i)content-type:\s*([^\r\n;]+)", parts[1][0])
    return json.loads(about), data, found[1].decode() if found else ""

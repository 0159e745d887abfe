"""S3 as the place of files that are too large for user data: stored once for each content, fetched by presigned URL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from airflow_rankvol.backends._aws_calls import Ec2, code
from airflow_rankvol.backends._aws_userdata import user_data
from airflow_rankvol.errors import BackendError, ConfigError

#: Signature version 4: "a presigned URL can be valid for up to seven days" (S3 User Guide, "Presigned URLs").
MAX_EXPIRY_S = 7 * 24 * 3600.0
_SCHEME = "s3://"


class S3Staging:
    """The contents of one connection's jobs. May be used by several threads.

    Args:
        ec2: knows the connection's clients and its errors.
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, ec2: Ec2, now: Callable[[], float] = time.monotonic) -> None:
        self._ec2 = ec2
        self._now = now
        self._lock = threading.Lock()
        self._urls: dict[tuple[str, str, float], tuple[float, str]] = {}

    def check_script(self, script: str) -> None:
        """Raise ConfigError when a script does not fit into user data."""
        user_data(script)

    def check_place(self, place: str) -> None:
        """Refuse a place that is no bucket of the connection's region that it may look into.

        Raises:
            ConfigError: there is no such bucket, or it lies in another region: a URL holds for one region.
            AuthDenied: a right is missing.
        """
        bucket, _ = _split(place)
        try:
            answer = self._s3("head_bucket", "check", place, Bucket=bucket)
        except BackendError as exc:
            if code(exc) not in ("404", "NoSuchBucket"):
                raise
            raise ConfigError(f"staging: {place!r}: there is no bucket {bucket!r}. Create it, or correct it") from exc
        with self._ec2.mapped("check", place):
            ours = self._ec2.clients.region
        region = answer.get("BucketRegion") or ours
        if region != ours:
            raise ConfigError(
                f"staging: {place!r}: the bucket lies in {region}, the connection works in {ours}. "
                "Name a bucket of that region"
            )

    def stage(self, place: str, key: str, content: bytes, expires_s: float) -> str:
        """Store a content unless it is there, and return a URL of it that holds for at least that long.

        The URL stays the same for a while: a repeated launch has to ask for the same (``ClientToken``).
        """
        wanted = (place, key, expires_s)
        with self._lock:
            made, url = self._urls.get(wanted, (0.0, ""))
            if url and self._now() - made < expires_s:
                return url
        bucket, prefix = _split(place)
        name = f"{prefix}/{key}" if prefix else key
        self._store(bucket, name, content)
        params = {"Bucket": bucket, "Key": name}
        with self._ec2.mapped("stage", f"{_SCHEME}{bucket}/{name}"):
            client = self._ec2.clients.get("s3")
            url = client.generate_presigned_url("get_object", params, int(min(2 * expires_s, MAX_EXPIRY_S)))
        with self._lock:
            self._urls[wanted] = (self._now(), url)
        return str(url)

    def _store(self, bucket: str, name: str, content: bytes) -> None:
        where = f"{_SCHEME}{bucket}/{name}"
        try:
            found = self._s3("head_object", "stage", where, Bucket=bucket, Key=name)
        except BackendError as exc:
            # Who may not list a bucket gets 403 for what is not there (S3 API Reference, HeadObject).
            if code(exc) not in ("404", "403", "NoSuchKey"):
                raise
        else:
            if found["ContentLength"] == len(content):
                return
        self._s3("put_object", "stage", where, Bucket=bucket, Key=name, Body=content)

    def _s3(self, method: str, verb: str, resource: str, **parameters: Any) -> dict[str, Any]:
        with self._ec2.mapped(verb, resource):
            answer: dict[str, Any] = getattr(self._ec2.clients.get("s3"), method)(**parameters)
        return answer


def _split(place: str) -> tuple[str, str]:
    bucket, _, prefix = place.removeprefix(_SCHEME).partition("/")
    return bucket, prefix

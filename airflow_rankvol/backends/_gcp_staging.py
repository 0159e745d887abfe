"""Cloud Storage as the place of large files: stored once for each content, fetched by signed URL.

Google's own client stores and signs; the google provider needs it, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_rankvol.backends._gcp_errors import answered, code, no_answer, of_answer
from airflow_rankvol.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from airflow_rankvol.backends._gcp_calls import Gce

#: A metadata value's "size must be less than or equal to 262144 bytes (256 KiB)" (discovery document, Metadata).
MAX_SCRIPT = 262_144
#: "The longest expiration value is 604800 seconds (7 days)" (storage/docs/access-control/signed-urls).
MAX_EXPIRY_S = 7 * 24 * 3600.0
_SCHEME = "gs://"
_UPLOAD_S = (10.0, 60.0)


class GcsStaging:
    """The contents of one connection's jobs. May be used by several threads.

    Args:
        gce: knows the connection and its errors.
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, gce: Gce, now: Callable[[], float] = time.monotonic) -> None:
        self._gce = gce
        self._now = now
        self._lock = threading.Lock()
        self._urls: dict[tuple[str, str, float], tuple[float, str]] = {}

    def check_script(self, script: str) -> None:
        """Raise ConfigError when a script does not fit into the metadata."""
        size = len(script.encode())
        if size > MAX_SCRIPT:
            raise ConfigError(
                f"the node's start script has {size} bytes; metadata holds {MAX_SCRIPT}. Its own part is about 25 KB; "
                "files, commands, env and, for gather, the list of volumes take the rest. Set "
                "staging='gs://bucket/prefix', and files travel through Cloud Storage; where it is set, put long "
                "commands into a file, too"
            )

    def check_place(self, place: str) -> None:
        """Refuse a place that is no bucket that the connection may look into.

        Raises:
            ConfigError: there is no such bucket, or the connection cannot sign URLs.
            AuthDenied: a right is missing.
        """
        bucket, prefix = _split(place)
        url = f"{self._gce.session.base('storage')}/storage/v1/b/{quote(bucket, safe='')}/o"
        try:
            query = {"maxResults": 1, "prefix": prefix, "fields": "kind"}
            self._gce.fetch("GET", url, "check", place, query=query, action="storage.objects.list")
        except BackendError as exc:
            if code(exc) != "notFound":
                raise
            raise ConfigError(f"staging: {place!r}: there is no bucket {bucket!r}. Create it, or correct it") from exc
        self._try_signing(place)

    def stage(self, place: str, key: str, content: bytes, expires_s: float) -> str:
        """Store a content unless it is there, and return a URL of it that holds for at least that long.

        The URL stays the same for a while: a repeated launch has to ask for the same (``requestId``).
        """
        wanted = (place, key, expires_s)
        with self._lock:
            made, url = self._urls.get(wanted, (0.0, ""))
            if url and self._now() - made < expires_s:
                return url
        bucket, prefix = _split(place)
        name = f"{prefix}/{key}" if prefix else key
        url = self._store(bucket, name, content, min(2 * expires_s, MAX_EXPIRY_S))
        with self._lock:
            self._urls[wanted] = (self._now(), url)
        return url

    def _store(self, bucket: str, name: str, content: bytes, expires_s: float) -> str:
        """Store an object unless it is there, and sign a URL of it."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage import Client  # type: ignore[import-untyped]
        from requests.exceptions import RequestException

        where, session = f"{_SCHEME}{bucket}/{name}", self._gce.session
        base = session.base("storage")
        client = Client(session.project, session.credentials, client_options={"api_endpoint": base})
        try:
            blob = client.bucket(bucket).blob(name)
            if not self._is_there(base, bucket, name, len(content)):
                # google-auth raises what it cannot send or sign, and the client what the bucket answers.
                blob.upload_from_string(content, "application/octet-stream", timeout=_UPLOAD_S, retry=None)
            expiry = int(expires_s)
            return str(
                blob.generate_signed_url(version="v4", expiration=expiry, api_access_endpoint=base, **self._signing())
            )
        except GoogleAPICallError as exc:
            found = exc.response.json() if exc.response is not None and exc.response.content[:1] == b"{" else None
            error = of_answer(int(exc.code or 0), found, exc.message)
            raise answered(error, "stage", where, "storage.objects.insert") from error
        except (GoogleAuthError, RequestException) as exc:
            raise no_answer(exc, "stage", where) from exc
        finally:
            client.close()

    def _is_there(self, base: str, bucket: str, name: str, size: int) -> bool:
        url = f"{base}/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
        where, query = f"{_SCHEME}{bucket}/{name}", {"fields": "size"}
        try:
            found = self._gce.fetch("GET", url, "stage", where, query=query, action="storage.objects.get")
        except BackendError as exc:
            # Who may not read objects may store one all the same; a missing bucket shows then.
            if code(exc) not in ("notFound", "forbidden"):
                raise
            return False
        return found.get("size") == str(size)

    def _try_signing(self, place: str) -> None:
        """Let IAM sign something where the credentials have no key of their own: not before the nodes need it.

        Raises:
            AuthDenied: the right iam.serviceAccounts.signBlob is missing.
        """
        from google.auth.exceptions import GoogleAuthError
        from google.auth.iam import Signer
        from google.auth.transport.requests import Request

        try:
            by = self._signing()
            credentials = self._gce.session.credentials
            if "credentials" not in by:
                Signer(Request(), credentials, by["service_account_email"]).sign(b"rankvol")  # type: ignore[no-untyped-call]
            elif hasattr(credentials, "sign_bytes"):
                credentials.sign_bytes(b"rankvol")
        except GoogleAuthError as exc:
            raise no_answer(exc, "check", place) from exc

    def _signing(self) -> dict[str, Any]:
        """Return what signs: the credentials' own key, or IAM for a service account that has none here.

        Raises:
            ConfigError: the credentials are no service account's.
        """
        from google.auth.credentials import Signing
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        credentials = self._gce.session.credentials
        if isinstance(credentials, Signing):
            return {"credentials": credentials}
        if not getattr(credentials, "valid", False) and hasattr(credentials, "service_account_email"):
            try:
                credentials.refresh(Request())  # type: ignore[no-untyped-call] # it learns its name by that
            except GoogleAuthError as exc:
                raise no_answer(exc, "stage", self._gce.session.conn_id) from exc
        email = getattr(credentials, "service_account_email", None)
        if not email:
            raise ConfigError(
                f"staging: the credentials of connection {self._gce.session.conn_id!r} are not a service account's, "
                "so they cannot sign the URLs by which nodes fetch files. Set key_path, keyfile_dict or "
                "impersonation_chain in its extra, or leave staging out: scripts may have 256 KiB"
            )
        return {"service_account_email": email, "access_token": credentials.token}


def _split(place: str) -> tuple[str, str]:
    bucket, _, prefix = place.removeprefix(_SCHEME).partition("/")
    return bucket, prefix

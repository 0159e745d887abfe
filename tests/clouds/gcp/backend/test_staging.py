"""Files in Cloud Storage: stored once for each content, fetched by signed URLs, and refused before anything exists."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_connection import Session
from airflow_rankvol.backends._gcp_staging import MAX_EXPIRY_S, MAX_SCRIPT, GcsStaging
from airflow_rankvol.engine.staging import key_of
from airflow_rankvol.errors import AuthDenied, ConfigError, FinalError, RetryableError
from tests.clouds.gcp.backend.kit import settings
from tests.clouds.gcp.client import Double
from tests.clouds.gcp.model import PROJECT
from tests.contract.gcp_lab import objects

PLACE = "gs://bucket/staged"
CONTENT = b"import sys\n" * 1000
KEY = key_of("owner", CONTENT)
EMAIL = f"airflow@{PROJECT}.iam.gserviceaccount.com"


@cache
def private_key() -> str:
    """Return a key to sign with; it takes a while to make."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def session(double: Double) -> Session:
    """Return the session of a service account's key, which has its token already."""
    from google.oauth2.service_account import Credentials

    info = {"client_email": EMAIL, "private_key": private_key(), "token_uri": f"{double.url}/no-such-place"}
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials: Any = Credentials.from_service_account_info(info, scopes=scopes)  # type: ignore[no-untyped-call]
    credentials.token = "token"
    made = Session(settings(double))
    made._read = lambda: (credentials, PROJECT)  # type: ignore[method-assign]  # also when it signs in anew
    return made


@pytest.fixture
def staging(double: Double) -> GcsStaging:
    return GcsStaging(Gce(session(double)))


def uploads(double: Double) -> int:
    return len(double.calls("objects.insert"))


def test_a_content_is_stored_once_and_whoever_has_the_url_can_fetch_it(double: Double, staging: GcsStaging) -> None:
    url = staging.stage(PLACE, KEY, CONTENT, 600)
    assert requests.get(url, timeout=10).content == CONTENT
    assert objects(double, "staged/") == {f"staged/{KEY}": CONTENT}
    query = parse_qs(urlsplit(url).query)
    assert query["X-Goog-Credential"][0].startswith(f"{EMAIL}/")
    assert int(query["X-Goog-Expires"][0]) >= 600
    assert staging.stage(PLACE, KEY, CONTENT, 600) == url, "a repeated launch asks for the same"
    other = GcsStaging(Gce(session(double)))
    assert requests.get(other.stage(PLACE, KEY, CONTENT, 600), timeout=10).content == CONTENT
    assert uploads(double) == 1


def test_a_url_is_renewed_while_it_still_holds_and_never_asked_for_longer_than_allowed(double: Double) -> None:
    now = [0.0]
    staging = GcsStaging(Gce(session(double)), now=lambda: now[0])
    first = staging.stage(PLACE, KEY, CONTENT, 600)
    now[0] = 599.0
    assert staging.stage(PLACE, KEY, CONTENT, 600) == first
    double.advance(600)
    assert requests.get(first, timeout=10).status_code == 200
    now[0] = 601.0
    staging.stage(PLACE, KEY, CONTENT, 600)
    longest = staging.stage(PLACE, KEY, CONTENT, 10 * MAX_EXPIRY_S)
    assert parse_qs(urlsplit(longest).query)["X-Goog-Expires"] == [str(int(MAX_EXPIRY_S))]


def test_what_was_stored_half_is_stored_again(double: Double, staging: GcsStaging) -> None:
    url = f"{double.url}/upload/storage/v1/b/bucket/o"
    requests.post(url, params={"uploadType": "media", "name": f"staged/{KEY}"}, data=CONTENT[:100], timeout=10)
    assert requests.get(staging.stage(PLACE, KEY, CONTENT, 600), timeout=10).content == CONTENT


def test_a_missing_bucket_is_refused_in_plan(staging: GcsStaging) -> None:
    with pytest.raises(ConfigError, match="there is no bucket 'nowhere'"):
        staging.check_place("gs://nowhere/x")
    staging.check_place(PLACE)
    staging.check_place("gs://bucket")


def test_credentials_that_cannot_sign_are_refused_in_plan(double: Double) -> None:
    staging = GcsStaging(Gce(Session(settings(double))))
    with pytest.raises(ConfigError, match="cannot sign the URLs"):
        staging.check_place(PLACE)


def test_a_missing_right_is_named(double: Double, staging: GcsStaging) -> None:
    double("deny", actions=["storage.objects.create"])
    with pytest.raises(AuthDenied, match=r"storage\.objects\.create"):
        staging.stage(PLACE, KEY, CONTENT, 600)
    double("deny", actions=["storage.objects.list"])
    with pytest.raises(AuthDenied, match=r"storage\.objects\.list"):
        staging.check_place(PLACE)
    double("deny", actions=["storage.objects.get"])
    staging.stage(PLACE, KEY, CONTENT, 600)
    with pytest.raises(FinalError):
        staging.stage("gs://nowhere/x", KEY, CONTENT, 600)


def test_a_store_that_fails_for_a_moment_may_be_tried_again(double: Double, staging: GcsStaging) -> None:
    double.fault("error", "objects.insert", service="storage", status=503, code="backendError", message="later")
    with pytest.raises(RetryableError, match="later"):
        staging.stage(PLACE, KEY, CONTENT, 600)
    double.fault("lose", "objects.insert", service="storage")
    with pytest.raises(RetryableError):
        staging.stage(PLACE, KEY, CONTENT, 600)
    assert staging.stage(PLACE, KEY, CONTENT, 600)


def test_a_service_account_without_a_key_here_signs_by_iam(
    double: Double, staging: GcsStaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine of Google's, whose credentials are a token."""
    from google.cloud.storage import _signing  # type: ignore[import-untyped]
    from google.oauth2.credentials import Credentials

    class Default(Credentials):
        service_account_email = EMAIL

    asked = []

    def sign(message: str, token: str, email: str, domain: str) -> str:
        asked.append((token, email))
        return "c2lnbmVk"

    monkeypatch.setattr(_signing, "_sign_message", sign)
    session = Session(settings(double))
    session._signed_in = (Default("token-of-the-machine"), PROJECT)  # type: ignore[no-untyped-call]
    url = GcsStaging(Gce(session)).stage(PLACE, KEY, CONTENT, 600)
    assert asked == [("token-of-the-machine", EMAIL)]
    assert parse_qs(urlsplit(url).query)["X-Goog-Signature"] == [b"signed".hex()]


def test_a_service_account_that_may_not_sign_by_iam_is_refused_in_plan(
    double: Double, staging: GcsStaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.auth.transport.requests import Request
    from google.oauth2.credentials import Credentials

    class Default(Credentials):
        service_account_email = EMAIL

    class Answer:
        status = 403
        headers: ClassVar[dict[str, str]] = {}
        data = b'{"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}'

    asked = []

    def answer(_self: Request, url: str, **_kwargs: Any) -> Answer:
        asked.append(url)
        return Answer()

    monkeypatch.setattr(Request, "__call__", answer)
    session = Session(settings(double))
    session._signed_in = (Default("token-of-the-machine"), PROJECT)  # type: ignore[no-untyped-call]
    with pytest.raises(AuthDenied, match=r"iam\.serviceAccounts\.signBlob"):
        GcsStaging(Gce(session)).check_place(PLACE)
    assert asked[0].endswith(f"{EMAIL}:signBlob")


def test_a_script_fits_into_the_metadata_or_says_what_to_do(staging: GcsStaging) -> None:
    staging.check_script("#" * MAX_SCRIPT)
    with pytest.raises(ConfigError, match=r"has 262145 bytes; metadata holds 262144.*staging='gs://"):
        staging.check_script("#" * (MAX_SCRIPT + 1))

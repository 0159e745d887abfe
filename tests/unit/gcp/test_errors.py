"""Every answer of Google's is one of our errors, with the next step."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from google.auth import exceptions as auth

from airflow_rankvol.backends._gcp_errors import (
    TABLE,
    ApiError,
    answered,
    code,
    no_answer,
    of_answer,
    of_operation,
)
from airflow_rankvol.errors import (
    AuthDenied,
    BackendError,
    CredentialsRefused,
    FinalError,
    NoCapacity,
    NotReady,
    QuotaExceeded,
    RetryableError,
    Throttled,
    VolumeBusy,
)


@pytest.mark.parametrize("name", TABLE)
def test_a_known_code_has_a_meaning_and_a_next_step(name: str) -> None:
    error = answered(ApiError(400, name, "what it said."), "create_node", "node-1", "instances.insert")
    assert type(error) is TABLE[name].error
    assert str(error).startswith(f"gcp create_node node-1: instances.insert answered {name}: what it said. ")
    assert TABLE[name].step
    assert code(error) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rateLimitExceeded", Throttled),
        ("ZONE_RESOURCE_POOL_EXHAUSTED", NoCapacity),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", NoCapacity),
        ("QUOTA_EXCEEDED", QuotaExceeded),
        ("quotaExceeded", QuotaExceeded),
        ("forbidden", AuthDenied),
        ("authError", CredentialsRefused),
        ("resourceInUseByAnotherResource", VolumeBusy),
        ("resourceNotReady", NotReady),
        ("UNSUPPORTED_OPERATION", FinalError),
        ("invalid", FinalError),
    ],
)
def test_what_the_engine_decides_by(name: str, expected: type[BackendError]) -> None:
    assert type(answered(ApiError(400, name, ""), "", "")) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, FinalError), (401, CredentialsRefused), (403, AuthDenied), (429, Throttled), (500, RetryableError),
     (501, FinalError), (503, RetryableError)],
)  # fmt: skip
def test_an_unknown_code_is_judged_by_its_status(status: int, expected: type[BackendError]) -> None:
    assert type(answered(ApiError(status, "somethingNew", ""), "", "")) is expected


def test_a_missing_right_is_named() -> None:
    said = "Required 'compute.disks.create' permission for 'projects/p/zones/z/disks/d'"
    error = answered(ApiError(403, "forbidden", said), "create_volume", "d")
    assert "the right compute.disks.create; docs/gcp-role.yaml" in str(error)


def test_an_api_that_is_switched_off_is_told_apart_from_a_missing_right() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}
    found = {"error": {"code": 403, "message": "off", "errors": [{"reason": "forbidden"}], "details": [info]}}
    assert "gcloud services enable" in str(answered(of_answer(403, found, ""), "", ""))


@pytest.mark.parametrize(
    ("found", "text", "expected"),
    [
        ({"error": {"errors": [{"reason": "notFound"}], "message": "no"}}, "", ("notFound", "no")),
        ({"error": {"status": "NOT_FOUND", "message": "no"}}, "", ("NOT_FOUND", "no")),
        (None, "<html>Bad Gateway</html>", ("", "<html>Bad Gateway</html>")),
        ({"error": "invalid_grant"}, "text", ("", "text")),
        ([], "", ("", "an empty answer")),
    ],
)
def test_whatever_comes_as_an_answer_is_an_error(found: Any, text: str, expected: tuple[str, str]) -> None:
    error = of_answer(502, found, text)
    assert (error.code, error.message) == expected


def test_an_operations_errors_are_told_together_with_what_google_advises() -> None:
    details = [
        {"localizedMessage": {"locale": "en-US", "message": "It is currently unavailable."}},
        {"errorInfo": {"metadatas": {"zonesAvailable": "us-central1-b,us-central1-c"}}},
    ]
    errors = [
        {"code": "SOMETHING", "message": "first"},
        {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "no room", "errorDetails": details},
    ]
    error = of_operation({"status": "DONE", "error": {"errors": errors}, "httpErrorStatusCode": 503})
    assert error is not None
    assert error.code == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert error.message == (
        "first; no room It is currently unavailable. Zones that have some: us-central1-b,us-central1-c"
    )
    assert of_operation({"status": "DONE"}) is None


@pytest.mark.parametrize(
    ("exc", "expected", "text"),
    [
        (requests.ConnectionError("reset"), RetryableError, "tried again"),
        (requests.ReadTimeout("slow"), RetryableError, "tried again"),
        (requests.exceptions.SSLError("bad"), FinalError, "REQUESTS_CA_BUNDLE"),
        (auth.TransportError("gone"), RetryableError, "tried again"),  # type: ignore[no-untyped-call]
        (auth.RefreshError("revoked"), CredentialsRefused, "key_path"),  # type: ignore[no-untyped-call]
        (auth.RefreshError("busy", retryable=True), RetryableError, "tried again"),  # type: ignore[no-untyped-call]
    ],
    ids=repr,
)
def test_a_call_without_an_answer_is_told(exc: Exception, expected: type[BackendError], text: str) -> None:
    error = no_answer(exc, "observe", "group")
    assert type(error) is expected
    assert text in str(error)
    assert code(error) == ""


IAM_IS_BUSY = '{"error": {"code": 503, "status": "UNAVAILABLE", "message": "The service is currently unavailable"}}'
IAM_REFUSES = '{"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "iam.serviceAccounts.getAccessToken"}}'


def made(kind: Any, *args: Any) -> Exception:
    """Return an error of google-auth's, whose classes are not typed."""
    exc: Exception = kind(*args)
    return exc


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (made(auth.RefreshError, made(auth.TransportError, "the metadata server is unavailable")), RetryableError),
        (made(auth.RefreshError, "Unable to acquire impersonated credentials", IAM_IS_BUSY), RetryableError),
        (made(auth.RefreshError, "Unable to acquire impersonated credentials", IAM_REFUSES), CredentialsRefused),
        (made(auth.TransportError, f"Error calling the IAM signBlob API: {IAM_REFUSES}"), AuthDenied),
    ],
    ids=["metadata server", "impersonation is busy", "impersonation is refused", "signBlob is refused"],
)
def test_trouble_that_passes_is_told_from_a_missing_right(exc: Exception, expected: type[BackendError]) -> None:
    assert type(no_answer(exc, "observe", "group")) is expected

"""Every answer of Google's is one of our errors, with the next step."""

from __future__ import annotations

import re
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
        ("dailyLimitExceeded", QuotaExceeded),
    ],
)
def test_what_the_engine_decides_by(name: str, expected: type[BackendError]) -> None:
    assert type(answered(ApiError(400, name, ""), "", "")) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, FinalError), (200, RetryableError), (400, FinalError), (401, CredentialsRefused), (403, AuthDenied),
     (412, FinalError), (429, Throttled), (500, RetryableError), (501, FinalError), (503, RetryableError)],
)  # fmt: skip
def test_an_unknown_code_is_judged_by_its_status(status: int, expected: type[BackendError]) -> None:
    assert type(answered(ApiError(status, "somethingNew", ""), "", "")) is expected


def test_a_missing_right_is_named() -> None:
    said = "Required 'compute.disks.create' permission for 'projects/p/zones/z/disks/d'"
    error = answered(ApiError(403, "forbidden", said), "create_volume", "d")
    assert "the right compute.disks.create; docs/gcp-role.yaml" in str(error)


ADDRESS = (
    "Constraint constraints/compute.vmExternalIpAccess violated for project 123456789. Add instance "
    "projects/p/zones/z/instances/i to the constraint to use external IP with it."
)
CUSTOM = 'Operation denied by org policy on resource \'projects/p\': ["customConstraints/custom.onlyN2": "N2 it is"].'


@pytest.mark.parametrize(
    ("status", "name"),
    [(412, "conditionNotMet"), (412, ""), (0, "CONDITION_NOT_MET"), (403, "forbidden"), (400, "invalid")],
)
@pytest.mark.parametrize(
    ("said", "step"),
    [
        (ADDRESS, r"policy constraints/compute\.vmExternalIpAccess forbids it\. Leave NodeTemplate\.external_ip out"),
        (CUSTOM, r"policy customConstraints/custom\.onlyN2 forbids it\. Change the job, or ask who"),
    ],
)
def test_a_policy_of_the_organisation_is_named_with_a_next_step(status: int, name: str, said: str, step: str) -> None:
    error = answered(ApiError(status, name, said), "create_node", "node-1", "instances.insert")
    assert type(error) is AuthDenied
    assert re.search(step, str(error))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Labels fingerprint either invalid or resource labels have changed", RetryableError),
        ("Supplied fingerprint does not match current metadata fingerprint.", RetryableError),
        ("The resource is not as it has to be.", FinalError),
    ],
)
def test_a_condition_is_tried_again_only_where_a_fingerprint_is_meant(said: str, expected: type[BackendError]) -> None:
    for name in ("conditionNotMet", "CONDITION_NOT_MET"):
        assert type(answered(ApiError(412, name, said), "", "")) is expected


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


@pytest.mark.parametrize("found", [None, [], "text"], ids=repr)
def test_an_answer_that_is_no_json_object_is_tried_again(found: Any) -> None:
    """A proxy in between answered."""
    error = answered(of_answer(200, found, "<html>Sign in</html>"), "observe", "group", "disks.aggregatedList")
    assert type(error) is RetryableError
    assert "disks.aggregatedList answered 200: <html>Sign in</html>. It is tried again" in str(error)


def test_only_google_itself_says_that_something_is_not_there() -> None:
    """A proxy, or an ingress before ``endpoint_url``, answers 404 for what it cannot find itself."""
    error = answered(of_answer(404, None, "default backend - 404"), "tag_volumes", "zone/disk", "disks.setLabels")
    assert type(error) is RetryableError
    assert code(error) == ""
    assert "disks.setLabels answered 404: default backend - 404" in str(error)
    assert "endpoint_url. It is tried again" in str(error)
    told = {"error": {"errors": [{"reason": "notFound"}], "message": "no such disk"}}
    assert type(answered(of_answer(404, told, ""), "", "")) is FinalError


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
    ("codes", "worst"),
    [
        (["ZONE_RESOURCE_POOL_EXHAUSTED", "QUOTA_EXCEEDED"], "QUOTA_EXCEEDED"),
        (["SOMETHING", "INTERNAL_ERROR", "INVALID_USAGE"], "INVALID_USAGE"),
        (["SOMETHING", "INTERNAL_ERROR"], "INTERNAL_ERROR"),
        (["SOMETHING", "ANYTHING"], "SOMETHING"),
    ],
    ids=str,
)
def test_of_an_operations_errors_one_counts_that_no_repetition_helps(codes: list[str], worst: str) -> None:
    error = of_operation({"status": "DONE", "error": {"errors": [{"code": name} for name in codes]}})
    assert error is not None
    assert error.code == worst


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

"""Every answer of AWS is one of our errors, with the next step."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowException
from botocore import exceptions as boto
from requests.exceptions import ChunkedEncodingError

from airflow_rankvol.backends._aws_errors import TABLE, sign_in_error, translate
from airflow_rankvol.errors import (
    AuthDenied,
    BackendError,
    ConfigError,
    CredentialsRefused,
    FinalError,
    NoCapacity,
    NotReady,
    QuotaExceeded,
    RankVolError,
    RetryableError,
    Throttled,
    VolumeBusy,
)

URL = "https://ec2.eu-central-1.amazonaws.com"


def answer(code: str, message: str = "what it said.", status: int = 400) -> boto.ClientError:
    return boto.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},
        "RunInstances",
    )


@pytest.mark.parametrize("code", TABLE)
def test_a_known_code_has_a_meaning_and_a_next_step(code: str) -> None:
    error = translate(answer(code), "create_node", "node-1")
    assert type(error) is TABLE[code].error
    assert str(error).startswith(f"aws create_node node-1: RunInstances answered {code}: what it said. ")
    assert TABLE[code].step


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("RequestLimitExceeded", Throttled),
        ("InsufficientInstanceCapacity", NoCapacity),
        ("InsufficientVolumeCapacity", NoCapacity),
        ("UnfulfillableCapacity", NoCapacity),
        ("VcpuLimitExceeded", QuotaExceeded),
        ("VolumeLimitExceeded", QuotaExceeded),
        ("MaxSpotInstanceCountExceeded", QuotaExceeded),
        ("UnauthorizedOperation", AuthDenied),
        ("ExpiredToken", CredentialsRefused),
        ("InvalidClientTokenId", CredentialsRefused),
        ("InvalidIdentityToken", CredentialsRefused),
        ("VolumeInUse", VolumeBusy),
        ("IncorrectState", NotReady),
        ("Unsupported", FinalError),
        ("InvalidVolume.ZoneMismatch", FinalError),
    ],
)
def test_what_the_engine_decides_by(code: str, expected: type[BackendError]) -> None:
    assert type(translate(answer(code), "", "")) is expected


@pytest.mark.parametrize(("status", "expected"), [(400, FinalError), (500, RetryableError), (503, RetryableError)])
def test_an_unknown_code_counts_by_its_status(status: int, expected: type[BackendError]) -> None:
    assert type(translate(answer("Brand.New", status=status), "", "")) is expected


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (boto.EndpointConnectionError(endpoint_url=URL), RetryableError),
        (boto.ConnectTimeoutError(endpoint_url=URL), RetryableError),
        (boto.ReadTimeoutError(endpoint_url=URL), RetryableError),
        (boto.ConnectionClosedError(endpoint_url=URL), RetryableError),
        (boto.ProxyConnectionError(proxy_url=URL, error="x"), RetryableError),
        (boto.SSLError(endpoint_url=URL, error="self-signed"), FinalError),
        (boto.NoCredentialsError(), CredentialsRefused),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), CredentialsRefused),
        (boto.CredentialRetrievalError(provider="sso", error_msg="x"), CredentialsRefused),
        (boto.UnauthorizedSSOTokenError(), CredentialsRefused),
        (boto.NoRegionError(), ConfigError),
        (boto.ProfileNotFound(profile="x"), ConfigError),
        (boto.ParamValidationError(report="x"), FinalError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_what_never_reached_aws_has_a_meaning_too(exc: Exception, expected: type[RankVolError]) -> None:
    assert type(translate(exc, "observe", "group")) is expected


@pytest.mark.parametrize(
    "exc", [FileNotFoundError(2, "No such file", "/nope/token"), AirflowException("x"), ChunkedEncodingError("x")]
)
def test_what_keeps_the_hook_from_signing_in_names_the_connection(exc: Exception) -> None:
    error = sign_in_error(exc, "aws_default", "observe", "group")
    assert isinstance(error, CredentialsRefused)
    assert f"the connection aws_default cannot sign in: {type(exc).__name__}" in str(error)
    assert "Correct its login or its extra" in str(error)


def test_a_bug_is_no_matter_of_signing_in() -> None:
    for bug in (TypeError("x"), RuntimeError("dictionary changed size during iteration")):
        assert sign_in_error(bug, "aws_default", "observe", "group") is None


def test_a_refusal_shows_what_sts_decoded_and_not_the_secret_text() -> None:
    message = "You are not authorized to perform this operation. Encoded authorization failure message: AbC123"
    plain = str(translate(answer("UnauthorizedOperation", message, 403), "create_node", "n"))
    assert "You are not authorized to perform this operation. Give" in plain
    assert "AbC123" not in plain
    decoded = str(translate(answer("UnauthorizedOperation", message, 403), "create_node", "n", "no policy allows x"))
    assert "no policy allows x. Give" in decoded

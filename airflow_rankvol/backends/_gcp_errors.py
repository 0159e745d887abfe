"""What Google answers, as errors of our tree: one table of codes, each with its next step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from google.auth.exceptions import GoogleAuthError


#: In the body of an answer that a RefreshError carries: too many requests, or the service's own trouble.
_TROUBLE = re.compile(r'"code":\s*(429|5\d\d)\b')


class ApiError(Exception):
    """An error that Google answered: of a call, or of an operation that had been accepted.

    Args:
        code: the reason of a call's error, such as ``notFound``, or an operation's code, such as ``QUOTA_EXCEEDED``.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


class OperationFailed(ApiError):
    """The error that an operation ended with: it is over, and so is its requestId."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means to the engine, and what a person can do about it."""

    error: type[BackendError]
    step: str = ""


_SLOW = Meaning(Throttled, "It is tried again; other jobs of this project may use up its request rate")
_AGAIN = Meaning(RetryableError, "It is tried again")
_SOON = Meaning(NotReady, "It is tried again")
_NOT_GOOGLE = Meaning(
    RetryableError,
    "That is no answer of Google's API: look at what lies between, and at the connection's endpoint_url. It is tried "
    "again",
)
_CREDENTIALS = Meaning(
    CredentialsRefused,
    "The credentials of the connection are not valid: renew them, or let the connection use another way to sign in "
    "(key_path, keyfile_dict, impersonation_chain, default credentials)",
)
_RIGHT = Meaning(AuthDenied, "Give the connection's identity this right; docs/gcp-role.yaml is a role with all of them")
_CAPACITY = Meaning(
    NoCapacity,
    "Name several machine types (machine_type='n2-standard-4, n2d-standard-4'), other zones, or drop spot",
)
_QUOTA = Meaning(
    QuotaExceeded, "Ask for more on the console's page of quotas, use less at once, or free what is left (`rankvol ls`)"
)
_GONE = Meaning(FinalError, "It does not exist in this project; look at the connection's project")
_ASKED = Meaning(FinalError, "Correct the job's templates; `rankvol plan` shows them")
_API = Meaning(AuthDenied, "Switch the API on: gcloud services enable compute.googleapis.com")
_KEY = Meaning(
    FinalError,
    "Give Compute Engine's service agent the role Cloud KMS CryptoKey Encrypter/Decrypter on the key, or name another",
)

_CONDITION = Meaning(FinalError, "The message says what does not hold; once it does, clear the task")

#: An organisation's policy refuses with a call's 412 conditionNotMet (GoogleCloudPlatform/compute-image-tools#1476) or
#: an operation's CONDITION_NOT_MET (2i2c-org/infrastructure#489); a custom one has ``customConstraints/custom.NAME``.
_CONSTRAINT = re.compile(r"\b(?:constraints|customConstraints)/[A-Za-z]\w*(?:\.\w+)+")
#: What a job can do about some of them (Resource Manager's documentation, "Organization policy constraints").
_INSTEAD = {
    "constraints/compute.vmExternalIpAccess": "Leave NodeTemplate.external_ip out",
    "constraints/compute.trustedImageProjects": "Name an image of a project that is allowed (NodeTemplate.image)",
    "constraints/compute.requireShieldedVm": "Name an image that Shielded VM supports (NodeTemplate.image)",
    "constraints/gcp.resourceLocations": "Name other zones (NodeTemplate.zones)",
    "constraints/gcp.restrictNonCmekServices": "Name a key (VolumeTemplate.kms_key)",
}
#: "Labels fingerprint either invalid or resource labels have changed": who reads again and sets again gets through.
_FINGERPRINT = re.compile(r"\bfingerprint\b", re.IGNORECASE)

#: Reasons of calls (in Google's camel case) and codes of operations (upper case). From the reference of Compute
#: Engine's REST API ("Troubleshooting API errors"), its resource availability errors, and errors seen in the field,
#: which the double of the tests cites.
TABLE: dict[str, Meaning] = {
    # Too fast.
    **dict.fromkeys(("rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"), _SLOW),
    **dict.fromkeys(("concurrentOperationQuotaExceeded", "RESOURCE_OPERATION_RATE_EXCEEDED"), _SLOW),
    **dict.fromkeys(("operationRateExceeded", "resourceOperationRateExceeded"), _SLOW),
    # The cloud's own trouble.
    **dict.fromkeys(("backendError", "internalError", "INTERNAL_ERROR", "BACKEND_ERROR", "TIMEOUT"), _AGAIN),
    "ABORTED": _AGAIN,
    **dict.fromkeys(("conditionNotMet", "CONDITION_NOT_MET"), _CONDITION),
    # Nothing to be had now.
    **dict.fromkeys(("ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"), _CAPACITY),
    **dict.fromkeys(("RESOURCE_POOL_EXHAUSTED", "zoneResourcePoolExhausted", "STOCKOUT"), _CAPACITY),
    "IP_SPACE_EXHAUSTED": Meaning(NoCapacity, "The subnet has no address left; name another one"),
    "IP_SPACE_EXHAUSTED_WITH_DETAILS": Meaning(NoCapacity, "The subnet has no address left; name another one"),
    # Quotas.
    "dailyLimitExceeded": Meaning(
        QuotaExceeded, "The project's requests of the day are used up; ask for more on the console's page of quotas"
    ),
    **dict.fromkeys(("quotaExceeded", "QUOTA_EXCEEDED", "CPU_QUOTA_EXCEEDED", "GPU_QUOTA_EXCEEDED"), _QUOTA),
    **dict.fromkeys(
        ("limitExceeded", "LIMIT_EXCEEDED"),
        Meaning(FinalError, "The machine type takes no more disks; use a larger one, or fewer mounts per rank"),
    ),
    # Rights and credentials.
    **dict.fromkeys(("forbidden", "PERMISSIONS_ERROR", "permissionDenied", "IAM_PERMISSION_DENIED"), _RIGHT),
    **dict.fromkeys(
        ("SERVICE_ACCOUNT_ACCESS_DENIED", "serviceAccountAccessDenied"),
        Meaning(
            AuthDenied, "Give the connection's identity the role Service Account User on the node's service account"
        ),
    ),
    **dict.fromkeys(("authError", "required_login", "unauthorized"), _CREDENTIALS),
    **dict.fromkeys(("accessNotConfigured", "SERVICE_DISABLED"), _API),
    "billingNotEnabled": Meaning(AuthDenied, "The project has no billing account; give it one"),
    # Volumes and nodes on their way.
    "resourceInUseByAnotherResource": Meaning(VolumeBusy, "It is attached; it is tried again until it is free"),
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": Meaning(VolumeBusy, "It is attached; it is tried again until it is free"),
    **dict.fromkeys(("resourceNotReady", "RESOURCE_NOT_READY", "resourceFingerprintChanged"), _SOON),
    **dict.fromkeys(("alreadyExists", "RESOURCE_ALREADY_EXISTS"), _SOON),
    # What was asked for cannot be.
    **dict.fromkeys(("notFound", "RESOURCE_NOT_FOUND", "EXTERNAL_RESOURCE_NOT_FOUND"), _GONE),
    **dict.fromkeys(("invalid", "INVALID_FIELD_VALUE", "required", "badRequest", "parseError"), _ASKED),
    **dict.fromkeys(("invalidResourceUsage", "INVALID_USAGE", "fieldSizeTooLarge", "invalidUsage"), _ASKED),
    "UNSUPPORTED_OPERATION": Meaning(
        FinalError, "The machine type does not take that: mostly a disk of that type. docs/gcp.md has a table"
    ),
    "unsupportedOperation": _ASKED,
    **dict.fromkeys(("kmsPermissionDenied", "KMS_PERMISSION_DENIED", "kmsKeyDisabled"), _KEY),
    "VPC_SERVICE_CONTROLS": Meaning(AuthDenied, "A service perimeter forbids it; ask who looks after it"),
}
#: Where a code is not in the table.
_BY_STATUS = {401: _CREDENTIALS, 403: _RIGHT, 408: _AGAIN, 409: _SOON, 412: _CONDITION, 429: _SLOW}
_PERMISSION = re.compile(r"'((?:[a-z][A-Za-z]*\.){2,}[A-Za-z]+)'")


def answered(error: ApiError, verb: str, resource: str, action: str = "") -> BackendError:
    """Return the error of our tree that an answer stands for.

    Args:
        action: what was called.
    """
    meaning = _meaning(error)
    step = meaning.step
    permission = _PERMISSION.search(error.message)
    if meaning is _RIGHT and permission:
        step = (
            f"Give the connection's identity the right {permission[1]}; docs/gcp-role.yaml is a role with all of them"
        )
    said = error.message.strip().rstrip(". ")
    text = f"{action} answered {error.code or error.status}: {said}. {step}".strip()
    made = meaning.error(text, backend="gcp", verb=verb, resource=resource)
    made.__cause__ = error
    return made


def _meaning(error: ApiError) -> Meaning:
    known = TABLE.get(error.code) or _BY_STATUS.get(error.status)
    constraint = _CONSTRAINT.search(error.message)
    if constraint and known in (None, _CONDITION, _RIGHT, _ASKED):
        instead = _INSTEAD.get(constraint[0], "Change the job")
        return Meaning(
            AuthDenied,
            f"The organisation's policy {constraint[0]} forbids it. {instead}, or ask who looks after the policies for "
            "an exception",
        )
    if known is _CONDITION and _FINGERPRINT.search(error.message):
        return _AGAIN
    if known is not None:
        return known
    # Google says in JSON that something is not there. A proxy or an ingress that cannot reach it must not delete it.
    if error.status == 404 and not error.code:
        return _NOT_GOOGLE
    # What answers 200 without JSON is something in between: a proxy, a page to sign in.
    again = error.status // 100 == 2 or (error.status >= 500 and error.status != 501)
    return _AGAIN if again else Meaning(FinalError, "See Compute Engine's API errors")


def no_answer(exc: Exception, verb: str, resource: str) -> BackendError:
    """Return the error of our tree for a call that came to no answer."""
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests.exceptions import SSLError

    where: dict[str, Any] = {"backend": "gcp", "verb": verb, "resource": resource}
    made: BackendError
    if isinstance(exc, TransportError) and "PERMISSION_DENIED" in str(exc):  # google.auth.iam answers signBlob's 403 so
        made = AuthDenied(f"{exc}. Give the connection's identity the right iam.serviceAccounts.signBlob", **where)
    elif isinstance(exc, GoogleAuthError) and not passes(exc):
        made = CredentialsRefused(f"{exc}. {_CREDENTIALS.step}", **where)
    elif isinstance(exc, SSLError):
        made = FinalError(f"{exc}. Set REQUESTS_CA_BUNDLE to the bundle of the proxy's CA", **where)
    else:
        made = RetryableError(f"Google gave no answer: {exc}. It is tried again", **where)
    made.__cause__ = exc
    return made


def passes(exc: GoogleAuthError) -> bool:
    """Say whether a failure to sign in may be over soon: the metadata server, IAM or the network had trouble.

    google-auth wraps those of the metadata server (``compute_engine.credentials``) and of impersonation
    (``impersonated_credentials``) in a RefreshError that is not marked as retryable.
    """
    from google.auth.exceptions import TransportError

    behind = [exc, exc.__cause__, *exc.args]
    return (
        exc.retryable
        or any(isinstance(item, TransportError) for item in behind)
        or any(isinstance(item, str) and _TROUBLE.search(item) for item in exc.args)
    )


def code(error: BaseException | None) -> str:
    """Return Google's code behind an error of ours, empty where Google did not answer."""
    cause = error.__cause__ if isinstance(error, BackendError) else error
    return cause.code if isinstance(cause, ApiError) else ""


def of_answer(status: int, found: Any, text: str) -> ApiError:
    """Return the error of a call's answer.

    Args:
        found: its JSON, where it was some.
        text: its body.
    """
    error = found.get("error") if isinstance(found, Mapping) else None
    if not isinstance(error, Mapping):
        return ApiError(status, "", text[:500].strip() or "an empty answer")
    first: Mapping[str, Any] = next(iter(error.get("errors") or ()), {})
    infos = [detail for detail in error.get("details") or () if isinstance(detail, Mapping)]
    known = [str(info.get("reason", "")) for info in infos if info.get("reason") in TABLE]
    reason = str(first.get("reason") or error.get("status") or "")
    if reason not in TABLE or known:
        reason = next(iter(known), reason)
    return ApiError(status, reason, str(error.get("message") or first.get("message") or text[:500]))


def of_operation(operation: Mapping[str, Any]) -> OperationFailed | None:
    """Return the error that an operation ended with, if any; of several one that repeating the call cannot help."""
    errors: Sequence[Mapping[str, Any]] = (operation.get("error") or {}).get("errors") or ()
    if not errors:
        return None
    known = [error for error in errors if error.get("code") in TABLE]
    final = [error for error in known if issubclass(TABLE[error["code"]].error, FinalError)]
    worst = next(iter([*final, *known, *errors]))
    message = "; ".join(filter(None, (_told(error) for error in errors)))
    return OperationFailed(int(operation.get("httpErrorStatusCode") or 0), str(worst.get("code", "")), message)


def _told(error: Mapping[str, Any]) -> str:
    told = [str(error.get("message") or error.get("code") or "")]
    for detail in error.get("errorDetails") or ():
        localized = (detail.get("localizedMessage") or {}).get("message")
        others = ((detail.get("errorInfo") or {}).get("metadatas") or {}).get("zonesAvailable")
        told += [str(localized)] if localized else []
        told += [f"Zones that have some: {others}"] if others else []
    return " ".join(told)

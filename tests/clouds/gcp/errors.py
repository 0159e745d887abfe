"""The errors that the double answers with, in Compute Engine's words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}


class GceError(Exception):
    """An error of a call: its HTTP status, its reason, its text."""

    def __init__(
        self, status: int, reason: str, message: str, *, domain: str = "global", details: list[Any] | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.domain = domain
        self.details = details

    def body(self) -> bytes:
        """Return the error as Google's APIs write it."""
        error: dict[str, Any] = {
            "code": self.status,
            "message": self.message,
            "errors": [{"message": self.message, "domain": self.domain, "reason": self.reason}],
            "status": _STATUS.get(self.status, "UNKNOWN"),
        }
        if self.details:
            error["details"] = self.details
        return json.dumps({"error": error}, indent=1).encode()


class Interposed(GceError):
    """What something between the client and Google answers, such as a proxy or an ingress: a text, and no JSON."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, "", message)

    def body(self) -> bytes:
        """Return the text alone."""
        return self.message.encode()


@dataclass(frozen=True)
class Failure:
    """How an operation fails that was accepted: the entry of its error list, and the status it would have had."""

    code: str
    message: str
    status: int = 500
    text: str = "INTERNAL SERVER ERROR"
    details: tuple[Any, ...] = ()

    def view(self) -> dict[str, Any]:
        """Return the fields of an operation that tell of it."""
        entry: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details:
            entry["errorDetails"] = list(self.details)
        return {"error": {"errors": [entry]}, "httpErrorStatusCode": self.status, "httpErrorMessage": self.text}


def invalid(field: str, value: Any, why: str) -> GceError:
    """Return the error for a field with a wrong value."""
    return GceError(400, "invalid", f"Invalid value for field '{field}': '{value}'. {why}")


def required(field: str) -> GceError:
    """Return the error for a field that has to be there."""
    return GceError(400, "required", f"Required field '{field}' not specified")


def not_found(link: str) -> GceError:
    """Return the error for a resource that is not there (seen:googleapis/nodejs-compute#377)."""
    return GceError(404, "notFound", f"The resource '{link}' was not found")


def exists(link: str) -> GceError:
    """Return the error for a name that is taken (seen:fog/fog-google#467)."""
    return GceError(409, "alreadyExists", f"The resource '{link}' already exists")


def not_ready(link: str) -> GceError:
    """Return the error for a resource that another operation is busy with."""
    return GceError(400, "resourceNotReady", f"The resource '{link}' is not ready")


def in_use(link: str, user: str) -> GceError:
    """Return the error for a disk that somebody has (seen:hashicorp/terraform#23698)."""
    return GceError(
        400, "resourceInUseByAnotherResource", f"The disk resource '{link}' is already being used by '{user}'"
    )


def forbidden(permission: str, link: str) -> GceError:
    """Return the error for a missing right (seen:hashicorp/packer#12159)."""
    return GceError(403, "forbidden", f"Required '{permission}' permission for '{link}'")


def stale(what: str) -> GceError:
    """Return the error for a fingerprint that is not the current one (seen:googleapis/google-cloud-go#7802)."""
    return GceError(
        412, "conditionNotMet", f"{what} fingerprint either invalid or resource {what.lower()} have changed"
    )


def not_modelled(what: str) -> GceError:
    """Return the error for what Google can and the double cannot: loud, so that no test passes by accident."""
    return GceError(501, "notImplemented", f"{what} is not modelled by the double in tests/clouds/gcp: add it there")

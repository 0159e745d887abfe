"""The error tree of airflow_rankvol.

    RankVolError
    ├── ConfigError(ValueError)            the request is wrong; nothing was created
    ├── BackendError(backend, verb, resource)
    │   ├── RetryableError                 the same call may succeed later
    │   │   ├── Throttled                  the API asks us to slow down
    │   │   ├── NoCapacity                 the zone has no such machine or disk now
    │   │   ├── VolumeBusy                 still attached, detaching or mounted
    │   │   └── NotReady                   the resource is still coming up
    │   └── FinalError                     repeating the call cannot help
    │       ├── AuthDenied                 a right or credential is missing
    │       │   └── CredentialsRefused     nobody can sign in with the connection (any more)
    │       ├── QuotaExceeded              a quota or a full disk
    │       ├── VolumeConflict             a live node of another run holds the volume, or the name is taken
    │       └── NotOurs                    a destructive call on something without our tags
    ├── RankFailed(rank, exit_code, log_tail)
    ├── GatherFailed(exit_code, log_tail)
    ├── GatherIncomplete(missing)
    ├── LeakError(resources)               what could not be deleted
    └── DeadlineExceeded                   a node outlived its lifetime, or never booted

A message says what, where, found, expected, and the next step.
"""

from __future__ import annotations

from collections.abc import Sequence


class RankVolError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(RankVolError, ValueError):
    """The request cannot work as written; nothing was created for it."""


class BackendError(RankVolError):
    """A call to the cloud (or to the local machine standing in for one) failed.

    Args:
        message: what was found, what was expected, and the next step.
        backend: the backend's name, such as ``local``.
        verb: the backend verb that failed, such as ``create_volume``.
        resource: the name or id of the volume or node.
    """

    def __init__(self, message: str, *, backend: str = "", verb: str = "", resource: str = "") -> None:
        super().__init__(message)
        self.backend = backend
        self.verb = verb
        self.resource = resource

    def __str__(self) -> str:
        where = " ".join(part for part in (self.backend, self.verb, self.resource) if part)
        message = super().__str__()
        return f"{where}: {message}" if where else message


class RetryableError(BackendError):
    """The same call may succeed later."""


class Throttled(RetryableError):
    """The API asks for fewer calls."""


class NoCapacity(RetryableError):
    """The zone has no such machine or disk at the moment."""


class VolumeBusy(RetryableError):
    """The volume is attached, detaching or mounted."""


class NotReady(RetryableError):
    """The resource is still coming up."""


class FinalError(BackendError):
    """Repeating the call cannot help."""


class AuthDenied(FinalError):
    """A right or a credential is missing."""


class CredentialsRefused(AuthDenied):
    """The connection's credentials are missing, wrong or expired: no call works, whatever rights its identity has."""


class QuotaExceeded(FinalError):
    """A quota is used up, or a disk is full."""


class VolumeConflict(FinalError):
    """The volume is held by a live node of another run, or its name is taken by something else."""


class NotOurs(FinalError):
    """A destructive call met a resource that does not carry our tags; it was not touched."""


class RankFailed(RankVolError):
    """The command of one rank ended with an exit code other than 0, or its node was lost."""

    def __init__(self, message: str, *, rank: int, exit_code: int | None, log_tail: str = "") -> None:
        super().__init__(message)
        self.rank = rank
        self.exit_code = exit_code
        self.log_tail = log_tail


class GatherFailed(RankVolError):
    """The gather commands ended with an exit code other than 0, or the gather node was lost."""

    def __init__(self, message: str, *, exit_code: int | None, log_tail: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.log_tail = log_tail


class GatherIncomplete(RankVolError):
    """Some ranks have no completion record, so there is no whole result to gather."""

    def __init__(self, message: str, *, missing: Sequence[int]) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class LeakError(RankVolError):
    """Resources of ours could not be removed; the message names each of them."""

    def __init__(self, message: str, *, resources: Sequence[str]) -> None:
        super().__init__(message)
        self.resources = tuple(resources)


class DeadlineExceeded(RankVolError):
    """A node never booted, or outlived its lifetime; the node was removed and the volume kept."""

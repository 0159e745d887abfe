"""Making something once: by its name, which is unique in a zone, and by a requestId, which repeats an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_errors import OperationFailed, answered, code, of_operation
from airflow_rankvol.backends._gcp_memory import Memory, same
from airflow_rankvol.backends._gcp_view import Raw, id_of, our_tags
from airflow_rankvol.errors import BackendError, NotReady, VolumeConflict
from airflow_rankvol.records import Tags

#: What is too large to be remembered of what was made.
_LARGE = frozenset({"metadata"})


@dataclass(frozen=True, slots=True)
class Insertion:
    """What is to be made, and where.

    Args:
        path: of its kind in its zone, ``zones/ZONE/disks``.
        body: what the API gets.
        status: how it is described once its operation is done.
        token: the same in every try.
        verb: for errors.
    """

    path: str
    body: Mapping[str, Any]
    status: str
    token: str
    verb: str

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["name"])


def insert(gce: Gce, memory: Memory, wanted: Insertion, tags: Tags) -> Raw:
    """Make something and wait until it is there, or return what has that name; Google does the waiting.

    That a quota is used up or a zone has no room, only the operation tells. The same requestId is answered with the
    operation of the first such request, for days, whatever became of it: an operation that is over at once is one of
    before, and tells nothing of now.

    Args:
        tags: whose it has to be where the name is taken.

    Raises:
        VolumeConflict: the name is taken by somebody else.
        BackendError: why it could not be made.
    """
    operation: Raw = {}
    for _ in range(2):
        try:
            operation = gce.call(
                "POST", wanted.path, wanted.verb, wanted.name, body=wanted.body,
                requestId=memory.request_id(wanted.token),
            )  # fmt: skip
        except BackendError as exc:
            if code(exc) != "alreadyExists":
                raise
            return _existing(gce, wanted, tags, exc)
        if operation.get("status") != "DONE":
            return _awaited(gce, memory, wanted, dict(operation))
        found = None if of_operation(operation) else gce.find(f"{wanted.path}/{wanted.name}", wanted.verb, wanted.name)
        if found is not None:
            return _checked(found, wanted, tags)
        memory.spend(wanted.token)
    error = of_operation(operation)
    if error is not None:
        raise answered(error, wanted.verb, wanted.name, str(operation.get("operationType"))) from error
    raise _error(NotReady, wanted, "it was made, and is gone again; it is made anew")


def _awaited(gce: Gce, memory: Memory, wanted: Insertion, operation: dict[str, Any]) -> Raw:
    try:
        done = gce.wait(operation, wanted.verb, wanted.name)
    except BackendError as exc:
        # It is over: the same requestId would only repeat this answer. What was wrong with the asking tells nothing.
        if isinstance(exc.__cause__, OperationFailed):
            memory.spend(wanted.token)
        raise
    known = {"id": done.get("targetId"), "creationTimestamp": done.get("insertTime"), "status": wanted.status}
    asked = {name: value for name, value in wanted.body.items() if name not in _LARGE}
    return {**asked, **known, "zone": "/".join(wanted.path.split("/")[:2])}


def _existing(gce: Gce, wanted: Insertion, tags: Tags, refusal: BackendError) -> Raw:
    found = gce.find(f"{wanted.path}/{wanted.name}", wanted.verb, wanted.name)
    if found is None:  # gone a moment ago; or the boot disk of an instance that could not be had is still going
        text = f"something of that name was still there a moment ago; it is tried again ({refusal.args[0]})"
        raise _error(NotReady, wanted, text) from refusal
    return _checked(found, wanted, tags)


def _checked(found: Raw, wanted: Insertion, tags: Tags) -> Raw:
    if not same(found, tags):
        theirs = our_tags(found)
        whose = f"key {theirs.key!r} of owner {theirs.owner!r}" if theirs else "no tags of ours"
        raise _error(
            VolumeConflict, wanted,
            f"the name is taken by {id_of(found)} with {whose}; expected none, or key {tags.key!r}. Choose another "
            "name, or scope='global'",
        )  # fmt: skip
    if found.get("status") == "DELETING":
        text = "the volume of that name is being deleted; it is made again once that one is gone"
        raise _error(NotReady, wanted, text)
    return found


def _error(kind: type[BackendError], wanted: Insertion, text: str) -> BackendError:
    return kind(text, backend="gcp", verb=wanted.verb, resource=wanted.name)

"""Making something once: by its name, which is unique in a zone, and by a requestId, which repeats an answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_errors import OperationFailed, answered, code, of_operation
from airflow_rankvol.backends._gcp_memory import Memory, same
from airflow_rankvol.backends._gcp_removal import delete_disk
from airflow_rankvol.backends._gcp_view import ROOT_LABEL, Raw, id_of, our_tags
from airflow_rankvol.errors import BackendError, NotReady, VolumeConflict
from airflow_rankvol.records import Tags

#: What is too large to be remembered of what was made.
_LARGE = frozenset({"metadata"})
#: What a refusal says is taken: a node's boot disk, which has its name, as well as the node.
_TAKEN = re.compile(r"/zones/([a-z0-9-]+)/disks/([a-z0-9-]+)'")


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

    @property
    def request(self) -> str:
        """What the requestId stands for: the token with the body, for it may not be used with another one.

        A run that got a deleted one's id asks for the same name with other contents; that the name is unique keeps
        either from being made twice.
        """
        return f"{self.token}/{hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()}"


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
                requestId=memory.request_id(wanted.request),
            )  # fmt: skip
        except BackendError as exc:
            if code(exc) != "alreadyExists":
                raise
            return _existing((gce, memory), wanted, tags, exc)
        if operation.get("status") != "DONE":
            return _awaited(gce, memory, wanted, dict(operation))
        found = None if of_operation(operation) else gce.find(f"{wanted.path}/{wanted.name}", wanted.verb, wanted.name)
        if found is not None:
            return _checked(memory, found, wanted, tags)
        memory.spend(wanted.request)
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
            memory.spend(wanted.request)
        raise
    known = {"id": done.get("targetId"), "creationTimestamp": done.get("insertTime"), "status": wanted.status}
    asked = {name: value for name, value in wanted.body.items() if name not in _LARGE}
    return {**asked, **known, "zone": "/".join(wanted.path.split("/")[:2])}


def _existing(where: tuple[Gce, Memory], wanted: Insertion, tags: Tags, refusal: BackendError) -> Raw:
    gce, memory = where
    found = gce.find(f"{wanted.path}/{wanted.name}", wanted.verb, wanted.name)
    if found is None:  # gone a moment ago, or only its boot disk is there
        _check_boot_disk(where, wanted, tags, refusal)
        text = f"something of that name was still there a moment ago; it is tried again ({refusal.args[0]})"
        raise _error(NotReady, wanted, text) from refusal
    return _checked(memory, found, wanted, tags)


def _check_boot_disk(where: tuple[Gce, Memory], wanted: Insertion, tags: Tags, refusal: BackendError) -> None:
    """Say whose disk has the name of a node's boot disk; one that is left of this very node is removed.

    Raises:
        VolumeConflict: it is somebody else's.
    """
    gce, memory = where
    taken = _TAKEN.search(str(refusal.args[0]))
    if taken is None or wanted.path.endswith("/disks"):
        return
    path = f"zones/{taken[1]}/disks/{taken[2]}"
    disk = gce.find(path, wanted.verb, wanted.name)
    if disk is None or disk.get("status") == "DELETING" or disk.get("users"):
        return  # it is going, or another call has just launched the node
    if (disk.get("labels") or {}).get(ROOT_LABEL) == wanted.name and same(disk, tags):
        delete_disk(gce, memory, disk, wanted.verb)
        return
    theirs = our_tags(disk)
    whose = f"key {theirs.key!r} of owner {theirs.owner!r}" if theirs else "no tags of ours"
    raise _error(
        VolumeConflict, wanted,
        f"the name of its boot disk is taken by disk {id_of(disk)} with {whose}; it was not touched. Look whose it is, "
        f"remove it (gcloud compute disks delete {disk['name']} --zone {taken[1]}) or keep its content in a snapshot "
        "before, then clear this task",
    ) from refusal  # fmt: skip


def _checked(memory: Memory, found: Raw, wanted: Insertion, tags: Tags) -> Raw:
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
    if memory.is_going(found):
        raise _error(NotReady, wanted, "the node of that name is being deleted; it is launched again once it is gone")
    return found


def _error(kind: type[BackendError], wanted: Insertion, text: str) -> BackendError:
    return kind(text, backend="gcp", verb=wanted.verb, resource=wanted.name)

"""The Backend protocol: about ten dumb verbs, the same for every cloud.

No verb sleeps, loops, retries or invents names. What is missing reads as absent and deletes as success.
Retry, tokens and policy live once, in the engine. Errors are those of ``airflow_rankvol.errors``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from airflow_rankvol.errors import NotOurs, VolumeConflict
from airflow_rankvol.records import Attachment, Group, Node, Observation, Tags, Volume, utc_now
from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan

#: Reasons of a node's end (``Node.reason``) that tell no other cause than its lifetime, where that is over.
BY_ITSELF, BY_A_CALL = "it shut itself down", "it was ended by a call"


class Clock:
    """The wall clock; tests hand in one of their own."""

    def now(self) -> datetime:
        """Return the current time, aware and in UTC."""
        return utc_now()

    def sleep(self, seconds: float) -> None:
        """Block for that many seconds."""
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Selector:
    """Which of an owner's resources ``list_owned`` returns; None means any."""

    owner: str
    dag: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """What a resource must carry before a destructive verb touches it.

    Either our owner and key, or, for an adopted volume that the DAG says may go, its exact name and no other owner's
    tags. That it is the very one that was adopted, the engine has seen: the verb is given its id.
    """

    owner: str
    key: str
    adopted_name: str = ""

    def check(self, *, tags: Tags | None, name: str, backend: str, verb: str) -> None:
        """Raise NotOurs unless the resource carries our tags (or is the adopted volume that was named)."""
        if tags is not None and tags.owner == self.owner and tags.key == self.key:
            return
        if self.adopted_name and self.adopted_name == name and (tags is None or tags.owner == self.owner):
            return
        found = f"owner {tags.owner!r}, key {tags.key!r}" if tags else "no tags of ours"
        raise NotOurs(
            f"refused: found {found}, expected owner {self.owner!r} and key {self.key!r}. It was not touched; "
            "if it is yours, remove it by hand",
            backend=backend,
            verb=verb,
            resource=name,
        )


def check_held(found: str, held_by: str | None, tags: Mapping[str, str], backend: str, name: str) -> None:
    """Raise VolumeConflict when another run was handed a volume since it was looked at.

    Args:
        found: the volume's ``rankvol:used_by``.
        held_by: what it was, or None where that does not matter.
        tags: what is to be set; what an earlier try has set already is no conflict.
    """
    if held_by is None or found in (held_by, tags.get("rankvol:used_by")):
        return
    raise VolumeConflict(
        "another run was handed it at this very moment; it was not touched. Clear create_volumes once that one is over",
        backend=backend,
        verb="tag_volumes",
        resource=name,
    )


def check_there(there: bool, held_by: str | None, backend: str, name: str) -> None:
    """Raise VolumeConflict when a volume that is claimed is gone, or on its way: a run would go on without it.

    Args:
        held_by: None where it is not claimed, but only tagged.
    """
    if held_by is not None and not there:
        raise is_gone(backend, name)


def is_gone(backend: str, name: str) -> VolumeConflict:
    """Return the error of a volume that is gone before a run was handed it."""
    return VolumeConflict(
        "it is gone, or being deleted: somebody has removed it at this very moment. Clear create_volumes",
        backend=backend,
        verb="tag_volumes",
        resource=name,
    )


@dataclass(frozen=True, slots=True)
class VolumeRequest:
    """A volume to create. ``token`` makes the call idempotent where the cloud takes one.

    Args:
        earlier: tokens of the tries before, oldest first: what one of these has made, and no listing shows yet, is that
            volume. One that stands for a volume that is gone is used up.
    """

    name: str
    zone: str | None
    template: VolumeTemplate
    tags: Tags
    token: str
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """A node to launch. The name is unique per group, role, rank and attempt.

    ``script`` is the rendered bootstrap. ``lifetime_s`` is the cap after which the backend itself ends the
    node where it can (the volumes stay).
    """

    name: str
    zone: str | None
    template: NodeTemplate
    tags: Tags
    attachments: tuple[Attachment, ...]
    script: str
    lifetime_s: float
    token: str


@dataclass(frozen=True, slots=True)
class LogPart:
    """Lines of what a node printed.

    Args:
        next: the position to go on from.
        more: whether there is more to be had at once.
    """

    lines: tuple[str, ...] = ()
    next: int = 0
    more: bool = False


class Stager(Protocol):
    """What a backend has besides its verbs where a node's start script is small, so that files travel apart from it."""

    def check_script(self, script: str) -> None:
        """Raise ConfigError when a start script is larger than the backend takes; makes no call."""

    def stage(self, place: str, key: str, content: bytes, expires_s: float) -> str:
        """Keep a content where nodes can fetch it, and return the URL; what is there already is not stored again.

        Args:
            place: the job's ``staging``.
            key: its name below that place, which stands for its content.
            expires_s: for how long the URL has to hold, at least.
        """


@runtime_checkable
class Backend(Protocol):
    """A place where volumes and nodes live.

    Args:
        concurrency: how many calls the engine may make at once.
        listing_lag_s: for how long an observation may lack what exists, in seconds.
        log_interval_s: how often the log of one running node may be read, in seconds; None where it can be had only
            when the node has ended.
    """

    name: str
    platform: str
    supports_rendezvous: bool
    concurrency: int
    listing_lag_s: float
    log_interval_s: float | None
    clock: Clock
    poll_interval_s: float

    @property
    def stager(self) -> Stager | None:
        """How files travel that are too large for a start script; None where it takes any size."""

    def default_owner(self) -> str | None:
        """Return the owner to use when none is configured; None where one must be configured."""

    def check(self, plan: Plan) -> None:
        """Refuse early what cannot work (quota, zone, limits, rights). Creates nothing."""

    def max_volumes(self, template: NodeTemplate) -> int | None:
        """Return how many volumes a node can hold; None for any number."""

    def choose_zone(self, plan: Plan) -> str | None:
        """Return the one zone for those ranks of a plan whose job names none; None where there are no zones.

        The same for every process that asks, as far as the cloud offers the same.
        """

    def observe(self, group: Group) -> Observation:
        """Return every volume and node of the group, and the volumes of ``group.names``, in one batched read.

        A node that has ended stays listed, with its report, until ``delete_node``; one that was deleted is not
        listed any more, or only as ``gone``. The engine reads late ranks' results and a gang's fate from that.
        """

    def list_owned(self, selector: Selector) -> Observation:
        """Return every volume and node that carries the owner's tags."""

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create a volume with all its tags in the call; an existing one of the same name and key is returned.

        A volume of the same name that is not of this key is VolumeConflict.
        """

    def delete_volume(self, volume_id: str, guard: Guard) -> None:
        """Start deleting a volume; absent is success, attached is VolumeBusy, foreign is NotOurs."""

    def tag_volumes(
        self, volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None
    ) -> frozenset[str]:
        """Set ``rankvol:…`` tags on volumes of ours, all in one call; foreign is NotOurs, absent is no error.

        Args:
            held_by: tag only while each of them is there and ``rankvol:used_by`` is this on it, else VolumeConflict and
                none is tagged. At once where the backend can do that, else by a look right before and one right after.

        Returns:
            The ids of those that are gone. What a look still shows is not, whatever the call itself was answered: that
            is a retryable error.
        """

    def create_node(self, request: NodeRequest) -> Node:
        """Launch a node; the one of that name is returned when it exists. May attach in the same call."""

    def delete_node(self, node_id: str, guard: Guard) -> None:
        """Start ending a node and everything that runs on it; absent is success. Never touches its volumes."""

    def attach(self, volume_id: str, node_id: str) -> None:
        """Attach a volume to a running node; already attached there is success, elsewhere is VolumeBusy."""

    def tell_nodes(self, node_ids: Sequence[str], message: Mapping[str, str]) -> None:
        """Hand variables to running nodes that wait for their peers (rendezvous)."""

    def boot_trouble(self, node_id: str, late_since: datetime) -> str:
        """Say why a node that runs has not come up; empty when it has, or where nobody can tell more than its state.

        Asked once for each node, and only after its ``boot_timeout``: what one answer tells of several is kept.

        Args:
            late_since: when that was over; no older knowledge counts.
        """

    def read_report(self, node_id: str) -> str | None:
        """Return the JSON report that the node's bootstrap wrote last; None when there is none."""

    def read_log(self, node_id: str, position: int) -> LogPart:
        """Return what a node printed from a position on: whole lines, and the rest of one when it has ended.

        Asked for people, after ``read_report`` where the node has ended; what cannot be had (any more) is left out.

        Args:
            position: 0, or ``next`` of what was read last.
        """

    def holds_result(self, volume_id: str, key: str) -> bool | None:
        """Say whether a completion record, old ones included, lies on a volume; None where nobody can tell.

        A volume in use by a live node may be VolumeBusy.

        Args:
            key: the key of the run's group, whose records these are.
        """

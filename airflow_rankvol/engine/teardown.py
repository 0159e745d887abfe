"""The end of a group: nodes first, then the volumes by policy, each deletion verified."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from airflow_rankvol.backends.base import Backend, Guard
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.marks import give_back, is_collected, mark_kept, never_handed_out, outlives_runs, take_each
from airflow_rankvol.engine.removal import NODES_TIMEOUT_S, VOLUMES_TIMEOUT_S, delete_nodes, delete_volumes
from airflow_rankvol.errors import LeakError
from airflow_rankvol.plan import Plan, PlannedVolume
from airflow_rankvol.records import Group, Node, Observation, Slot, Volume, to_iso
from airflow_rankvol.spec.templates import ReclaimPolicy, Scope


@dataclass(frozen=True, slots=True)
class Kept:
    """A volume that stays, and why."""

    name: str
    id: str
    rank: int
    reason: str
    expiry: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return the plain form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TeardownReport:
    """What went and what stays."""

    deleted: tuple[str, ...]
    kept: tuple[Kept, ...]
    nodes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the plain dict that is the teardown task's return value."""
        return {
            "deleted": list(self.deleted),
            "kept": [item.to_dict() for item in self.kept],
            "nodes": list(self.nodes),
        }


def teardown(
    backend: Backend,
    group: Group,
    plan: Plan | None,
    *,
    collected: Collection[int] | None = None,
    slots: Sequence[Slot] | None = None,
    sure: bool = True,
) -> TeardownReport:
    """End every node of the group's run and remove its volumes by their policy.

    Args:
        plan: the job's plan, whose policies win over those written in the tags at creation; None when there is none.
        collected: ranks whose results gather has stored; the tags alone count when it is None. Adopted volumes carry no
            such tag, so they stay then.
        slots: what ``create_volumes`` returned, which alone tells what this run has adopted; None where that is not
            known, and none of it goes.
        sure: whether ``collected`` could be asked; else the tags keep their word for the next try.

    Raises:
        LeakError: naming every node and volume that should have gone and is still there.
    """
    begun = backend.clock.now()
    ending = _Ending(backend, group, plan, collected, slots, sure)
    seen = patiently(backend, backend.observe, group)
    report = ending.once(seen)
    if _all_collected(plan, collected) and not ending.retried_since(
        begun - timedelta(seconds=backend.listing_lag_s), seen
    ):
        return report  # every node was seen to its end
    # A task that was killed may have made something a moment ago that no listing has shown until now.
    backend.clock.sleep(max(0.0, backend.listing_lag_s - (backend.clock.now() - begun).total_seconds()))
    late = patiently(backend, backend.observe, group)
    if not ending.is_news(late):
        return report
    again = ending.once(late)
    return TeardownReport((*report.deleted, *again.deleted), again.kept, (*report.nodes, *again.nodes))


def _all_collected(plan: Plan | None, collected: Collection[int] | None) -> bool:
    return plan is not None and {slot.rank for slot in plan.slots} <= set(collected or ())


@dataclass(slots=True)
class _Ending:
    """The removal of what one observation shows, as often as there is something new."""

    backend: Backend
    group: Group
    plan: Plan | None
    collected: Collection[int] | None
    slots: Sequence[Slot] | None
    sure: bool
    _known: set[str] = field(default_factory=set)

    def is_news(self, observation: Observation) -> bool:
        """Say whether there is something of the group that was not dealt with."""
        seen = {node.id for node in self._own(observation)} | {volume.id for volume in observation.volumes}
        return not seen <= self._known

    def retried_since(self, moment: datetime, observation: Observation) -> bool:
        """Say whether a later try's node was launched since then: that of one killed before may be unlisted yet."""
        return any(node.created_at > moment for node in self._own(observation) if node.tags and node.tags.attempt > 1)

    def once(self, observation: Observation) -> TeardownReport:
        """Remove what is to go.

        Raises:
            LeakError: naming what should have gone and is still there.
        """
        backend, group = self.backend, self.group
        problems: dict[str, str] = {}
        wanted = {volume.name: volume for slot in self.plan.slots for volume in slot.volumes} if self.plan else {}
        own = self._own(observation)
        mark_kept(backend, group, observation, wanted, self.collected, problems, sure=self.sure)
        nodes = delete_nodes(backend, own, lambda: backend.observe(group), problems, timeout_s=NODES_TIMEOUT_S)
        observation = patiently(backend, backend.observe, group)
        self._known |= {node.id for node in own} | {volume.id for volume in observation.volumes}
        observation, lost = self._take_unused(observation, problems)
        doomed, kept = self._sorted_out(observation, wanted, {node.id for node in own})
        doomed = [(volume, guard) for volume, guard in doomed if volume.id not in lost]
        stays = {item.id for item in kept} if self.sure else set()  # the next try has to have them, too
        give_back(backend, group, [volume for volume in observation.volumes if volume.id in stays], problems)
        deleted = delete_volumes(backend, doomed, lambda: backend.observe(group), problems, timeout_s=VOLUMES_TIMEOUT_S)
        if problems:
            raise leak(problems)
        return TeardownReport(deleted=tuple(deleted), kept=tuple(kept), nodes=tuple(nodes))

    def _take_unused(self, observation: Observation, problems: dict[str, str]) -> tuple[Observation, set[str]]:
        """Take what this run has made and nobody was handed, so that no other run gets it while it goes.

        Returns:
            What there is now, and the ids of what another run was quicker to get, or could not be taken.
        """
        unused = [volume for volume in observation.volumes if _is_unused(self.group, volume)]
        if not unused:
            return observation, set()
        taken, _ = take_each(self.backend, self.group, unused, problems)
        # One may have been handed out, used and given back since it was looked at.
        return patiently(self.backend, self.backend.observe, self.group), {volume.id for volume in unused} - taken

    def _own(self, observation: Observation) -> list[Node]:
        return [node for node in observation.nodes if node.tags and node.tags.key == self.group.key]

    def _sorted_out(
        self, observation: Observation, wanted: Mapping[str, PlannedVolume], own: Collection[str]
    ) -> tuple[list[tuple[Volume, Guard]], list[Kept]]:
        """Return the volumes that go, and those that stay."""
        doomed: list[tuple[Volume, Guard]] = []
        kept: list[Kept] = []
        for volume in observation.volumes:
            if _is_of_others(self.group, volume):
                continue
            verdict = _other_user(self.group, volume, own) or _verdict(
                self.group, volume, wanted.get(volume.name), self.collected, self.slots
            )
            if isinstance(verdict, Guard):
                doomed.append((volume, verdict))
            elif verdict is not None:
                kept.append(verdict)
        return doomed, kept


def leak(problems: Mapping[str, str]) -> LeakError:
    """Return the error that names what is still there and why."""
    lines = "; ".join(f"{name}: {why}" for name, why in problems.items())
    return LeakError(
        f"could not remove {len(problems)} of the group's resources: {lines}. They still cost money: clear this "
        "task to try again, or run `rankvol reap`",
        resources=tuple(problems),
    )


def _verdict(
    group: Group,
    volume: Volume,
    wanted: PlannedVolume | None,
    collected: Collection[int] | None,
    slots: Sequence[Slot] | None,
) -> Guard | Kept | None:
    """Say what becomes of one volume: a guard when it goes, a reason when it stays, None when it is not ours."""
    tags = volume.tags
    owned = tags is not None and tags.owner == group.owner and tags.key in group.keys
    if tags is None or not owned or (tags.key == group.global_key and not tags.made_by(group)):
        return _adopted_verdict(group, volume, wanted, collected, slots)
    policy = wanted.template.effective_reclaim if wanted else ReclaimPolicy(tags.reclaim)
    guard = Guard(owner=group.owner, key=tags.key)

    def kept(reason: str) -> Kept:
        return Kept(volume.name, volume.id, tags.rank, reason, tags.expiry)

    # What no rank ever got holds nothing; kept, it would be in the way of later runs, which may not format it.
    if policy is ReclaimPolicy.DELETE_ALWAYS or (never_handed_out(tags) and tags.made_by(group)):
        return guard
    if policy is ReclaimPolicy.RETAIN:
        return kept("reclaim policy retain")
    if policy is ReclaimPolicy.SNAPSHOT:
        return kept("reclaim policy snapshot: this backend takes no snapshots, and nothing goes without one")
    if is_collected(tags, group, collected):
        return guard
    return kept("its results were not collected")


def _is_unused(group: Group, volume: Volume) -> bool:
    """Say whether a volume that this run has made and others may want was given to nobody."""
    tags = volume.tags
    if tags is None or not outlives_runs(volume) or not never_handed_out(tags):
        return False
    return tags.made_by(group) and tags.free_for(group)


def _is_of_others(group: Group, volume: Volume) -> bool:
    """Say whether a volume is none of this run's affair: in global scope, a look shows those of all the owner's DAGs.

    What this run has made or was handed stays its own, also where the job names it no more.
    """
    tags = volume.tags
    if tags is None or (tags.owner, tags.key) != (group.owner, group.global_key):
        return False
    return not (volume.name in group.names or tags.made_by(group) or tags.used_by == group.key)


def _other_user(group: Group, volume: Volume, own: Collection[str]) -> Kept | None:
    """Say that a volume which outlives runs is in use by another run; neither is touched then."""
    tags = volume.tags
    if not tags or tags.owner != group.owner or tags.scope == Scope.RUN:
        return None

    def kept(user: str) -> Kept:
        return Kept(volume.name, volume.id, tags.rank, f"in use by {user}")

    if volume.attached_to and volume.attached_to not in own:
        return kept(f"{volume.attached_to}, a node of another run")
    ours = tags.used_by == group.key or (never_handed_out(tags) and tags.made_by(group) and tags.free_for(group))
    if tags.key not in group.keys or ours:
        return None
    last = (
        f"handed out to run {tags.used_run} of DAG {tags.used_dag} last"
        if tags.used_by
        else "not handed out to this run"
    )
    return Kept(volume.name, volume.id, tags.rank, last)


def _adopted_verdict(
    group: Group,
    volume: Volume,
    wanted: PlannedVolume | None,
    collected: Collection[int] | None,
    slots: Sequence[Slot] | None,
) -> Guard | Kept | None:
    """Adopted volumes go only when the DAG says so, only the very ones, and not before their results are safe."""
    if wanted is None or wanted.scope is not Scope.GLOBAL or (volume.tags and volume.tags.owner != group.owner):
        return None  # another owner's was never adopted
    template = wanted.template

    def kept(reason: str) -> Kept:
        return Kept(volume.name, volume.id, wanted.rank, reason)

    if not template.delete_adopted:
        return kept("adopted, not made by this run")
    if template.effective_reclaim is ReclaimPolicy.SNAPSHOT:
        return kept("adopted; reclaim policy snapshot, and this backend takes no snapshots")
    if other := _not_the_adopted(volume, slots):
        return kept(other)
    if template.effective_reclaim is not ReclaimPolicy.DELETE_ALWAYS and wanted.rank not in (collected or ()):
        return kept("adopted; its results were not collected")
    return Guard(owner=group.owner, key=group.key, adopted_name=wanted.name)


def _not_the_adopted(volume: Volume, slots: Sequence[Slot] | None) -> str:
    """Say why a volume is not for sure the one that this run has adopted; empty when it is."""
    if slots is None:
        return (
            "nothing tells which volume this run has adopted, and by its name alone none goes. DeleteRankVolumes gets "
            "that from the slots of CreateRankVolumes"
        )
    adopted = [item for slot in slots for item in slot.volumes if item.adopted and item.name == volume.name]
    if any((item.id, item.created_at) == (volume.id, to_iso(volume.created_at)) for item in adopted):
        return ""
    if not adopted:
        return "it has the name, but this run has not adopted it"
    if not adopted[0].created_at:
        return (
            f"it has the name, but whether it is the one that this run has adopted ({adopted[0].id}) cannot be told: "
            "an earlier version did not note when that was made. If it is, delete it by hand"
        )
    made = f"made at {adopted[0].created_at}; this one was made at {to_iso(volume.created_at)}"
    return f"it has the name, but this run has adopted {adopted[0].id}, {made}"

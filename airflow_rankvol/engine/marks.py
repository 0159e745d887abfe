"""What create and the teardown write on volumes, for other runs and for the reaper to read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta

from airflow_rankvol.backends.base import Backend, is_gone
from airflow_rankvol.engine.calls import in_parallel, patiently
from airflow_rankvol.errors import BackendError, NotReady, VolumeConflict
from airflow_rankvol.plan import Plan, PlannedVolume
from airflow_rankvol.records import Group, Observation, Tags, Volume, to_iso
from airflow_rankvol.spec.templates import ReclaimPolicy, Scope, VolumeTemplate

_NO_PLAN_EXPIRY = timedelta(hours=24)


def end_tags(backend: Backend, scope: Scope, template: VolumeTemplate) -> dict[str, str]:
    """Return what a volume carries about its end: the policy, and the expiry from now on."""
    reclaim = template.effective_reclaim
    # What is kept on purpose has no expiry: neither the reaper nor a later run may take it.
    expires = scope is Scope.RUN and reclaim is not ReclaimPolicy.RETAIN
    expiry = to_iso(backend.clock.now() + template.expiry) if expires else ""
    return {"rankvol:reclaim": str(reclaim), "rankvol:expiry": expiry}


def check_claims(backend: Backend, group: Group, volumes: Sequence[Volume], lives: Callable[[str, str], bool]) -> None:
    """Raise VolumeConflict where another run has a volume until its teardown gives it back, or until it ends."""
    claims = {
        (v.tags.used_dag, v.tags.used_run): v
        for v in volumes
        if v.tags and v.tags.owner == group.owner and not v.tags.free_for(group)
    }
    for (dag, run), volume in claims.items():
        if (dag, run) == (group.dag, group.run):
            raise NotReady(
                "another group of this run has it until its delete_volumes has ended",
                backend=backend.name,
                verb="create_volume",
                resource=volume.label,
            )
        if volume.tags and not volume.tags.user_is_known:
            raise VolumeConflict(
                "a run has it whose id cannot be read from its tags, because it is too long for them or somebody has "
                "changed them; that run may live. If it does not, empty the tags rankvol:used_dag and "
                "rankvol:used_run of the volume",
                backend=backend.name,
                verb="create_volume",
                resource=volume.label,
            )
        if lives(dag, run):
            raise VolumeConflict(
                f"it is in use by run {run} of DAG {dag}, which lives. Wait for its end (max_active_runs=1 does), or "
                "give each run volumes of its own with scope='run'",
                backend=backend.name,
                verb="create_volume",
                resource=volume.label,
            )


def claim(backend: Backend, group: Group, found: Mapping[str, tuple[Volume, bool]], ids: Sequence[str]) -> None:
    """Take the volumes that outlive runs, all of them, and only from the user that was looked at.

    Two runs may come at the same moment. Who loses one has changed nothing but whose the others are.

    Args:
        found: every volume of the plan by name, with whether it is adopted.
        ids: those that are not adopted.

    Raises:
        VolumeConflict: another run was quicker with one of them, or it is gone.
    """
    for held_by, same in _shared(_handed(group, found, ids)).items():
        patiently(backend, backend.tag_volumes, same, _user(group), held_by=held_by)


def hand_out(
    backend: Backend, group: Group, found: Mapping[str, tuple[Volume, bool]], ids: Sequence[str], generation: int
) -> None:
    """Mark claimed volumes as given to this run's ranks, and as not collected: what comes now is new.

    Args:
        found, ids: as ``claim`` has them.

    Raises:
        VolumeConflict: one is gone: nothing would tell the teardown that a rank was given it. Or one that outlives runs
            is this run's no more.
    """
    handed = _handed(group, found, ids)
    marks = {"rankvol:attempt": str(generation), "rankvol:collected": "", **_user(group)}
    # Once more from the user before: EC2 may not show yet whose it is now.
    for held_by, same in _shared(handed).items():
        patiently(backend, backend.tag_volumes, same, marks, held_by=held_by)
    # That costs two looks on EC2. What is this run's alone nobody else takes.
    own = {volume.id: volume for volume in handed if not outlives_runs(volume)}
    gone = patiently(backend, backend.tag_volumes, [*own], marks) if own else ()
    if gone:
        raise is_gone(backend.name, own[min(gone)].label)


def _handed(group: Group, found: Mapping[str, tuple[Volume, bool]], ids: Sequence[str]) -> list[Volume]:
    # Adopted ones that another run of this owner made carry our tags, and can be marked, too.
    return [v for v, adopted in found.values() if v.id in ids or (adopted and _is_owners(group, v.tags))]


def _shared(volumes: Sequence[Volume]) -> dict[str, list[str]]:
    """Return the ids of those that outlive runs, by whose they were when they were looked at."""
    found: dict[str, list[str]] = {}
    for volume in volumes:
        if outlives_runs(volume):
            found.setdefault(_used_by(volume), []).append(volume.id)
    return dict(sorted(found.items()))


def _is_owners(group: Group, tags: Tags | None) -> bool:
    return tags is not None and (tags.owner, tags.key) == (group.owner, group.global_key)


def take_each(
    backend: Backend, group: Group, volumes: Sequence[Volume], problems: dict[str, str]
) -> tuple[set[str], set[str]]:
    """Take volumes that outlive runs, each by itself where not all can be had, before they are deleted.

    So no run is handed one while it goes, and none goes that a run was handed since it was looked at.

    Args:
        problems: what could not be taken for another reason than that it is gone, or somebody else's, by label.

    Returns:
        The ids of those that were taken, and of those that are gone or somebody else's.
    """
    taken, lost = set[str](), set[str]()

    def attempt(some: Sequence[Volume]) -> None:
        ids = {volume.id for volume in some}
        try:
            patiently(backend, backend.tag_volumes, sorted(ids), _user(group), held_by=_used_by(some[0]))
            taken.update(ids)
        except BackendError as exc:
            if len(some) > 1:
                in_parallel(backend, [[volume] for volume in some], attempt)
            elif isinstance(exc, VolumeConflict):
                lost.update(ids)
            else:
                problems[some[0].label] = str(exc)

    for held_by in sorted(set(map(_used_by, volumes))):
        attempt([volume for volume in volumes if _used_by(volume) == held_by])
    return taken, lost


def _used_by(volume: Volume) -> str:
    return volume.tags.used_by if volume.tags else ""


def check_usable(backend: Backend, group: Group, volume: Volume) -> None:
    """Refuse what another run has made and no rank was ever given: it is blank, and only that run may format it.

    Raises:
        VolumeConflict: it is such a one; nothing of it was touched.
    """
    tags = volume.tags
    if tags is None or tags.made_by(group) or not (outlives_runs(volume) and volume.blank and never_handed_out(tags)):
        return
    raise VolumeConflict(
        f"run {tags.run} of DAG {tags.dag} has made it and no rank was given it yet, so it is blank, and only that run "
        "may format it. It was not touched. If that run goes on, clear create_volumes when it has ended; else remove "
        "the volume with `rankvol reap --yes` first",
        backend=backend.name,
        verb="create_volume",
        resource=volume.label,
    )


def outlives_runs(volume: Volume) -> bool:
    """Say whether several runs may want a volume of ours."""
    return volume.tags is not None and volume.tags.scope != Scope.RUN


def _user(group: Group) -> dict[str, str]:
    return {"rankvol:used_by": group.key, "rankvol:used_dag": group.dag, "rankvol:used_run": group.run}


def renew(backend: Backend, plan: Plan, found: Mapping[str, tuple[Volume, bool]]) -> None:
    """Let volumes that were there carry what the job says of their end now: the reaper reads only that."""
    renewed: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for wanted in plan.volumes():
        if wanted.name not in found:
            continue
        volume, adopted = found[wanted.name]
        now = end_tags(backend, wanted.scope, wanted.template)
        if not adopted and volume.tags:
            renewed.setdefault(tuple(now.items()), []).append(volume.id)
    for tags, ids in renewed.items():
        patiently(backend, backend.tag_volumes, ids, dict(tags))


def mark_kept(
    backend: Backend,
    group: Group,
    observation: Observation,
    wanted: Mapping[str, PlannedVolume],
    collected: Collection[int] | None,
    problems: dict[str, str],
    *,
    sure: bool = True,
) -> None:
    """Tell the reaper what stays until when, before anything goes: the teardown may not come to its end.

    What is kept gets its whole expiry from now on, a long run must not have used it up, and the policy that the job has
    now. What gather has tagged without storing its result is not collected, whatever the tag says.

    Args:
        wanted: the plan's volumes by name.
        collected: ranks whose results gather has stored; None where only the tags tell.
        problems: what could not be marked is added, by name.
        sure: whether ``collected`` is known; else what the tags say of it stays, for the next try.
    """
    marks: dict[tuple[tuple[str, str], ...], list[Volume]] = {}
    for volume in observation.volumes:
        if _stays(volume, group, wanted, collected):
            tags = _kept_tags(backend, volume, wanted)
            if not sure:
                del tags["rankvol:collected"]
            marks.setdefault(tuple(tags.items()), []).append(volume)
    for items, volumes in marks.items():
        try:
            patiently(backend, backend.tag_volumes, [volume.id for volume in volumes], dict(items))
        except BackendError as exc:
            problems |= {volume.label: f"it could not be marked as kept: {exc}" for volume in volumes}


def give_back(backend: Backend, group: Group, kept: Sequence[Volume], problems: dict[str, str]) -> None:
    """Let other runs have the volumes that outlive this one."""
    mine = [v for v in kept if v.tags and v.tags.scope != Scope.RUN and v.tags.used_by == group.key]
    if mine:
        try:
            free = {"rankvol:used_by": "", "rankvol:used_dag": "", "rankvol:used_run": ""}
            patiently(backend, backend.tag_volumes, [volume.id for volume in mine], free)
        except BackendError as exc:
            problems |= {volume.label: f"kept, but it could not be given back to other runs: {exc}" for volume in mine}


def never_handed_out(tags: Tags) -> bool:
    """Say whether a volume's creation was cut short before any rank could use it; see ``provision``."""
    return tags.attempt == 0


def is_collected(tags: Tags, group: Group, collected: Collection[int] | None) -> bool:
    """Say whether this run's gather has a volume's results, by its tag and, where that is known, by what it stored."""
    return tags.collected == group.key and (collected is None or tags.rank in collected)


def _stays(
    volume: Volume, group: Group, wanted: Mapping[str, PlannedVolume], collected: Collection[int] | None
) -> bool:
    tags = volume.tags
    if tags is None or (tags.owner, tags.key) != (group.owner, group.key) or never_handed_out(tags):
        return False
    planned = wanted.get(volume.name)
    policy = planned.template.effective_reclaim if planned else ReclaimPolicy(tags.reclaim)
    on_purpose = policy in (ReclaimPolicy.RETAIN, ReclaimPolicy.SNAPSHOT)
    return policy is not ReclaimPolicy.DELETE_ALWAYS and (on_purpose or not is_collected(tags, group, collected))


def _kept_tags(backend: Backend, volume: Volume, wanted: Mapping[str, PlannedVolume]) -> dict[str, str]:
    assert volume.tags is not None  # noqa: S101 - _stays() says so
    now = backend.clock.now()
    mark = {"rankvol:kept": to_iso(now), "rankvol:collected": ""}
    planned = wanted.get(volume.name)
    if planned:
        return {**mark, **end_tags(backend, planned.scope, planned.template)}
    return {**mark, "rankvol:expiry": to_iso(now + _NO_PLAN_EXPIRY) if volume.tags.expiry else ""}

"""Start scripts before anything is created: whether they are small enough, and which files have to be staged for that.

Where a backend takes scripts of any size, there is nothing to do.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_rankvol.backends.base import Backend, Stager
from airflow_rankvol.engine.calls import in_parallel, patiently
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.work import Work, group_of
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.plan import Plan, PlannedSlot
from airflow_rankvol.records import Observation, Role, Slot, SlotVolume, Volume, VolumeState

# A presigned URL of temporary credentials has a token of about as many characters, the same in all URLs.
_TOKEN_CHARACTERS = 1500
# What a launch may need more than its rehearsal, whose ids, numbers and attempt are others and compress otherwise.
# Up to 24 bytes were seen with 128 volumes: so many characters of noise are 48 bytes compressed.
_SLACK_CHARACTERS = 64
# No zone has a longer name; which one a volume gets is only known when it is created.
_ZONE = "northamerica-northeast1-a"


@dataclass(frozen=True, slots=True)
class _Pretence:
    """Stages nothing, but remembers what was to be; its URLs are as long as real ones, its scripts a little longer."""

    stager: Stager
    slack: int
    wanted: dict[str, bytes] = field(default_factory=dict)

    def check_script(self, script: str) -> None:
        self.stager.check_script(f"{script}# {_noise('slack', self.slack)}\n")

    def stage(self, place: str, key: str, content: bytes, expires_s: float) -> str:  # noqa: ARG002 - of the protocol
        self.wanted[key] = content
        query = f"Token={_noise('token', _TOKEN_CHARACTERS)}&{_noise(key, 200)}"
        return f"https://storage.example.org/{place.partition('://')[2]}/{key}?{query}"


def check_scripts(backend: Backend, plan: Plan, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Check that the scripts of a job's nodes will fit; return what has to be staged for that, by its key.

    Raises:
        ConfigError: a node's script is too large for the backend.
    """
    if backend.stager is None:
        return {}
    # Which ranks gather will leave out nobody knows yet: a bit for each.
    left_out = plan.job.nodes // 4 if plan.job.allow_missing else 0
    pretence = _Pretence(backend.stager, _SLACK_CHARACTERS + left_out)
    slots = tuple(_slot(slot, backend.platform) for slot in plan.slots)
    launcher = Launcher(plan.job, files, slots, backend.platform, stager=pretence)
    for work in _works(backend, plan, slots):
        try:
            launcher.requests(work, _as_created(backend, work))
        except ConfigError as exc:
            raise ConfigError(f"{work.label.rstrip(',')}: {exc}") from exc
    return pretence.wanted


def stage(backend: Backend, plan: Plan, wanted: Mapping[str, bytes]) -> None:
    """Put contents where nodes will fetch them, as many at once as the backend takes.

    Args:
        wanted: contents by their key, as ``check_scripts`` returns them.
    """
    stager, place = backend.stager, plan.job.staging
    if stager is None or place is None:
        return

    def one(item: tuple[str, bytes]) -> None:
        patiently(backend, stager.stage, place, *item, 60.0)

    in_parallel(backend, wanted.items(), one)


def _works(backend: Backend, plan: Plan, slots: tuple[Slot, ...]) -> list[Work]:
    """Return the work of the last rank, whose numbers are the longest, and of the last gather node of the largest."""
    job, group, now = plan.job, group_of(plan), backend.clock.now()
    rank = Work.begin(role=Role.RANK, attempt=1, group=group, slots=slots[-1:], template=job.node, now=now)
    if not job.gathers_on_node:
        return [rank]
    template = job.gather_node or job.node
    gather = Work.begin(role=Role.GATHER, attempt=1, group=group, slots=slots, template=template, now=now)
    parts = gather.in_parts(patiently(backend, backend.max_volumes, template))
    return [rank, max(parts, key=lambda part: (len(part.volume_ids), part.part))]


def _slot(planned: PlannedSlot, platform: str) -> Slot:
    def volume_id(name: str) -> str:
        if platform == "ec2":
            return f"vol-{hashlib.sha256(name.encode()).hexdigest()[:17]}"
        return f"{_ZONE}/{name}"

    volumes = tuple(SlotVolume(v.name, v.path, v.size_gib, v.type, id=volume_id(v.name)) for v in planned.volumes)
    return Slot(planned.rank, planned.nodes, planned.zone, volumes)


def _as_created(backend: Backend, work: Work) -> Observation:
    now = backend.clock.now()
    return Observation(
        volumes=tuple(
            Volume(v.id, v.name, VolumeState.AVAILABLE, v.size_gib, v.type or "", now, work.group.tags(rank=slot.rank))
            for slot in work.slots
            for v in slot.volumes
        ),
        nodes=(),
    )


def _noise(seed: str, length: int) -> str:
    """Return text that compresses as badly as a signature, always the same for a seed."""
    blocks = (hashlib.sha512(f"{seed}/{index}".encode()).digest() for index in range(length // 85 + 1))
    return base64.urlsafe_b64encode(b"".join(blocks)).decode()[:length]

"""Two runs that want the same volumes take turns at every call, in any order: each has all of them, or none."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial

import pytest

from airflow_rankvol.backends.base import Guard, VolumeRequest
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.errors import VolumeConflict
from airflow_rankvol.records import Group, Observation, Volume
from airflow_rankvol.testing import FakeBackend, FakeClock

from .engine_kit import Rig
from .test_two_creators import RANKS, SCOPES, a_run, check_computes
from .turns import Turns


class TakesTurns(FakeBackend):
    """A cloud whose callers wait for a while before each call, and which marks one volume after the other.

    As on Compute Engine, a claim that loses one volume gives back those that it has got.
    """

    def __init__(self, seed: int) -> None:
        self.turns = Turns(FakeClock())
        super().__init__(clock=self.turns)
        self._random = random.Random(seed)

    def _wait(self) -> None:
        self.turns.sleep(self._random.choice([0, 0, 1, 5, 40]))

    def observe(self, group: Group) -> Observation:
        self._wait()
        return super().observe(group)

    def create_volume(self, request: VolumeRequest) -> Volume:
        self._wait()
        return super().create_volume(request)

    def delete_volume(self, volume_id: str, guard: Guard) -> None:
        self._wait()
        super().delete_volume(volume_id, guard)

    def tag_volumes(
        self, volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None
    ) -> frozenset[str]:
        gone: set[str] = set()
        done: list[tuple[str, dict[str, str]]] = []
        try:
            for volume_id in sorted(volume_ids):
                self._wait()
                disk = self._world.disks.get(volume_id)
                before = disk.tags.to_dict() if disk and disk.tags else {}
                gone |= super().tag_volumes([volume_id], tags, held_by=held_by)
                done.append((volume_id, {name: before[name] for name in tags if name in before}))
        except VolumeConflict:
            for volume_id, old in done:
                super().tag_volumes([volume_id], old)
            raise
        return frozenset(gone)


def whole_run(rig: Rig, living: set[str]) -> bool:
    """Do what the tasks of a run do; return whether it got its volumes."""
    run = rig.group.run
    living.add(run)
    try:
        rig.slots = provision(rig.backend, rig.plan, generation=1, handout=run * 8, lives=lambda _, run: run in living)
    except VolumeConflict:
        got = False
    else:
        check_computes(rig)
        got = True
    rig.teardown()
    if got:
        assert all(rig.backend.volumes[slot.volumes[0].name].record for slot in rig.slots)
    living.discard(run)
    return got


@SCOPES
@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_order_a_run_has_all_of_its_volumes_to_its_end_or_none(seed: int, scope: str) -> None:
    backend, living = TakesTurns(seed), set[str]()
    runs = [partial(whole_run, a_run(backend, run, scope), living) for run in ("a", "b")]
    got = backend.turns.run(*runs)
    assert [bool(disk.record) for disk in backend.volumes.values()] == ([True] * RANKS if any(got) else [])
    assert backend.turns.run(partial(whole_run, a_run(backend, "c", scope), living)) == [True]

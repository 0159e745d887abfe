"""What a node's script carries of the job's files, and what is found out about scripts before anything is created."""

from __future__ import annotations

import gzip
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.rehearsal import check_scripts, stage
from airflow_rankvol.engine.staging import INLINE_BYTES, key_of, sha256
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import ConfigError, NotReady
from airflow_rankvol.plan import job_digest
from airflow_rankvol.records import Observation, Role, Slot, SlotVolume, Volume, VolumeState

from .engine_kit import Rig, a_rig

PLACE = "s3://bucket/prefix"
LARGE = os.urandom(2 * INLINE_BYTES)
SMALL = b"print('hello')\n"
FILES = {"large": LARGE, "small": SMALL}


@dataclass
class StubStager:
    """Takes scripts of up to so many characters, and remembers what it was asked."""

    limit: int = 100_000
    scripts: list[str] = field(default_factory=list)
    staged: list[tuple[str, str, bytes, float]] = field(default_factory=list)
    refusals: int = 0

    def check_script(self, script: str) -> None:
        if len(script) > self.limit:
            raise ConfigError("too long")
        self.scripts.append(script)

    def stage(self, place: str, key: str, content: bytes, expires_s: float) -> str:
        if self.refusals:
            self.refusals -= 1
            raise NotReady("later")
        self.staged.append((place, key, content, expires_s))
        return f"https://bucket.example.org/{key}?signature"


def a_cloud(nodes: int = 2, *, limit: int = 100_000, **job: Any) -> tuple[Rig, StubStager]:
    """Return a run on a cloud whose scripts are small."""
    stager = StubStager(limit)
    fields = {"files": {name: name for name in FILES}, "staging": PLACE, **job}
    rig = a_rig(nodes, created=False, **fields)
    rig.backend.stager = stager
    return rig, stager


def script_of(rig: Rig, files: dict[str, bytes]) -> str:
    """Return the script that rank 0's node is launched with."""
    rig.create()
    launcher = Launcher(rig.plan.job, files, tuple(rig.slots), "local", stager=rig.backend.stager)
    (request,) = launcher.requests(rig.work(0), rig.observe())
    return request.script


def launched(
    rig: Rig, slots: tuple[Slot, ...], mine: tuple[Slot, ...], role: Role, succeeded: frozenset[int] | None = None
) -> str:
    """Return the script of a late attempt on volumes with other ids."""
    now = rig.backend.clock.now()
    work = Work.begin(role=role, attempt=123, group=rig.group, slots=mine, template=rig.plan.job.node, now=now)
    volumes = tuple(
        Volume(v.id, v.name, VolumeState.AVAILABLE, 1, "", now, rig.group.tags(rank=slot.rank), blank=True)
        for slot in slots
        for v in slot.volumes
    )
    launcher = Launcher(rig.plan.job, {}, slots, rig.backend.platform, succeeded=succeeded)
    (request,) = launcher.requests(work, Observation(volumes=volumes))
    return request.script


def renamed(rig: Rig, platform: str, numbers: random.Random) -> tuple[Slot, ...]:
    """Return a rig's slots with ids such as a cloud gives out."""
    zone = "" if platform == "ec2" else numbers.choice(["us-west1-a", "northamerica-northeast1-a"])

    def named(volume: SlotVolume) -> SlotVolume:
        return replace(volume, id=f"{zone}/{volume.name}" if zone else f"vol-{numbers.getrandbits(68):017x}")

    return tuple(replace(slot, volumes=tuple(map(named, slot.volumes))) for slot in rig.slots)


def compressed(script: str) -> int:
    return len(gzip.compress(script.encode(), mtime=0))


def test_a_large_file_travels_by_url_and_a_small_one_inside() -> None:
    rig, stager = a_cloud()
    script = script_of(rig, FILES)
    assert [(place, key, content) for place, key, content, _ in stager.staged] == [(PLACE, key_of("me", LARGE), LARGE)]
    assert 'rv_fetch "$RV_WORK"/large' in script
    assert sha256(LARGE) in script
    assert 'rv_unpack "$RV_WORK"/small' in script


def test_the_url_outlives_the_time_that_a_node_may_take_to_come_up() -> None:
    rig, stager = a_cloud(node={"boot_timeout": "2h"})
    script_of(rig, FILES)
    assert stager.staged[0][3] > 2 * 3600


def test_where_small_files_make_the_script_too_long_they_are_staged_too() -> None:
    rig, stager = a_cloud()
    room = len(script_of(rig, {}))
    stager.limit, small = room + 2000, {"a": os.urandom(2000), "b": os.urandom(2000)}
    script = script_of(rig, small)
    assert script.count('rv_fetch "$RV_WORK"/') == 2


def test_without_staging_nothing_is_staged_and_a_script_that_is_too_long_is_refused() -> None:
    rig, stager = a_cloud(staging=None, limit=5000)
    with pytest.raises(ConfigError, match="too long"):
        script_of(rig, FILES)
    assert stager.staged == []


def test_a_backend_that_takes_any_script_gets_all_files_inside() -> None:
    rig = a_rig(2, created=False, files={"large": "x"}, staging=PLACE)
    assert 'rv_fetch "$RV_WORK"' not in script_of(rig, FILES)


def test_how_a_file_travels_does_not_change_the_digest() -> None:
    rig, _ = a_cloud()
    assert f"RV_DIGEST={job_digest(rig.plan.job, FILES)}" in script_of(rig, FILES)


def test_a_place_that_is_not_ready_is_asked_again() -> None:
    rig, stager = a_cloud(1)
    rig.create()
    stager.refusals = 3
    launcher = Launcher(rig.plan.job, FILES, tuple(rig.slots), "local", stager=stager)
    from airflow_rankvol.engine.loop import run

    assert run(rig.backend, rig.work(0), launcher).error is None
    assert len(stager.staged) == 1


class TestRehearsal:
    def test_what_has_to_be_staged_is_found_without_staging_it(self) -> None:
        rig, stager = a_cloud()
        assert check_scripts(rig.backend, rig.plan, FILES) == {key_of("me", LARGE): LARGE}
        assert stager.staged == []
        assert rig.backend.volumes == {}

    def test_it_is_staged_once_for_all_ranks(self) -> None:
        rig, stager = a_cloud(64)
        stage(rig.backend, rig.plan, check_scripts(rig.backend, rig.plan, FILES))
        assert len(stager.staged) == 1

    def test_the_rank_with_the_longest_numbers_and_the_part_of_gather_with_most_volumes_are_tried(self) -> None:
        rig, stager = a_cloud(12, staging=None, files={}, node={"zones": "a, b, b"})
        check_scripts(rig.backend, rig.plan, {})
        rank, gather = stager.scripts
        assert re.search(r"\bRV_RANK=11 ", rank)
        (ids,) = re.findall(r"^RV_IDS=\((.*)\)$", gather, re.MULTILINE)
        assert len(set(ids.split())) == 8

    def test_a_gather_that_only_copies_is_tried_too(self) -> None:
        rig, stager = a_cloud(2, gather=[], destination="s3://bucket/results", collect=["a b", "out/**"])
        check_scripts(rig.backend, rig.plan, {})
        assert "RV_PARTS=1 RV_DESTINATION=s3://bucket/results\nRV_COLLECT=('a b' 'out/**')\n" in stager.scripts[1]
        assert "RV_DESTINATION=" not in stager.scripts[0]

    def test_a_script_that_cannot_fit_names_its_node(self) -> None:
        rig, stager = a_cloud(3)
        check_scripts(rig.backend, rig.plan, FILES)
        stager.limit = len(stager.scripts[0]) - 1
        with pytest.raises(ConfigError, match=r"^rank 2: too long"):
            check_scripts(rig.backend, rig.plan, FILES)

    @pytest.mark.parametrize(("platform", "size_of"), [("ec2", compressed), ("gce", len)])
    @pytest.mark.parametrize("nodes", [1, 26, 128])
    def test_no_launch_needs_more_room_than_its_rehearsal(
        self, platform: str, size_of: Callable[[str], int], nodes: int
    ) -> None:
        """Whatever ids the cloud gives out, in whatever zone: else gather would fail after all ranks."""
        rig, stager = a_cloud(nodes, staging=None, files={}, env={"R": "rank ${NODE_RANK} of ${NODES_NUM}"})
        rig.backend.platform = platform
        check_scripts(rig.backend, rig.plan, {})
        rank, gather = map(size_of, stager.scripts)
        rig.create()
        numbers = random.Random(nodes)
        for _ in range(15):
            slots = renamed(rig, platform, numbers)
            one = numbers.randrange(nodes)
            assert size_of(launched(rig, slots, slots[one : one + 1], Role.RANK)) <= rank
            assert size_of(launched(rig, slots, slots, Role.GATHER)) <= gather

    @pytest.mark.parametrize(("platform", "size_of"), [("ec2", compressed), ("gce", len)])
    @pytest.mark.parametrize("nodes", [30, 128, 1024])
    def test_nor_does_a_part_of_gather_whichever_ranks_are_left_out(
        self, monkeypatch: pytest.MonkeyPatch, platform: str, size_of: Callable[[str], int], nodes: int
    ) -> None:
        """Only plan can say so: when gather comes, the ranks have computed."""
        rig, stager = a_cloud(nodes, staging=None, files={}, allow_missing=True)
        rig.backend.platform = platform
        monkeypatch.setattr(rig.backend, "max_volumes", lambda _template: 26)
        check_scripts(rig.backend, rig.plan, {})
        _, gather = map(size_of, stager.scripts)
        rig.create()
        numbers = random.Random(nodes)
        for there in (26, nodes * 2 // 3, nodes - 1) * 3:
            slots = renamed(rig, platform, numbers)
            read = sorted(numbers.sample(range(nodes), there))
            mine = tuple(slots[rank] for rank in read[-26:])
            assert size_of(launched(rig, slots, mine, Role.GATHER, succeeded=frozenset(read))) <= gather

    def test_the_pretended_script_is_no_shorter_than_the_real_one(self) -> None:
        rig, stager = a_cloud(1, gather=[])
        check_scripts(rig.backend, rig.plan, FILES)
        assert len(stager.scripts[0]) > len(script_of(rig, FILES))

    def test_a_backend_that_takes_any_script_is_not_asked(self) -> None:
        rig = a_rig(2, created=False, files={"large": "x"})
        assert check_scripts(rig.backend, rig.plan, FILES) == {}

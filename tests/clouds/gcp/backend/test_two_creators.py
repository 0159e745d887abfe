"""Two runs create the same volumes at the same moment, each in a thread and with a backend of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, cast

import pytest

from airflow_rankvol.engine.provision import provision
from airflow_rankvol.errors import VolumeConflict
from tests.clouds.gcp.backend.kit import Lab, succeed
from tests.unit.engine.engine_kit import Rig

RANKS = 4
SUCCEED = f"{succeed.__module__}:{succeed.__name__}"


@pytest.mark.parametrize("scope", ["dag", "global"])
def test_who_gets_the_volumes_has_them_all_and_the_loser_takes_none_with_it(lab: Lab, scope: str) -> None:
    """Who wins is up to the threads; both may lose, and then both may try again."""
    lab.double.settings(create_disk_s=0.05, update_s=0.02)
    lab.double("end_nodes", script=SUCCEED, after_s=1.0)
    begin = Barrier(2)

    def create(run: str) -> Rig:
        rig = Rig(cast("Any", lab.process()), lab.rig(RANKS, volume_template={"scope": scope}, run=run).plan)
        begin.wait()
        try:
            rig.slots = provision(rig.backend, rig.plan, generation=1, handout=run, lives=lambda *_: True)
        except VolumeConflict:
            rig.teardown()
        return rig

    with ThreadPoolExecutor(2) as pool:
        winners = [rig for rig in pool.map(create, ["first", "second"]) if rig.slots]
    assert len(winners) < 2
    for rig in winners:
        ids = {volume.id for slot in rig.slots for volume in slot.volumes}
        assert len(ids) == RANKS
        assert all((disk := rig.observe().volume(i)) and disk.tags and disk.tags.made_by(rig.group) for i in ids)
        assert [rig.run_rank(rank).error for rank in range(RANKS)] == [None] * RANKS
    if not winners:
        third = lab.rig(RANKS, volume_template={"scope": scope}, run="third")
        assert len(third.create()) == RANKS

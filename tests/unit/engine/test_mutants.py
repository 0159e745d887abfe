"""One condition each, without which everything else would still work: whose a volume is, and which try counts."""

from __future__ import annotations

import pytest

from airflow_rankvol.backends.base import VolumeRequest
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import QuotaExceeded
from airflow_rankvol.records import Volume
from airflow_rankvol.testing import FakeBackend, fails

from .engine_kit import Rig, a_gang, a_plan, a_rig

DAY_S = 86_400
KEPT_UNTIL_COLLECTED = {"scope": "dag", "reclaim": "delete"}


def test_a_shared_volume_that_only_an_earlier_run_collected_stays() -> None:
    earlier = a_rig(2, run="run-1", volume_template=KEPT_UNTIL_COLLECTED)
    rig = a_rig(2, run="run-2", backend=earlier.backend, volume_template=KEPT_UNTIL_COLLECTED)
    ids = [slot.volumes[0].id for slot in rig.slots]
    rig.backend.tag_volumes(ids, {"rankvol:collected": earlier.group.key})
    report = rig.teardown()
    assert [kept.rank for kept in report.kept] == [0, 1]
    assert len(rig.backend.volumes) == 2


def test_a_global_volume_that_another_run_made_is_adopted_and_stays_under_delete_always() -> None:
    template = {"scope": "global", "reclaim": "delete_always"}
    maker = a_rig(2, run="run-1", volume_template=template)
    rig = a_rig(2, run="run-2", backend=maker.backend, volume_template=template)
    report = rig.teardown()
    assert report.deleted == ()
    assert set(rig.backend.volumes) == {"data-volume-0", "data-volume-1"}


def test_a_shared_volume_of_an_ended_run_whose_results_were_collected_goes_only_when_named() -> None:
    rig = a_rig(2, volume_template=KEPT_UNTIL_COLLECTED)
    names = [slot.volumes[0].name for slot in rig.slots]
    ids = [slot.volumes[0].id for slot in rig.slots]
    rig.backend.tag_volumes(ids, {"rankvol:collected": rig.group.key})
    rig.backend.clock.sleep(365 * DAY_S)
    assert rig.reap(RunState.ENDED) == ([], {})
    assert rig.reap(RunState.ENDED, names=frozenset(names[:1])) == (names[:1], {})
    assert list(rig.backend.volumes) == names[1:]


@pytest.mark.parametrize("failing", [4, 5], ids=["before any volume", "after it got the other run's volume"])
def test_rolling_back_leaves_what_an_overlapping_run_made_meanwhile(failing: int) -> None:
    backend = FakeBackend()
    late = Rig(backend, a_plan(3, run="run-1", volume_template={"scope": "dag"}))
    quick = Rig(backend, a_plan(3, run="run-2", volume_template={"scope": "dag"}))
    create_volume = backend.create_volume

    def after_the_other_run(request: VolumeRequest) -> Volume:
        backend.create_volume = create_volume  # type: ignore[method-assign]
        quick.create()
        return create_volume(request)

    backend.create_volume = after_the_other_run  # type: ignore[method-assign]
    backend.faults.fail("create_volume", QuotaExceeded, call=failing)
    with pytest.raises(QuotaExceeded):
        late.create()
    backend.clock.sleep(600)  # a deletion takes its time
    assert set(backend.volumes) == {slot.volumes[0].name for slot in quick.slots}
    assert len(backend.volumes) == 3


@pytest.mark.parametrize("origin", ["snapshot", "image"])
def test_a_volume_made_from_another_ones_data_may_never_be_formatted(origin: str) -> None:
    rig = a_rig(1, volume_template={origin: "golden"})
    work = rig.begin(0)
    assert rig.launch(work) is None
    (node,) = rig.backend.nodes.values()
    assert [item.may_format for item in node.request.attachments] == [False]


def test_a_rank_on_an_earlier_try_never_goes_back_behind_a_gang_that_is_over() -> None:
    backend = FakeBackend(endings={("rank", 0): fails(9)})
    rig = a_gang(backend=backend)
    assert rig.run_rank(0).error is not None
    assert rig.run_rank(0, try_number=2).error is not None
    assert rig.begin(1, try_number=1).attempt == 2

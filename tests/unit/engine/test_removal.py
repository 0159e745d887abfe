"""Deletions that a cloud accepts and does not carry out: what is still there is named, whatever its state."""

from __future__ import annotations

import math

import pytest

from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import LeakError
from airflow_rankvol.testing import FakeBackend

from .engine_kit import a_rig


@pytest.mark.parametrize("policy", ["retain", "delete", "delete_always"])
@pytest.mark.parametrize(("hold", "told"), [(True, "ended, but still holds volume"), (False, "ended, but still there")])
def test_a_node_that_ended_and_is_only_said_to_be_deleted_is_a_leak_by_name(hold: bool, told: str, policy: str) -> None:
    """Where ended nodes stay until they are deleted, that one has ended does not say that it is gone."""
    rig = a_rig(1, backend=FakeBackend(ended_nodes_hold_volumes=hold), volume_template={"reclaim": policy})
    assert rig.run_rank(0).error is None
    rig.backend.faults.fail("delete_node", when="ignored", times=math.inf)
    with pytest.raises(LeakError, match=f"{told}.* after 600 s") as caught:
        rig.teardown()
    (name,) = rig.backend.nodes
    assert name in caught.value.resources[0]
    gone, problems = rig.reap(RunState.ENDED)
    assert (name in "".join(gone), name in "".join(problems)) == (False, True)
    rig.backend.faults.clear()
    assert len(rig.teardown().nodes) == 1
    assert not rig.backend.nodes

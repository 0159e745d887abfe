"""What has changed between the look of a reaper and its deletion stays: nodes take minutes to go in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.reap import RunState, reap, survey
from airflow_rankvol.errors import AuthDenied
from airflow_rankvol.records import Observation
from airflow_rankvol.testing import FakeBackend

from .test_reap import a_left_rig, names

SELECTOR = Selector(owner="me")


def ended(_dag: str, _run: str) -> RunState:
    return RunState.ENDED


class Meanwhile(FakeBackend):
    """A backend on which something happens when a node is deleted."""

    def meanwhile(self) -> object:
        raise NotImplementedError

    def delete_node(self, node_id: str, guard: object) -> None:
        super().delete_node(node_id, guard)  # type: ignore[arg-type]
        self.meanwhile()


@pytest.mark.parametrize("change", [{"rankvol:collected": ""}, {"rankvol:kept": "2026-01-02T03:04:05+00:00"}])
def test_what_a_run_that_was_cleared_has_kept_when_it_ended_again_stays(change: dict[str, str]) -> None:
    backend = Meanwhile()
    rig = a_left_rig(collected=True, backend=backend)
    backend.meanwhile = lambda: backend.tag_volumes([rig.slots[0].volumes[0].id], change)  # type: ignore[method-assign]
    gone, problems = reap(backend, SELECTOR, survey(backend, SELECTOR, ended), ended)
    assert problems == {}
    kept = rig.slots[0].volumes[0].name
    assert set(backend.volumes) == {kept}
    assert kept not in gone
    assert len(gone) == 2  # the other rank's volume, and the node


def test_a_volume_that_was_made_anew_under_its_id_stays() -> None:
    """As on Compute Engine, where an id is a zone and a name."""
    backend = Meanwhile()
    rig = a_left_rig(collected=True, backend=backend)

    def made_anew() -> None:
        listed = backend.list_owned

        def list_owned(selector: Selector) -> Observation:
            seen = listed(selector)
            later = [replace(each, created_at=each.created_at + timedelta(minutes=1)) for each in seen.volumes]
            return replace(seen, volumes=tuple(later))

        backend.list_owned = list_owned  # type: ignore[method-assign]

    backend.meanwhile = made_anew  # type: ignore[method-assign]
    gone, problems = reap(backend, SELECTOR, survey(backend, SELECTOR, ended), ended)
    assert (len(gone), problems) == (1, {})
    assert set(backend.volumes) == names(rig)


def test_what_cannot_be_looked_at_again_stays_and_is_named() -> None:
    backend = FakeBackend()
    rig = a_left_rig(collected=True, backend=backend)
    findings = [finding for finding in survey(backend, SELECTOR, ended) if finding.kind == "volume"]
    backend.faults.fail("list_owned", AuthDenied)
    gone, problems = reap(backend, SELECTOR, findings, ended)
    assert gone == []
    assert {problem.split(":")[0] for problem in problems.values()} == {"whether it has changed could not be told"}
    assert len(problems) == 2
    assert set(backend.volumes) == names(rig)


def test_what_has_gone_meanwhile_is_no_problem() -> None:
    backend = FakeBackend()
    a_left_rig(collected=True, backend=backend)
    findings = survey(backend, SELECTOR, ended)
    reap(backend, SELECTOR, findings, ended)
    gone, problems = reap(backend, SELECTOR, findings, ended)
    assert (len(gone), problems) == (3, {})
    assert backend.is_empty

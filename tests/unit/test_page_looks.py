"""Looks at the places are shared, kept for a moment, and wait for none that hangs."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from airflow_rankvol import _page_looks
from airflow_rankvol._page_looks import Looks, Seen
from airflow_rankvol.engine.reap import RunState


class Places:
    """What stands behind connections; that of "slow" answers when it is let go."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.go = threading.Event()

    def look_at(self, conn_id: str, state_of: object) -> Seen:
        self.asked[conn_id] += 1
        number = self.asked[conn_id]
        if conn_id == "slow":
            assert self.go.wait(30)
        return Seen(conn_id, problem=f"look {number}")


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    made = Places()
    monkeypatch.setattr(_page_looks, "look_at", made.look_at)
    return made


def looks() -> Looks:
    return Looks(lambda dag, run: RunState.UNKNOWN)


def slow_and_quick(shared: Looks, monkeypatch: pytest.MonkeyPatch) -> tuple[Seen, Seen]:
    """Wait in vain for the place that hangs, then, meanwhile, for the other one, however slow this machine is."""
    monkeypatch.setattr(_page_looks, "PATIENCE_S", 0.05)
    (slow,) = shared.all(["slow"])
    monkeypatch.setattr(_page_looks, "PATIENCE_S", 30.0)
    (quick,) = shared.all(["quick"])
    monkeypatch.setattr(_page_looks, "PATIENCE_S", 0.05)
    return slow, quick


def test_a_place_that_hangs_is_named_and_hides_no_other(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page_looks, "FRESH_S", float("inf"))
    shared = looks()
    slow, quick = slow_and_quick(shared, monkeypatch)
    assert "has not answered" in slow.problem
    assert quick.problem == "look 1"
    slow, quick = shared.all(["slow", "quick"])
    assert "has not answered" in slow.problem
    assert quick.problem == "look 1"
    places.go.set()
    monkeypatch.setattr(_page_looks, "PATIENCE_S", 30.0)
    assert shared.all(["slow"])[0].problem == "look 1"
    assert places.asked == {"slow": 1, "quick": 1}


def test_a_place_that_hangs_hides_no_other_however_often_something_is_removed(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = looks()
    for number in range(1, 8):
        slow, quick = slow_and_quick(shared, monkeypatch)
        assert "has not answered" in slow.problem
        assert quick.problem == f"look {number}"
        shared.forget()
    places.go.set()
    monkeypatch.setattr(_page_looks, "PATIENCE_S", 30.0)
    assert shared.all(["slow"])[0].problem == "look 8"


def test_a_look_holds_for_some_seconds(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page_looks, "FRESH_S", float("inf"))
    shared = looks()
    assert [shared.all(["quick", "quick"])[0].problem for _ in range(3)] == ["look 1"] * 3
    monkeypatch.setattr(_page_looks, "FRESH_S", 0.0)
    assert shared.all(["quick"])[0].problem == "look 2"


def test_after_a_removal_nobody_is_shown_what_was_seen_before(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page_looks, "FRESH_S", float("inf"))
    shared = looks()
    slow_and_quick(shared, monkeypatch)
    shared.forget()
    places.go.set()
    monkeypatch.setattr(_page_looks, "PATIENCE_S", 30.0)
    slow, quick = shared.all(["slow", "quick"])
    assert (slow.problem, quick.problem) == ("look 2", "look 2")
    assert shared.all(["slow"])[0].problem == "look 2"  # the first one has ended, and is not kept

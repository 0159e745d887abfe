"""A signal's handler works in the very thread that it interrupts: what that has locked must not stop it.

A task's ``on_kill`` ends its node so; it may come while its thread looks at, or looks up, anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._gcp_places import Places

DISK = {"id": "1", "name": "data-0", "zone": "zones/us-central1-a"}


def ends(work: Callable[[], object]) -> bool:
    """Say whether it ends, in a thread of its own."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def test_what_was_seen_can_be_noted_within_a_note() -> None:
    memory = Memory()
    handled: list[object] = []

    def interrupted(_raw: object) -> bool:
        memory.saw_nodes([DISK])
        memory.forget_volume("us-central1-a/data-1")
        handled.append(memory.is_first("look"))
        return True

    memory.saw_volumes([DISK])
    assert ends(lambda: memory.saw_volumes([], interrupted)), "the handler waits for its own thread"
    assert handled == [True]
    assert memory.volume("us-central1-a/data-0") is None
    assert memory.node("us-central1-a/data-0") == DISK


def test_a_place_can_be_looked_up_within_a_look_up() -> None:
    handled: list[object] = []

    class Stub:
        """Compute Engine, during whose answer a signal comes."""

        def listed(self, *_args: str) -> list[dict[str, Any]]:
            if not handled:
                handled.append("began")
                handled.append(dict(places.all_zones()))
            return [{"name": "us-central1-a", "status": "UP"}]

    places = Places(cast("Any", Stub()))
    assert ends(places.all_zones), "the handler waits for its own thread"
    assert handled == ["began", {"us-central1-a": "UP"}]

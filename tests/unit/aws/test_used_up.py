"""What a process keeps in mind of tokens that EC2 has refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from airflow_rankvol.backends._aws_memory import MAX_KEPT, Memory
from airflow_rankvol.backends._aws_used_up import AGAIN_S, REFUSED_S, UsedUp


class Time:
    """A clock that stands still unless it is set."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Listing:
    """EC2, which lists no volume, and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    def volumes_named(self, names: set[str], _verb: str, _resource: str) -> list[dict[str, Any]]:
        self.asked.append(names)
        return []


def used_up(time: Time, listing: Listing | None = None) -> UsedUp:
    ec2 = cast("Any", listing or Listing())
    return UsedUp(ec2, Memory(time), lambda: datetime.fromtimestamp(time(), UTC), poll_interval_s=10.0)


def test_the_oldest_tokens_are_forgotten_however_long_a_process_lives() -> None:
    refused = used_up(Time())
    tokens = [f"token-{number}" for number in range(MAX_KEPT + 2)]
    for token in tokens:
        refused.refuse(token, "data-0")
    assert [refused.is_refused(token) for token in tokens] == [False] * 2 + [True] * MAX_KEPT
    assert refused.next_token(tokens[0]) is None


def test_a_refusal_counts_for_a_while() -> None:
    """The token is free again half a day after the volume went, which may be at any moment."""
    time = Time()
    refused = used_up(time)
    refused.refuse("token", "data-0")
    time.seconds = REFUSED_S
    assert refused.is_refused("token")
    time.seconds += 1
    assert not refused.is_refused("token")


def test_all_who_wait_share_a_look_in_a_poll_interval() -> None:
    time, listing = Time(), Listing()
    refused = used_up(time, listing)
    for at, token, name in [(0, "a", "data-0"), (9, "b", "data-1"), (10, "c", "data-2"), (19, "d", "data-3")]:
        time.seconds = at
        refused.refuse(token, name)
        refused.look()
    assert listing.asked == [{"data-0"}, {"data-0", "data-1", "data-2"}]


def test_another_token_is_taken_once_a_look_of_its_time_has_shown_nothing_for_long_enough() -> None:
    """A minute after the refusal, and a minute after the beginning of that time, which lasts two; until it is void."""
    time = Time()
    refused = used_up(time)
    taken = []
    for seconds in range(0, 600, 10):
        time.seconds = seconds
        if seconds == 40:
            refused.refuse("token", "data-0")
        refused.look()
        taken += [seconds] if refused.next_token("token") else []
    assert taken == [100, 110, 180, 190, 200, 210, 220, 230, *range(300, 360, 10)]


def test_the_time_of_a_token_is_over_for_a_look_of_the_time_before() -> None:
    time = Time()
    refused = used_up(time)
    refused.refuse("token", "data-0")
    time.seconds = AGAIN_S - 1
    refused.look()
    first = refused.next_token("token")
    assert first
    time.seconds = AGAIN_S + 1
    assert refused.next_token("token") is None
    time.seconds = 2 * AGAIN_S - 1
    refused.look()
    assert refused.next_token("token") not in (None, first)

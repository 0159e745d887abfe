"""Calls wait for EC2's buckets, in turn, and never too long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_rankvol.backends._aws_rate import BUCKETS, Limiter
from airflow_rankvol.errors import Throttled


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


def limiter(time: Time, **fields: float) -> Limiter:
    return Limiter(now=time.now, sleep=time.sleep, **fields)


@pytest.mark.parametrize(
    ("action", "calls", "seconds"),
    [
        ("RunInstances", 256, 126.5),
        ("CreateVolume", 256, 32.2),
        ("AttachVolume", 256, 42.2),
        ("DescribeVolumes", 80, 0),
        ("DescribeInstanceTypes", 80, 4.0),
    ],
)
def test_256_ranks_take_as_long_as_the_bucket_says(action: str, calls: int, seconds: float) -> None:
    """(calls - capacity) / refill, and a second in reserve."""
    time = Time()
    one = limiter(time)
    for _ in range(calls):
        one.acquire(action)
    assert time.now_s == pytest.approx(seconds)


def test_actions_have_buckets_of_their_own() -> None:
    time = Time()
    one = limiter(time)
    for action in [*BUCKETS, "DescribeVolumes", "DescribeInstances"] * 3:
        one.acquire(action)
    assert time.slept_s == []


def test_a_bucket_fills_up_to_its_capacity_only() -> None:
    time = Time()
    one = limiter(time)
    for _ in range(3):
        one.acquire("RunInstances")
    time.now_s += 3600
    for _ in range(3):
        one.acquire("RunInstances")
    assert time.slept_s == []
    one.acquire("RunInstances")
    assert time.slept_s == [0.5]


def test_threads_get_turns_one_after_the_other() -> None:
    """Sixteen at once do not all wait for the same token."""
    time = Time()
    waits: list[float] = []
    one = Limiter(now=time.now, sleep=waits.append)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one.acquire, ["RunInstances"] * 7))
    assert sorted(waits) == [0.5, 1.0, 1.5, 2.0]


def test_who_would_wait_too_long_is_told_and_takes_no_turn() -> None:
    waits: list[float] = []
    one = Limiter(now=lambda: 0.0, sleep=waits.append, max_wait_s=1.0)
    for _ in range(5):
        one.acquire("RunInstances")
    for _ in range(3):
        with pytest.raises(Throttled, match=r"RunInstances: more than 1 s .* 2 a second"):
            one.acquire("RunInstances")
    assert waits == [0.5, 1.0]

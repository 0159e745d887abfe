"""EC2's request buckets."""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_rankvol.backends._rate import MAX_WAIT_S, RateLimiter, Rates

#: Action → tokens that its bucket holds, and tokens that come back per second. Each action has a bucket of its own,
#: per account and region (Amazon EC2 Developer Guide, "Request throttling for the Amazon EC2 API").
BUCKETS: dict[str, tuple[float, float]] = {
    "RunInstances": (5, 2),
    "CreateVolume": (100, 5),
    "DeleteVolume": (100, 5),
    "TerminateInstances": (100, 5),
    "AttachVolume": (50, 5),
    "DetachVolume": (50, 5),
    "CreateTags": (100, 10),
    # Without filters and pages.
    "DescribeInstanceTypes": (50, 10),
    "DescribeImages": (50, 10),
}
#: Describe… with filters and pages, as all others of ours are, and everything else that only reads.
READING = (100.0, 20.0)
#: So many seconds' worth of tokens is left in each bucket: of two calls the later one may get to EC2 sooner than it
#: left us after the other, and the account would be throttled where the bucket is empty to the last token.
JITTER_S = 1.0


class Limiter(RateLimiter):
    """The buckets of one account and region, shared by all threads of this process."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        super().__init__(Rates("aws", "EC2", READING, BUCKETS, JITTER_S), now=now, sleep=sleep, max_wait_s=max_wait_s)

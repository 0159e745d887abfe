"""Many deferred ranks under real components cost no more than a plain mapped task of as many, and hold no worker."""

from __future__ import annotations

import pytest

from benchmarks.many_ranks import measure

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_sixty_four_deferred_ranks_hold_no_worker_and_take_no_longer_than_a_plain_mapped_task() -> None:
    """Longer by a half at most; and the triggerer looks once an interval of a second for all of them."""
    figures = measure()
    print(figures)  # noqa: T201 - whoever runs it with -s wants to know
    assert figures.ratio <= 1.5, figures
    assert figures.slots_held == 0, figures
    assert figures.looks <= figures.polled_s + 2, figures

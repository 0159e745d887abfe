"""What a process keeps in mind of EC2 stays bounded, however long it lives."""

from __future__ import annotations

from airflow_rankvol.backends._aws_memory import MAX_KEPT, Memory


def test_the_oldest_tokens_that_are_used_up_are_forgotten() -> None:
    seconds = 0.0
    memory = Memory(now=lambda: seconds)
    tokens = [f"token-{number}" for number in range(MAX_KEPT + 2)]
    for token in tokens:
        assert memory.refused_since_s(token) == 0
    seconds = 61.0
    assert [memory.was_refused(token) for token in tokens] == [False] * 2 + [True] * MAX_KEPT
    assert memory.refused_since_s(tokens[-1]) == 61
    assert memory.was_refused(tokens[2])

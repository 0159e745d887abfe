"""What users may import, and what stays as it is."""

from __future__ import annotations

import airflow_rankvol


def test_the_public_names_are_pinned() -> None:
    """A name that appears or goes is a decision, not an accident."""
    assert airflow_rankvol.__all__ == [
        "CreateRankVolumes",
        "DeleteRankVolumes",
        "GatherRankResults",
        "NodeTemplate",
        "PlanRankVolumes",
        "RankJob",
        "ReapRankVolumes",
        "RunIdentity",
        "RunRank",
        "VolumeTemplate",
        "__version__",
        "make_plan",
        "rank_job",
        "rank_task",
    ]


def test_every_public_name_can_be_imported() -> None:
    """The lazy table and the list agree."""
    for name in airflow_rankvol.__all__:
        assert getattr(airflow_rankvol, name) is not None

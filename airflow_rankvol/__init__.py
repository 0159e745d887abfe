"""One block volume per rank for Airflow: create, attach, run, gather, delete.

The public names load lazily, so that importing this package in a DAG file stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from airflow_rankvol._rank_task import rank_task
    from airflow_rankvol.operators import (
        CreateRankVolumes,
        DeleteRankVolumes,
        GatherRankResults,
        PlanRankVolumes,
        ReapRankVolumes,
        RunRank,
    )
    from airflow_rankvol.plan import RunIdentity, make_plan
    from airflow_rankvol.spec.job import RankJob
    from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate
    from airflow_rankvol.taskgroup import rank_job

_HOMES = {
    "CreateRankVolumes": "airflow_rankvol.operators",
    "DeleteRankVolumes": "airflow_rankvol.operators",
    "GatherRankResults": "airflow_rankvol.operators",
    "NodeTemplate": "airflow_rankvol.spec.templates",
    "PlanRankVolumes": "airflow_rankvol.operators",
    "RankJob": "airflow_rankvol.spec.job",
    "ReapRankVolumes": "airflow_rankvol.operators",
    "RunIdentity": "airflow_rankvol.plan",
    "RunRank": "airflow_rankvol.operators",
    "VolumeTemplate": "airflow_rankvol.spec.templates",
    "make_plan": "airflow_rankvol.plan",
    "rank_job": "airflow_rankvol.taskgroup",
    "rank_task": "airflow_rankvol._rank_task",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)

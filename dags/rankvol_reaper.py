"""Removes every hour what rank jobs have left behind: what no teardown could, because it was skipped, failed or lost.

It goes through the connections of ``[rankvol] conn_ids`` by the rules of ``rankvol reap``: nodes of runs that have
ended, their volumes whose results were collected or on which no rank had finished, and whatever has expired. Nothing of
a live run is touched, nothing of another owner, and no volume that was to stay. What it did is a table in the log, and
an event of the asset ``rankvol://reaped``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from airflow_rankvol import ReapRankVolumes

with DAG(
    "rankvol_reaper",
    schedule="7 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["rankvol"],
    doc_md=__doc__,
    params={
        "older_than": Param(None, type=["null", "string"], description="Leave what is younger, such as 2h or 1d12h"),
        "only_list": Param(False, type="boolean", description="Remove nothing, only report what would go"),
    },
) as dag:
    ReapRankVolumes(
        task_id="reap",
        older_than="{{ params.older_than or '' }}",
        only_list="{{ params.only_list }}",
        execution_timeout=timedelta(minutes=50),
    )

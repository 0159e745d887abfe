"""Which asset a job's destination is, as it is known when the DAG file is read."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_rankvol import rank_job
from airflow_rankvol._announce_operator import asset_of


@pytest.mark.parametrize(
    ("destination", "uri"),
    [
        ("s3://bucket/results", "s3://bucket/results"),
        ("s3://bucket/results/", "s3://bucket/results"),
        ("gs://bucket/results", "gs://bucket/results"),
        ("/srv/results", "file:///srv/results"),
        ("file:///srv/results", "file:///srv/results"),
        ("s3://bucket/{{ run_id }}", "rankvol://my%20dag/outer.job"),
        ("{% if x %}/a{% endif %}", "rankvol://my%20dag/outer.job"),
        ("s3://", "rankvol://my%20dag/outer.job"),
        (object(), "rankvol://my%20dag/outer.job"),
    ],
)
def test_the_asset_is_the_destination_unless_only_a_run_knows_it(destination: Any, uri: str) -> None:
    """Two spellings of one place are one asset; what is no URI breaks no DAG file."""
    assert asset_of(destination, "my dag", "outer.job").uri == uri


def test_the_last_task_has_the_asset_only_with_a_destination() -> None:
    """Without one it stays the empty marker that no worker runs."""
    with DAG("assets", schedule=None) as dag:
        fields: dict[str, Any] = {"nodes": 2, "volumes": "data-${NODE_RANK}:/data", "commands": "true"}
        rank_job("plain", **fields)
        rank_job("files", destination="s3://bucket/results", **fields)
    assert [asset.uri for asset in dag.get_task("files.done").outlets] == ["s3://bucket/results"]
    assert dag.get_task("files.done").upstream_task_ids == {"files.gather"}
    assert dag.get_task("plain.done").outlets == []
    assert dag.get_task("plain.done").task_type == "EmptyOperator"

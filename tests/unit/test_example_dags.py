"""The trigger forms of the example DAGs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError

DAGS = Path(__file__).parents[2] / "dags"
BOUNDS = {"minimum", "maximum", "enum", "pattern", "minLength"}


@pytest.fixture(scope="module")
def forms() -> dict[str, Any]:
    """The Params of every example DAG that has some."""
    bags = [DagBag(str(path)) for path in sorted(DAGS.glob("*.py"))]
    assert [bag.import_errors for bag in bags if bag.import_errors] == []
    return {dag_id: dag.params for bag in bags for dag_id, dag in bag.dags.items() if dag.params}


def test_every_field_has_a_type_and_says_what_it_is_for(forms: dict[str, Any]) -> None:
    assert {"flights_by_rank", "flights_on_aws", "flights_on_gcp", "pi_by_rank"} <= set(forms)
    for dag_id, params in forms.items():
        for name in params:
            param = params.get_param(name)
            assert param.schema.get("type"), (dag_id, name)
            assert param.description or param.schema.get("description"), (dag_id, name)


@pytest.mark.parametrize(
    "dag_id", ["flights_by_rank", "flights_on_aws", "flights_on_gcp", "pi_by_rank", "primes_anywhere"]
)
def test_a_form_takes_no_job_that_plan_would_refuse(forms: dict[str, Any], dag_id: str) -> None:
    params = forms[dag_id]
    params.validate()
    wrong: dict[str, list[Any]] = {
        "nodes": [0, 257, "many"],
        "size": ["big", "0GB", "-1GB"],
        "type": ["floppy!"],
        "reclaim": ["never"],
    }
    assert {"nodes", "size", "type", "reclaim"} <= set(params)
    for name, values in wrong.items():
        assert BOUNDS & set(params.get_param(name).schema), name
        for value in values:
            with pytest.raises(ParamValidationError):
                params.get_param(name).resolve(value)

"""Fixtures for tests that run real DAGs, each on every backend whose nodes can really run here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.airflow.gcp_ground import GcpGround
from tests.airflow.grounds import AwsGround, Ground, LocalGround
from tests.airflow.harness import DagBench, initialise
from tests.airflow.page_kit import client_of, page_app, page_cloud
from tests.clouds.aws import client as ec2
from tests.clouds.gcp import client as gce
from tests.clouds.nodes.host import why_not

__all__ = ["client_of", "page_app", "page_cloud"]  # fixtures, too

_HERE = Path(__file__).parent
# A normal run sees on EC2 the ways in which runs are mended, cut off and kept apart, a small gang, and a function.
_QUICK_ON_AWS = {
    "test_a_function_runs_on_every_ranks_node_and_gather_lists_what_they_return",
    "test_a_failed_rank_fails_alone_and_is_mended_by_clearing_only_it",
    "test_a_node_that_never_boots_fails_its_rank",
    "test_a_rank_whose_console_is_lost_goes_on_from_its_record",
    "test_a_rank_whose_report_is_lost_goes_on_from_its_record",
    "test_gather_lies_and_has_room_where_the_ranks_that_it_reads_are",
    "test_a_teardown_that_cannot_delete_fails_the_run_and_names_what_stays",
    "test_leftovers_past_their_expiry_go_with_the_next_run",
    "test_what_a_killed_create_had_made_is_deleted",
}
# A normal run sees on Compute Engine that a run comes to its end, that a failed rank is mended, and a node's loss.
_QUICK_ON_GCP = {
    "test_a_failed_rank_fails_alone_and_is_mended_by_clearing_only_it",
    "test_a_node_that_never_boots_fails_its_rank",
    "test_a_rank_whose_report_is_lost_goes_on_from_its_record",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of a normal run what takes long on clouds, and what is known from the other bodies there."""
    for item in items:
        if item.path.parent != _HERE or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        params = item.callspec.params
        if params.get("ground") == "aws" and item.originalname not in _QUICK_ON_AWS and params.get("nodes") != 4:
            item.add_marker(pytest.mark.slow)
        if params.get("ground") == "gcp" and item.originalname not in _QUICK_ON_GCP:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def dags_folder() -> Path:
    """The DAGs folder of an initialised Airflow."""
    return initialise()


@pytest.fixture(scope="session")
def _ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ec2.Double]:
    """One double of EC2 for all tests of a worker; its nodes really run."""
    with ec2.Double(tmp_path_factory.mktemp("ec2"), nodes=True) as double:
        yield double


@pytest.fixture(scope="session")
def _gce(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gce.Double]:
    """One double of Compute Engine for all tests of a worker; its nodes really run."""
    with gce.Double(tmp_path_factory.mktemp("gce"), nodes=True) as double:
        yield double
        assert double.bugs() == []


@pytest.fixture(params=["local", "aws", "gcp"])
def ground(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """The cloud of the default connection, empty."""
    if request.param == "local":
        return LocalGround(tmp_path, monkeypatch)
    if why_not():
        pytest.skip(f"nodes of doubles cannot run here: {why_not()}")
    if request.param == "aws":
        return AwsGround(request.getfixturevalue("_ec2"), monkeypatch)
    return GcpGround(request.getfixturevalue("_gce"), monkeypatch)


@pytest.fixture
def bench(
    dags_folder: Path, request: pytest.FixtureRequest, ground: Ground, capfd: pytest.CaptureFixture[str]
) -> Iterator[DagBench]:
    """A bench on that cloud; its DAG files go with the test, and nothing may stay but what the test has looked at."""
    name = re.sub(r"\W+", "_", request.node.name)[:60]
    bench = DagBench(dags_folder, name, ground, lambda: "".join(capfd.readouterr()))
    yield bench
    for path in dags_folder.glob(f"{name}_*.py"):
        path.unlink()
    bench.check_left()

"""One ``lab`` for every backend: each body of the contract runs against all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_rankvol.backends._local_disk import why_no_images
from airflow_rankvol.backends.local import Isolation, LocalBackend, Mode
from airflow_rankvol.testing import FakeBackend, Timings
from tests.clouds.aws import client as ec2
from tests.clouds.gcp import client as gce
from tests.clouds.nodes.host import why_not
from tests.contract import aws_lab, gcp_lab
from tests.contract.support import Lab, leftovers, until, why_no_namespace

LOCAL: dict[str, tuple[Mode, Isolation]] = {
    "local-image": ("image", "namespace"),
    "local-directory": ("directory", "namespace"),
    "local-directory-plain": ("directory", "process"),
}


CLOUDS = ("aws", "gcp")


# The bash that these run is the same on all backends; a normal run sees one of each kind on the clouds.
_SLOW_ON_CLOUDS = ("test_collect.py", "test_gather.py", "test_run.py")
_QUICK_ON_CLOUDS = {
    "test_everything_of_every_rank_is_copied_whatever_it_is_called",
    "test_gather_reads_every_rank",
    "test_a_command_writes_to_its_volume_and_its_result_comes_back",
    "test_a_secret_is_read_on_the_node_and_never_printed",
    "test_peers_start_together_and_know_each_other",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of a normal run what is known from the local backend."""
    for item in items:
        if isinstance(item, pytest.Function) and item.path.name in _SLOW_ON_CLOUDS and hasattr(item, "callspec"):
            on_cloud = {item.callspec.params.get("real"), item.callspec.params.get("lab")} & {*CLOUDS}
            if on_cloud and item.originalname not in _QUICK_ON_CLOUDS:
                item.add_marker(pytest.mark.slow)


def local_backend(kind: str, state_dir: Path) -> LocalBackend:
    """Return the local backend in one of its modes, or skip where this machine cannot do that."""
    mode, isolation = LOCAL[kind]
    reason = why_no_images() if mode == "image" else why_no_namespace() if isolation == "namespace" else ""
    if reason:
        pytest.skip(f"{kind} needs what this machine or user lacks: {reason}")
    return LocalBackend(state_dir, mode, isolation=isolation, poll_interval_s=0.02)


@pytest.fixture(scope="session")
def _ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ec2.Double]:
    """One double of EC2 for all tests of a worker; its nodes really run."""
    with aws_lab.running_double(tmp_path_factory.mktemp("ec2")) as double:
        yield double


@pytest.fixture(scope="session")
def _gce(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gce.Double]:
    """One double of Compute Engine for all tests of a worker; its nodes really run."""
    with gcp_lab.running_double(tmp_path_factory.mktemp("gce")) as double:
        yield double


def _on_cloud(request: pytest.FixtureRequest) -> Lab:
    if why_not():
        pytest.skip(f"nodes of doubles cannot run here: {why_not()}")
    if request.param == "aws":
        return aws_lab.aws_lab(request.getfixturevalue("_ec2"))
    return gcp_lab.gcp_lab(request.getfixturevalue("_gce"))


@pytest.fixture(params=[*LOCAL, *CLOUDS])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A backend whose nodes really run, and a proof that nothing of it stays."""
    if request.param in CLOUDS:
        yield from _clean(_on_cloud(request))
    else:
        yield from _clean(Lab(local_backend(request.param, tmp_path / "state")))


@pytest.fixture(params=list(LOCAL))
def on_this_machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """The local backend in each of its modes."""
    yield from _clean(Lab(local_backend(request.param, tmp_path / "state")))


@pytest.fixture(params=["fake", *LOCAL, *CLOUDS])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """Any backend, for the bodies that look at the protocol alone."""
    if request.param == "fake":
        # Nothing takes time there: its clock stands still, so that nodes neither boot late nor end by themselves.
        instant = Timings(create_s=0, boot_s=0, attach_s=0, detach_s=0, terminate_s=0, delete_s=0)
        yield from _clean(Lab(FakeBackend(timings=instant, attach_at_launch=True)))
    elif request.param in CLOUDS:
        yield from _clean(_on_cloud(request))
    else:
        yield from _clean(Lab(local_backend(request.param, tmp_path / "state")))


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Lab]:
    """The local backend with real disks."""
    yield from _clean(Lab(local_backend("local-image", tmp_path / "state")))


def _clean(lab: Lab) -> Iterator[Lab]:
    yield lab
    lab.clear()
    backend = lab.backend
    if isinstance(backend, LocalBackend):
        state_dir = backend.state_dir
        # Loop devices are cleared by the kernel a moment after their last user is gone.
        until(lambda: not leftovers(state_dir, lab.launched), f"left: {leftovers(state_dir, lab.launched)}", 5)
        assert not os.path.exists("/data_volume"), "a mount point was made on this machine's root"

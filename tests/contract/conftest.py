"""One ``lab`` for every backend: each body of the contract runs against all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_rankvol.backends._local_disk import why_no_images
from airflow_rankvol.backends.local import Isolation, LocalBackend, Mode
from airflow_rankvol.testing import FakeBackend, Timings
from tests.clouds.aws.client import Double
from tests.clouds.nodes.host import why_not
from tests.contract.aws_lab import aws_lab, running_double
from tests.contract.support import Lab, leftovers, until, why_no_namespace

LOCAL: dict[str, tuple[Mode, Isolation]] = {
    "local-image": ("image", "namespace"),
    "local-directory": ("directory", "namespace"),
    "local-directory-plain": ("directory", "process"),
}


def local_backend(kind: str, state_dir: Path) -> LocalBackend:
    """Return the local backend in one of its modes, or skip where this machine cannot do that."""
    mode, isolation = LOCAL[kind]
    reason = why_no_images() if mode == "image" else why_no_namespace() if isolation == "namespace" else ""
    if reason:
        pytest.skip(f"{kind} needs what this machine or user lacks: {reason}")
    return LocalBackend(state_dir, mode, isolation=isolation, poll_interval_s=0.02)


@pytest.fixture(scope="session")
def _double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    """One double of EC2 for all tests of a worker; its nodes really run."""
    with running_double(tmp_path_factory.mktemp("ec2")) as double:
        yield double


def _aws(request: pytest.FixtureRequest) -> Lab:
    if why_not():
        pytest.skip(f"nodes of EC2's double cannot run here: {why_not()}")
    return aws_lab(request.getfixturevalue("_double"))


@pytest.fixture(params=[*LOCAL, "aws"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A backend whose nodes really run, and a proof that nothing of it stays."""
    if request.param == "aws":
        yield from _clean(_aws(request))
    else:
        yield from _clean(Lab(local_backend(request.param, tmp_path / "state")))


@pytest.fixture(params=list(LOCAL))
def on_this_machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """The local backend in each of its modes."""
    yield from _clean(Lab(local_backend(request.param, tmp_path / "state")))


@pytest.fixture(params=["fake", *LOCAL, "aws"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """Any backend, for the bodies that look at the protocol alone."""
    if request.param == "fake":
        # Nothing takes time there: its clock stands still, so that nodes neither boot late nor end by themselves.
        instant = Timings(create_s=0, boot_s=0, attach_s=0, detach_s=0, terminate_s=0, delete_s=0)
        yield from _clean(Lab(FakeBackend(timings=instant, attach_at_launch=True)))
    elif request.param == "aws":
        yield from _clean(_aws(request))
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

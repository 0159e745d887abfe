"""A host of nodes, and a proof that nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_rankvol.engine.bootstrap import BootSpec
from tests.clouds.nodes.ec2_kit import RANK, Cloud, volume
from tests.clouds.nodes.host import why_not
from tests.clouds.nodes.kit import Lab, leftovers, links, namespaces, until


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    if why_not():
        pytest.skip(f"nodes cannot run here: {why_not()}")
    before = links()
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.host.close()
    until(lambda: not leftovers(tmp_path), lambda: f"left: {leftovers(tmp_path)}", 5)
    assert links() == before, "this machine's network was changed"
    assert not namespaces()
    assert {each.name for each in (tmp_path / "nodes").iterdir()} <= {"nodes"}, "the image was left"


@pytest.fixture
def cloud(lab: Lab) -> Cloud:
    return Cloud(lab)


@pytest.fixture
def disk(lab: Lab) -> Path:
    return lab.disk("01")


@pytest.fixture
def rank(disk: Path) -> BootSpec:
    return replace(RANK, attachments=(volume(disk, may_format=True),))

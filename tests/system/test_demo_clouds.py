"""``make demo-aws`` and ``make demo-gcp``: the flights on disks and machines of doubles, which really run."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.clouds.nodes.host import why_not
from tests.clouds.nodes.kit import leftovers, links
from tests.clouds.nodes.packages import why_no_aws_cli, why_no_flights

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("cloud", ["aws", pytest.param("gcp", marks=pytest.mark.slow)])
def test_the_demo_gives_the_totals_of_one_process_and_leaves_nothing(cloud: str, tmp_path: Path) -> None:
    """From the double's start over separate disks and a bucket to a result, and nothing stays of it."""
    if why := why_not() or (why_no_aws_cli() if cloud == "aws" else "") or why_no_flights():
        pytest.skip(why)
    before = links()
    home, out = tmp_path / "home", tmp_path / "out"
    command = [sys.executable, "-m", f"demo.run_demo_{cloud}", "--nodes=2", f"--home={home}", f"--out={out}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    log = (home / "demo.log").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert "336,776 flights of 16 carriers in 12 months" in done.stdout
    assert "Disks that nodes formatted and mounted: 2" in done.stdout
    assert "Left behind: none" in done.stdout
    assert "to the last bit" in done.stdout
    totals = f"SELECT sum(flights)::INTEGER FROM '{out / 'flights.parquet'}'"
    assert duckdb.execute(totals).fetchall() == [(336_776,)]
    assert (out / "flights.png").read_bytes().startswith(b"\x89PNG")
    assert leftovers(tmp_path) == []
    assert links() == before
    assert not (home / "double").exists()


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_without_root_it_says_why_it_cannot_run(
    cloud: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And touches nothing."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", [f"demo-{cloud}"])
    assert importlib.import_module(f"demo.run_demo_{cloud}").main() == 2
    assert "need root" in capsys.readouterr().out

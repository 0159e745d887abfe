"""The gather node: every rank's volumes, read-only, and only those that are complete."""

from __future__ import annotations

import pytest

from airflow_rankvol.records import Volume
from tests.contract.support import Lab


@pytest.fixture
def volumes(real: Lab) -> list[Volume]:
    """Three volumes: rank 0 and 1 are done, rank 2 failed after writing something."""
    made = [real.volume(rank) for rank in range(3)]
    for rank, volume in enumerate(made):
        commands = f"echo {rank} >$VOLUME_PATH/part" + ("; exit 1" if rank == 2 else "")
        real.run_rank(volume, rank=rank, commands=commands, digest=f"digest-{rank}")
    return made


def test_gather_reads_every_rank(real: Lab, volumes: list[Volume]) -> None:
    node = real.gather(*volumes[:2], commands="cat $RANKS_PATH/*/data_volume/part; echo 2 >$RANKVOL_RESULT")
    report = real.report(node)
    assert (report.phase, report.collected, report.missing) == ("done", [0, 1], [])
    assert (report.text("log_tail"), report.text("output")) == ("0\n1\n", "2\n")


def test_a_missing_rank_keeps_the_gather_commands_from_running(real: Lab, volumes: list[Volume]) -> None:
    report = real.report(real.gather(*volumes, commands="echo ran", missing=(3,)))
    assert (report.phase, report.exit_code) == ("incomplete", 1)
    assert (report.collected, sorted(report.missing)) == ([0, 1], [2, 3])
    assert report.text("log_tail") == ""


def test_ranks_that_did_not_succeed_are_left_out_when_allowed(real: Lab, volumes: list[Volume]) -> None:
    node = real.gather(*volumes[:2], commands="ls $RANKS_PATH", missing=(2, 3), allow_missing=True)
    report = real.report(node)
    assert (report.phase, report.collected, report.missing) == ("done", [0, 1], [2, 3])
    assert report.text("log_tail") == "0\n1\n"


def test_a_rank_that_lost_its_record_is_never_passed_over(real: Lab, volumes: list[Volume]) -> None:
    blank = real.volume(3)
    report = real.report(real.gather(*volumes, blank, commands="echo ran", allow_missing=True))
    assert (report.phase, report.collected, report.missing) == ("incomplete", [0, 1], [2, 3])
    assert report.text("log_tail") == ""


def test_another_runs_record_does_not_count(real: Lab, volumes: list[Volume]) -> None:
    report = real.report(real.gather(*volumes[:2], identity="another.run"))
    assert (report.phase, report.missing) == ("incomplete", [0, 1])


def test_a_rank_of_two_volumes_is_gathered_with_both(real: Lab) -> None:
    first, second = real.volume(name="first"), real.volume(name="second")
    real.run_rank(first, second, commands="touch $VOLUME_PATH/a")
    node = real.gather(first, second, paths=["/data", "/scratch"], commands="cd $RANKS_PATH/0; ls; ls data/a")
    assert real.report(node).text("log_tail") == "data\nscratch\ndata/a\n"


def test_gather_cannot_write_to_a_ranks_volume(image: Lab) -> None:
    volume = image.volume()
    image.run_rank(volume)
    report = image.report(image.gather(volume, commands="touch $RANKS_PATH/0/data_volume/x"))
    assert report.exit_code == 1
    assert "Read-only file system" in report.text("log_tail")

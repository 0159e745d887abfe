"""What only real disks show: formatting with care, and a size that holds."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

import pytest

from airflow_rankvol.backends import _local_disk as disk
from airflow_rankvol.backends._local_linux import BLKROSET, open_loop
from airflow_rankvol.backends.local import LocalBackend
from airflow_rankvol.errors import BackendError, QuotaExceeded, VolumeBusy
from airflow_rankvol.records import Volume
from tests.clouds.nodes.kit import fill_as_from_one_snapshot
from tests.contract.support import Lab, until


def disk_of(lab: Lab, volume: Volume) -> Path:
    """Return a volume's image."""
    assert isinstance(lab.backend, LocalBackend)
    return lab.backend.store.volume_dir(volume.id) / "disk.img"


@pytest.mark.parametrize("offset", [0, 1 << 19])
def test_bytes_that_no_filesystem_explains_are_never_formatted(image: Lab, offset: int) -> None:
    volume = image.volume()
    path = disk_of(image, volume)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"precious bytes")
    before = path.read_bytes()
    report = image.run_rank(volume)
    assert (report.phase, report.exit_code) == ("setup", 125)
    assert "holds data that blkid does not know" in report.text("error")
    assert "It was not touched" in report.text("error")
    assert path.read_bytes() == before


def test_a_partition_table_is_never_formatted(image: Lab) -> None:
    volume = image.volume()
    path = disk_of(image, volume)
    table = bytearray(512)
    table[446:462] = bytes([0x80, 0, 2, 0, 0x83, 0, 9, 0, 1, 0, 0, 0, 0, 8, 0, 0])
    table[510:512] = b"\x55\xaa"
    with path.open("r+b") as file:
        file.write(table)
    before = path.read_bytes()
    assert image.run_rank(volume).phase == "setup"
    assert path.read_bytes() == before


def test_a_damaged_filesystem_is_an_error_and_stays_as_it_is(image: Lab) -> None:
    volume = image.volume()
    image.run_rank(volume)
    path = disk_of(image, volume)
    with path.open("r+b") as file:
        file.seek(1024 + 24)  # s_log_block_size
        file.write(b"\xff\xff\xff\xff")
    report = image.run_rank(volume, attempt=2, may_format=True)
    assert (report.phase, report.reused) == ("setup", False)


@pytest.mark.parametrize("cut", [1 << 10, 1 << 17, 1 << 20])
def test_a_format_that_was_cut_off_is_made_again(image: Lab, cut: int) -> None:
    volume = image.volume()
    image.run_rank(volume)
    path = disk_of(image, volume)
    size = path.stat().st_size
    # As a killed mkfs leaves it: the mark is there, the tables are, and the superblock (at 1 KiB) is not yet.
    mark = b"rankvol is formatting " + volume.id.encode()
    with path.open("r+b") as file:
        file.write(bytes(cut))
        file.seek(1024)
        file.write(bytes(1024))
        file.seek((size // 4096 - 16) * 4096)
        assert file.read(4096) == bytes(4096), "the mark of the format stayed"
        file.seek((size // 4096 - 16) * 4096)
        file.write(mark)
    # Nothing was ever mounted from it, so the reaper need not keep it.
    assert image.backend.holds_result(volume.id, image.key) is False
    assert image.run_rank(volume, attempt=2, may_format=False).phase == "setup"
    assert image.run_rank(volume, attempt=3, commands="echo again").text("log_tail") == "again\n"
    with path.open("rb") as file:
        assert mark not in file.read()


def test_a_missing_image_is_an_error_that_says_what_to_look_at(image: Lab) -> None:
    volume = image.volume()
    disk_of(image, volume).unlink()
    assert "no device appeared within 2 s" in image.run_rank(volume).text("error")


def test_a_full_volume_fails_the_command_and_not_the_report(image: Lab) -> None:
    report = image.run_rank(image.volume(size="16MB"), commands="echo begin; head -c 50M /dev/zero >$VOLUME_PATH/big")
    assert (report.phase, report.exit_code) == ("failed", 1)
    assert "No space left on device" in report.text("log_tail")


def test_a_full_volume_without_room_for_the_record_is_a_failure(image: Lab) -> None:
    # Block by block at the end: a write of many may leave some free.
    commands = (
        "cd $VOLUME_PATH; head -c 50M /dev/zero >big || true; sync -f .\n"
        "for more in 1 2 3 4 5 6; do dd if=/dev/zero of=more-$more bs=1k 2>&1 || sync -f .; done"
    )
    report = image.run_rank(image.volume(size="16MB"), commands=commands)
    assert (report.phase, report.exit_code) == ("failed", 1)
    assert "completion record could not be written" in report.text("error")
    again = image.run_rank(image.volume(size="16MB"), commands="rm $VOLUME_PATH/big", attempt=2)
    assert (again.phase, again.reused) == ("done", False)


def test_ranks_have_disks_of_their_own(image: Lab) -> None:
    volumes = [image.volume(rank) for rank in range(2)]
    nodes = [
        image.node(volume, rank=rank, commands=f"echo {rank} >$VOLUME_PATH/f; cat $VOLUME_PATH/f; stat -c %m .")
        for rank, volume in enumerate(volumes)
    ]
    assert [image.report(node).text("log_tail")[0] for node in nodes] == ["0", "1"]


def test_gather_mounts_copies_of_one_filesystem_beside_each_other(image: Lab) -> None:
    volumes = [image.volume(rank) for rank in range(2)]
    fill_as_from_one_snapshot(*(disk_of(image, volume) for volume in volumes))
    for rank, volume in enumerate(volumes):
        assert image.run_rank(volume, rank=rank, commands=f"echo {rank} >$VOLUME_PATH/part").phase == "done"
    report = image.report(image.gather(*volumes, commands="cat $RANKS_PATH/*/data_volume/part"))
    assert (report.phase, report.collected, report.text("log_tail")) == ("done", [0, 1], "0\n1\n")


def test_gather_says_of_a_volume_why_it_cannot_be_read(image: Lab) -> None:
    """It is there, and its rank had succeeded: so nobody is told that it has no completion record, or is gone."""
    volumes = [image.volume(rank) for rank in range(2)]
    for rank, volume in enumerate(volumes):
        image.run_rank(volume, rank=rank)
    with disk_of(image, volumes[1]).open("r+b") as file:
        file.seek(1024 + 24)  # s_log_block_size
        file.write(b"\xff\xff\xff\xff")
    report = image.report(image.gather(*volumes, allow_missing=True, commands="echo ran"))
    assert (report.phase, report.exit_code, report.missing) == ("setup", 125, [])
    assert report.text("error").startswith(f"rank 1: volume data-1 ({volumes[1].id}) cannot be read: ")
    assert "ext4 on /dev/loop" in report.text("error")
    assert "could not be mounted at /ranks/1/data_volume: " in report.text("error")
    assert "It was not touched: look at it by hand" in report.text("error")
    assert report.text("log_tail") == ""


def test_a_full_state_disk_is_a_quota(image: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("airflow_rankvol.backends._local_disk.make_disk", full)
    with pytest.raises(QuotaExceeded, match="No space left"):
        image.volume()
    assert image.see().volumes == ()


def test_ids_cannot_name_files_elsewhere(image: Lab) -> None:
    with pytest.raises(BackendError, match="no id of this backend"):
        image.backend.delete_volume("../../etc", image.guard)


def test_a_volume_tells_whether_a_rank_has_finished_on_it(on_this_machine: Lab) -> None:
    """Whatever became of the nodes; of an earlier try that was cleared, too, and for its own group alone."""
    lab = on_this_machine
    blank, failed, finished = (lab.volume(rank) for rank in range(3))
    lab.run_rank(failed, rank=1, commands="touch $VOLUME_PATH/x; exit 3")
    lab.run_rank(finished, rank=2)

    def told(volume: Volume) -> bool | None:
        until(lambda: not disk.loops_of(disk_of(lab, volume)), "the kernel is still flushing it")
        return lab.backend.holds_result(volume.id, lab.key)

    assert [told(volume) for volume in (blank, failed, finished)] == [False, False, True]
    assert lab.backend.holds_result(finished.id, "ffffffff") is False
    lab.run_rank(finished, rank=2, attempt=2, digest="another", commands="exit 3")
    assert told(finished) is True


def test_of_a_volume_in_use_nobody_tells(image: Lab) -> None:
    volume = image.volume()
    image.node(volume, commands="sleep 60")
    with pytest.raises(VolumeBusy):
        image.backend.holds_result(volume.id, image.key)


def test_every_volume_of_a_rank_tells_that_it_has_finished(on_this_machine: Lab) -> None:
    """Also where a full disk has no room for anything: the mark is a file renamed."""
    lab = on_this_machine
    volumes = [lab.volume(name="first"), lab.volume(name="second", size="16MB")]

    def told() -> list[bool | None]:
        until(lambda: not any(disk.loops_of(disk_of(lab, volume)) for volume in volumes), "still being flushed")
        return [lab.backend.holds_result(volume.id, lab.key) for volume in volumes]

    assert lab.run_rank(*volumes, commands="exit 3").exit_code == 3
    assert told() == [False, False]
    full = "paths=($(tr -d '[]\",' <<<$VOLUME_PATHS)); head -c 64M /dev/zero >${paths[1]}/full || true"
    limited = isinstance(lab.backend, LocalBackend) and lab.backend.mode == "image"
    assert lab.run_rank(*volumes, attempt=2, commands=full if limited else "true").exit_code == 0
    assert told() == [True, True]


def test_an_image_whose_journal_was_not_applied_is_read_after_it_was(image: Lab) -> None:
    """As after a crash of the machine: what the journal holds does not show in the directories yet."""
    volume = image.volume()
    image.run_rank(volume)
    until(lambda: not disk.loops_of(disk_of(image, volume)), "the kernel is still flushing it")
    command = ["debugfs", "-w", "-R", "feature needs_recovery", str(disk_of(image, volume))]
    subprocess.run(command, check=True, capture_output=True)
    assert image.backend.holds_result(volume.id, image.key) is True
    features = subprocess.run(["debugfs", "-R", "features", command[4]], capture_output=True, text=True, check=True)
    assert "needs_recovery" not in features.stdout


def test_what_an_earlier_user_of_a_loop_device_has_set_does_not_outlive_it(image: Lab) -> None:
    """The kernel keeps `blockdev --setro` beyond the image that it was meant for."""
    path = str(disk_of(image, image.volume()))
    for read_only in (False, True, False):
        loop, device = open_loop(path, read_only=read_only)
        try:
            assert Path(f"/sys/block/{device[5:]}/ro").read_text() == f"{read_only:d}\n"
            fcntl.ioctl(loop, BLKROSET, struct.pack("i", 1))
        finally:
            os.close(loop)
        until(lambda: not disk.loops_of(Path(path)), "the kernel has not cleared it yet")


def test_of_a_directory_that_cannot_be_read_nobody_tells(image: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged block, or no debugfs here, is no word that there is no result."""
    volume = image.volume()
    image.run_rank(volume)
    until(lambda: not disk.loops_of(disk_of(image, volume)), "the kernel is still flushing it")
    path = disk_of(image, volume)
    with monkeypatch.context() as bare:
        bare.setattr(disk, "search_path", lambda: str(path.parent))
        assert image.backend.holds_result(volume.id, image.key) is None
    command = ["debugfs", "-R", f"blocks /.rankvol/{image.key}", str(path)]
    blocks = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    with path.open("r+b") as file:
        file.seek(int(blocks[0]) * _block_size(path) + 40)
        file.write(b"\xff" * 8)
    assert image.backend.holds_result(volume.id, image.key) is None


def _block_size(path: Path) -> int:
    stats = subprocess.run(["debugfs", "-R", "stats -h", str(path)], check=True, capture_output=True, text=True).stdout
    return int(next(line.split()[-1] for line in stats.splitlines() if line.startswith("Block size:")))

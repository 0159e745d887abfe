"""What gather copies to the destination, what the manifest says of it, and what fails instead of being lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol.records import Volume
from tests.contract.support import Lab, Report

NAMES = [
    "part",
    "a b/c'd\"e.txt",
    "back\\slash",
    "tab\tin it",
    "grüße/日本",
    ".hidden",
    "-rf",
    "deep/er/x/y",
    "$HOME `id` *",
]


def script_of(names: list[str]) -> str:
    """Return commands that write each of these files, its name as its content."""
    lines = ["cd $VOLUME_PATH"]
    for name in names:
        octal = "".join(f"\\{byte:03o}" for byte in name.encode())
        lines.append(f'name=$(printf \'{octal}\'); mkdir -p -- "./$(dirname -- "$name")"; printf %s "$name" >"./$name"')
    return "\n".join(lines)


def manifest_of(copied: dict[str, bytes], name: str = "manifest.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(copied[name])
    return found


def collect(lab: Lab, volumes: list[Volume], destination: str, *globs: str, **more: Any) -> Report:
    """Run a gather node that copies to a destination, and return its report."""
    node = lab.gather(*volumes, destination=destination, collect=globs or ("**",), **more)
    report = lab.report(node)
    lab.backend.delete_node(node.id, lab.guard)
    return report


@pytest.fixture
def volumes(real: Lab) -> list[Volume]:
    """The volumes of two ranks that are done; rank 1 left one file."""
    made = [real.volume(rank) for rank in range(2)]
    links = "ln -s /etc/hostname link; ln -s deep linked; : >empty"
    real.run_rank(made[0], commands=f"{script_of(NAMES)}\n{links}")
    real.run_rank(made[1], rank=1, commands="echo one >$VOLUME_PATH/part; mkdir $VOLUME_PATH/none")
    return made


def test_everything_of_every_rank_is_copied_whatever_it_is_called(
    real: Lab, volumes: list[Volume], tmp_path: Path
) -> None:
    destination = real.destination(tmp_path)
    report = collect(real, volumes, destination)
    assert (report.phase, report.text("error"), report.collected) == ("done", "", [0, 1])
    copied = real.copied(destination)
    expected = {f"rank=000/data_volume/{name}": name.encode() for name in NAMES}
    expected |= {"rank=000/data_volume/empty": b"", "rank=001/data_volume/part": b"one\n"}
    assert {name: body for name, body in copied.items() if name != "manifest.json"} == expected
    manifest = manifest_of(copied)
    sums = {name: (len(body), hashlib.sha256(body).hexdigest()) for name, body in expected.items()}
    assert {item["path"]: (item["size"], item["sha256"]) for item in manifest["files"]} == sums
    assert len(manifest["files"]) == len(sums)
    total = sum(size for size, _ in sums.values())
    assert (manifest["bytes"], manifest["ranks"], manifest["missing"]) == (total, [0, 1], [])
    assert (manifest["destination"], manifest["key"]) == (destination, real.key)
    summary = {"destination": destination, "files": len(sums), "bytes": total}
    assert json.loads(report.text("output")) == {**summary, "manifest": f"{destination}/manifest.json"}


def test_globs_choose_and_the_commands_come_first_and_have_the_result(
    real: Lab, volumes: list[Volume], tmp_path: Path
) -> None:
    destination = real.destination(tmp_path)
    globs = ("part", "deep/**", "*.txt", "par?", ".rankvol/*/log")
    report = collect(real, volumes, destination, *globs, commands="echo 7 >$RANKVOL_RESULT")
    assert (report.phase, report.text("output")) == ("done", "7\n")
    ours = f".rankvol/{real.key}/log"
    chosen = {f"rank=000/data_volume/{name}" for name in ("part", "deep/er/x/y", ours)}
    chosen |= {f"rank=001/data_volume/{name}" for name in ("part", ours)}
    assert set(real.copied(destination)) == {*chosen, "manifest.json"}


def test_collecting_again_replaces_what_an_earlier_try_copied(real: Lab, volumes: list[Volume], tmp_path: Path) -> None:
    destination = real.destination(tmp_path)
    assert collect(real, volumes[1:], destination).phase == "done"
    real.run_rank(volumes[1], rank=1, commands="echo other >$VOLUME_PATH/part", digest="digest-2", attempt=2)
    assert collect(real, volumes[1:], destination, attempt=2).phase == "done"
    copied = real.copied(destination)
    assert copied["rank=001/data_volume/part"] == b"other\n"
    (only,) = manifest_of(copied)["files"]
    assert only["sha256"] == hashlib.sha256(b"other\n").hexdigest()


def test_a_part_of_gather_has_a_manifest_of_its_own(real: Lab, volumes: list[Volume], tmp_path: Path) -> None:
    destination = real.destination(tmp_path)
    report = collect(real, volumes[1:], destination, rank=-2, parts=3)
    assert json.loads(report.text("output"))["manifest"] == f"{destination}/manifest-1.json"
    manifest = manifest_of(real.copied(destination), "manifest-1.json")
    assert (manifest["part"], manifest["parts"], manifest["ranks"]) == (1, 3, [1])


def test_two_volumes_of_a_rank_lie_beside_each_other(real: Lab, tmp_path: Path) -> None:
    first, second = real.volume(name="first"), real.volume(name="second")
    other = "$(printf %s $VOLUME_PATHS | tr -d '[]\"' | cut -d, -f2)"
    assert real.run_rank(first, second, commands=f"echo a >$VOLUME_PATH/a; echo b >{other}/b").exit_code == 0
    destination = real.destination(tmp_path)
    assert collect(real, [first, second], destination, paths=["/data", "/scratch"]).phase == "done"
    assert set(real.copied(destination)) == {"rank=000/data/a", "rank=000/scratch/b", "manifest.json"}


@pytest.mark.parametrize("case", ["commands fail", "no match", "no place", "no UTF-8"])
def test_what_cannot_be_copied_fails_gather_with_the_reason(
    real: Lab, volumes: list[Volume], tmp_path: Path, case: str
) -> None:
    destination, globs, commands, reason = real.destination(tmp_path), ("**",), "true", ""
    if case == "commands fail":
        commands = "exit 3"
    elif case == "no match":
        globs, reason = ("*.parquet",), "collect matches no file on any volume"
    elif case == "no place" and destination.startswith("s3:"):
        destination, reason = "s3://nowhere/x", "NoSuchBucket"
    elif case == "no place" and destination.startswith("gs:"):
        destination, reason = "gs://nowhere/x", "HTTP 404: The specified bucket does not exist"
    elif case == "no place":
        (tmp_path / "results").write_text("a file")
        reason = "results"
    else:
        reason = "name is not UTF-8"
        real.run_rank(volumes[1], rank=1, digest="d2", attempt=2, commands="echo x >$VOLUME_PATH/$(printf 'a\\377b')")
    report = collect(real, volumes, destination, *globs, commands=commands)
    assert (report.phase, report.exit_code) == ("failed", 3 if case == "commands fail" else 1)
    error = report.text("error")
    assert reason in error
    if reason:
        assert f"could not be copied to {destination}" in error
        assert "volumes are kept" in error
    if case != "no place":
        assert real.copied(destination) == {}

"""The local backend's files: what is damaged or left half made is told, cleared, and hides nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.backends.local import LocalBackend
from airflow_rankvol.errors import BackendError
from tests.contract.support import Lab, leftovers

NOBODY = 65534


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """The local backend with directories, for what needs no node."""
    return Lab(LocalBackend(tmp_path / "state", "directory"))


def local(lab: Lab) -> LocalBackend:
    """Return the lab's backend as what it is."""
    assert isinstance(lab.backend, LocalBackend)
    return lab.backend


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """Give a directory of an ordinary user, and be that user."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="rankvol-store-") as folder:
        if root:
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


def test_a_look_at_everything_clears_what_dead_processes_left(lab: Lab) -> None:
    store = local(lab).store
    store.prepare()
    for folder in ("new/999999999.1.abc", "trash/vol-1.abc"):
        (store.root / folder / "data").mkdir(parents=True)
    assert lab.backend.list_owned(Selector(lab.owner)).volumes == ()
    assert leftovers(store.root, []) == []


def test_a_deleted_volume_with_read_only_directories_leaves_nothing() -> None:
    with ordinary_user() as folder:
        lab = Lab(LocalBackend(folder / "state", "directory"))
        volume = lab.volume()
        cache = local(lab).store.volume_dir(volume.id) / "data" / "mod" / "cache"
        cache.mkdir(parents=True)
        (cache / "file").write_text("x")
        for path in (cache, cache.parent):
            path.chmod(0o500)
        lab.backend.delete_volume(volume.id, lab.guard)
        assert leftovers(folder / "state", []) == []


@pytest.mark.parametrize("content", ["", '{"id": "vol', "[]", "{}"])
def test_a_broken_volume_record_hides_no_other_and_is_told(
    lab: Lab, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = lab.volume(0), lab.volume(1)
    path = local(lab).store.volume_dir(broken.id) / "volume.json"
    path.write_text(content)
    for observed in (lab.see(), lab.backend.list_owned(Selector(lab.owner))):
        assert [volume.id for volume in observed.volumes] == [whole.id]
    assert caplog.text.count(str(path)) == 1
    assert lab.volume(1).id == whole.id
    lab.backend.delete_volume(whole.id, lab.guard)
    with pytest.raises(BackendError, match=rf"{path} is no record .* Mend the file"):
        lab.backend.delete_volume(broken.id, lab.guard)
    with pytest.raises(BackendError, match=str(path)):  # its name may be the broken one's
        lab.volume(0)
    assert path.read_text() == content
    shutil.rmtree(path.parent)


def test_records_are_on_the_disk_before_they_appear(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    lab.volume()
    assert [name for name in synced if name.startswith("volume.json")] != []


def test_files_of_a_deleted_volume_that_stay_are_an_error_and_removed_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    volume = lab.volume()

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(1, "Operation not permitted", f"{path}/data/immutable")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", refuse)
        with pytest.raises(BackendError, match=rf"trash/{volume.id}.*data/immutable.*by hand"):
            lab.backend.delete_volume(volume.id, lab.guard)
        assert lab.backend.list_owned(Selector(lab.owner)).volumes == ()
        assert f"trash/{volume.id}" in caplog.text
    lab.backend.list_owned(Selector(lab.owner))
    assert leftovers(local(lab).state_dir, []) == []

"""What the local backend refuses in the plan, and what it only mentions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol.backends.local import LocalBackend
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.spec.templates import NodeTemplate


def plan(**fields: Any) -> Plan:
    """Return the plan of a job of two ranks."""
    job = {"nodes": 2, "volumes": ["data-${NODE_RANK}:/data_volume"], "commands": ["true"], **fields}
    return make_plan(RankJob.model_validate(job), RunIdentity("lab", "dag", "run", "group"))


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    """A backend that makes directories, whatever this machine can do."""
    return LocalBackend(tmp_path / "state", "directory")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"snapshot": "snap-1"}, "snapshot='snap-1'.*start blank"),
        ({"image": "debian"}, "image='debian'.*start blank"),
        ({"reclaim": "snapshot"}, "has no snapshots"),
    ],
)
def test_what_would_change_its_meaning_is_refused(
    backend: LocalBackend, template: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"volume data-.*{message}"):
        backend.check(plan(volume_template=template))


def test_what_only_tunes_a_cloud_is_ignored_aloud(backend: LocalBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backend.check(plan(volume_template={"type": "gp3", "iops": 6000}, node={"machine_type": "c7i.xlarge"}))
    expected = "ignored on the local backend: node.machine_type, volume_template.iops, volume_template.type"
    assert expected in caplog.text
    assert not backend.state_dir.exists()


def test_every_cloud_field_of_a_node_is_ignored_aloud(backend: LocalBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    texts = {"image": "i", "zones": "a", "subnets": "s", "security_groups": "g", "instance_profile": "p"}
    texts |= {"key_name": "k", "max_price": "1", "root_size": "9", "root_type": "gp3", "report": "ssm"}
    node = {**texts, "machine_type": "c7i.xlarge", "spot": True, "tags": {"a": "b"}}
    backend.check(plan(node={**node, "lifetime": "1h", "boot_timeout": "1m", "gpus_per_node": 1}))
    for field in NodeTemplate.model_fields:
        assert (f"node.{field}" in caplog.text) == (field in node), field
    caplog.clear()
    backend.check(plan())
    assert "ignored" not in caplog.text


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("s3://bucket/x", "'s3://bucket/x'; the local backend copies to a directory.*'file:///path'"),
        ("gs://bucket/x", "'file:///path'"),
        ("/ranks/x", "lies where the gather node has the volumes"),
        ("/nowhere at all/x", "there is no /nowhere at all. Make it"),
        ("{tmp}/file/x", "is no directory that user"),
    ],
)
def test_a_destination_that_gather_could_not_write_to_is_refused(
    backend: LocalBackend, tmp_path: Path, destination: str, message: str
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=f"destination: .*{message}"):
        backend.check(plan(destination=destination.format(tmp=tmp_path)))
    backend.check(plan(destination=f"file://{tmp_path}/new/results"))
    assert not (tmp_path / "new").exists()


def test_more_than_the_free_space_is_mentioned(backend: LocalBackend, caplog: pytest.LogCaptureFixture) -> None:
    backend.check(plan(volume_template={"size": "60TB"}))
    assert "take space only as they fill" in caplog.text


@pytest.mark.parametrize(("mode", "message"), [(0o644, "mode 0644"), (0o4600, "mode 4600"), (None, "No such file")])
def test_a_secret_that_is_no_private_file_is_refused(
    backend: LocalBackend, tmp_path: Path, mode: int | None, message: str
) -> None:
    path = tmp_path / "secret"
    if mode is not None:
        path.write_text("x")
        path.chmod(mode)
    with pytest.raises(ConfigError, match=f"secret_env.TOKEN.*{message}.*expected an absolute path"):
        backend.check(plan(secret_env={"TOKEN": str(path)}))


def test_a_link_to_a_secret_is_refused(backend: LocalBackend, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    backend.check(plan(secret_env={"TOKEN": str(tmp_path / "secret")}))
    with pytest.raises(ConfigError, match="no regular file"):
        backend.check(plan(secret_env={"TOKEN": str(tmp_path / "link")}))


def test_auto_says_in_the_log_which_mode_it_took_and_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("airflow_rankvol.backends._local_disk.why_no_images", lambda: "loop devices need root")
    LocalBackend(tmp_path, "auto").check(plan())
    assert "are directories, without a size limit: loop devices need root" in caplog.text


def test_an_image_mode_that_cannot_work_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_rankvol.backends._local_disk.why_no_images", lambda: "not installed: blkid")
    with pytest.raises(ConfigError, match=r"mode 'image' does not work.*blkid"):
        LocalBackend(tmp_path, "image").check(plan())


def test_the_default_owner_stands_for_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    owners = {LocalBackend(tmp_path / name).default_owner() for name in (".", "link", "other")}
    assert len(owners) == 2

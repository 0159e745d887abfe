"""From connections to backends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_rankvol.backends.local import LocalBackend
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.hooks import LocalRankVolHook, get_backend, get_owner


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, conn_type: str, **extra: object) -> None:
    """Define a connection in the environment."""
    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    monkeypatch.setenv(name, json.dumps({"conn_type": conn_type, "extra": extra}))


def test_an_undefined_default_connection_means_this_machine() -> None:
    """Nothing has to be configured to begin with."""
    backend = get_backend()
    assert isinstance(backend, LocalBackend)
    assert backend.state_dir.name == "rankvol"


def test_another_undefined_connection_is_an_error_that_names_it() -> None:
    """A typo must not silently run the job somewhere else."""
    with pytest.raises(ConfigError, match="'aws_prod' is not defined"):
        get_backend("aws_prod")


def test_the_connections_extra_reaches_the_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """State directory, mode and poll interval come from the extra."""
    connect(monkeypatch, "here", "rankvol_local", state_dir=str(tmp_path), mode="directory", poll_interval=0.5)
    backend = get_backend("here")
    assert isinstance(backend, LocalBackend)
    assert (backend.state_dir, backend.mode, backend.poll_interval_s) == (tmp_path, "directory", 0.5)


@pytest.mark.parametrize(
    ("conn_type", "extra", "message"),
    [
        ("postgres", {}, "of type 'postgres'.*knows.*rankvol_local"),
        ("rankvol_local", {"mod": "image"}, "unknown field.*mod.*known:.*mode"),
        ("rankvol_local", {"mode": "disk"}, "found 'disk'; expected auto, image or directory"),
    ],
)
def test_a_wrong_connection_says_what_is_known(
    monkeypatch: pytest.MonkeyPatch, conn_type: str, extra: dict[str, str], message: str
) -> None:
    """A wrong type, field or value is named together with what is allowed."""
    connect(monkeypatch, "wrong", conn_type, **extra)
    with pytest.raises(ConfigError, match=message):
        get_backend("wrong")


def test_the_owner_comes_from_the_extra_then_the_config_then_the_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three sources in that order; the local default is a hash of the state directory."""
    connect(monkeypatch, "here", "rankvol_local", state_dir=str(tmp_path), owner="team-a")
    connect(monkeypatch, "there", "rankvol_local", state_dir=str(tmp_path))
    backend = get_backend("there")
    assert get_owner("there", backend) == backend.default_owner()
    monkeypatch.setenv("AIRFLOW__RANKVOL__OWNER", "platform")
    assert get_owner("there", backend) == "platform"
    assert get_owner("here", backend) == "team-a"


def test_a_cloud_without_an_owner_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the backend has no default, leftovers could not be found again."""
    monkeypatch.setattr(LocalBackend, "default_owner", lambda _self: None)
    with pytest.raises(ConfigError, match="AIRFLOW__RANKVOL__OWNER"):
        get_owner("rankvol_default", get_backend())


def test_test_connection_says_what_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The form's button answers with the mode, or with the reason."""
    connect(monkeypatch, "here", "rankvol_local", state_dir=str(tmp_path / "state"), mode="directory")
    assert LocalRankVolHook("here").test_connection() == (
        True,
        f"{tmp_path / 'state'} is usable; volumes are made in directory mode",
    )
    (tmp_path / "file").write_text("in the way")
    connect(monkeypatch, "here", "rankvol_local", state_dir=str(tmp_path / "file"), mode="directory")
    worked, reason = LocalRankVolHook("here").test_connection()
    assert not worked
    assert "file" in reason

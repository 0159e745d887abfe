"""From connections to backends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

from airflow_rankvol.backends.local import LocalBackend
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.hooks import LocalRankVolHook, aget_backend, get_backend, get_owner


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


def test_the_connection_form_asks_for_what_the_extra_takes() -> None:
    """As the UI gets it: three labelled fields with their bounds, and none that mean nothing here."""
    found = {each.connection_type: each for each in HookMetaService.hook_meta_data()}["rankvol_local"]
    assert found.extra_fields is not None
    fields: dict[str, Any] = dict(found.extra_fields)
    assert {name: field["schema"]["title"] for name, field in fields.items()} == {
        "state_dir": "State directory",
        "mode": "Volume mode",
        "owner": "Owner",
    }
    assert all(len(field["description"]) > 20 for field in fields.values())
    assert fields["mode"]["schema"]["enum"] == ["auto", "image", "directory", None]
    assert found.standard_fields is not None
    shown = found.standard_fields.model_dump()
    hidden = {name for name, field in shown.items() if field and field["hidden"]}
    assert hidden == {"host", "url_schema", "login", "password", "port"}


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
        ("rankvol_local", {"mode": ["image"]}, r"mode .*found \['image'\]; expected auto, image or directory"),
        (
            "rankvol_local",
            {"poll_interval": "abc"},
            "poll_interval .*found 'abc'; expected a number of seconds above 0",
        ),
        ("rankvol_local", {"poll_interval": [1]}, r"poll_interval .*found \[1\]; expected a number of seconds"),
        ("rankvol_local", {"poll_interval": True}, "poll_interval .*found True; expected a number of seconds"),
        ("rankvol_local", {"poll_interval": 0}, "poll_interval .*found 0; expected a number of seconds"),
        ("rankvol_local", {"poll_interval": -0.5}, "poll_interval .*found -0.5; expected a number of seconds"),
        ("rankvol_local", {"poll_interval": "inf"}, "poll_interval .*found 'inf'; expected a number of seconds"),
        ("rankvol_local", {"poll_interval": "nan"}, "poll_interval .*found 'nan'; expected a number of seconds"),
        ("rankvol_local", {"state_dir": 5}, "state_dir .*found 5; expected text that is not empty"),
        ("rankvol_local", {"state_dir": False}, "state_dir .*found False; expected text that is not empty"),
        ("rankvol_local", {"state_dir": " "}, "state_dir .*found ' '; expected text that is not empty"),
        ("rankvol_local", {"owner": 5}, "owner .*found 5; expected text that is not empty"),
    ],
)
def test_a_wrong_connection_says_what_is_known(
    monkeypatch: pytest.MonkeyPatch, conn_type: str, extra: dict[str, object], message: str
) -> None:
    """A wrong type, field or value is named together with what is allowed."""
    connect(monkeypatch, "wrong", conn_type, **extra)
    with pytest.raises(ConfigError, match=message):
        get_backend("wrong")


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_field_of_the_form_counts_as_left_out(monkeypatch: pytest.MonkeyPatch, empty: object) -> None:
    """The connection form sends every field, filled in or not."""
    connect(monkeypatch, "here", "rankvol_local", state_dir=empty, mode=empty, poll_interval=empty, owner=empty)
    backend = get_backend("here")
    assert isinstance(backend, LocalBackend)
    assert (backend.state_dir.name, backend.poll_interval_s) == ("rankvol", 0.2)
    assert get_owner("here", backend) == backend.default_owner()


def test_a_poll_interval_in_a_uri_is_read_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI has only text in its query."""
    monkeypatch.setenv("AIRFLOW_CONN_HERE", "rankvol-local:///?poll_interval=0.5&mode=directory")
    assert get_backend("here").poll_interval_s == 0.5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("mode: image", "the extra of connection 'wrong' is not JSON .*expected an object"),
        ('{"mode": "image"', "the extra of connection 'wrong' is not JSON .*expected an object"),
        ('["image"]', "the extra of connection 'wrong' is a JSON list; expected an object"),
        ("5", "the extra of connection 'wrong' is a JSON int; expected an object"),
        ('"image"', "the extra of connection 'wrong' is a JSON str; expected an object"),
    ],
)
def test_an_extra_that_is_no_json_object_is_refused_wherever_it_is_read(
    monkeypatch: pytest.MonkeyPatch, extra: str, message: str
) -> None:
    """Airflow only logs such an extra, and the work would go on with the defaults, in another state directory."""
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps({"conn_type": "rankvol_local", "extra": extra}))
    for read in (get_backend, lambda conn_id: get_owner(conn_id, get_backend())):
        with pytest.raises(ConfigError, match=message):
            read("wrong")
    with pytest.raises(ConfigError, match=message):
        asyncio.run(aget_backend("wrong"))


def test_the_text_of_a_broken_extra_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a secret."""
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps({"conn_type": "rankvol_local", "extra": "hunter2"}))
    with pytest.raises(ConfigError) as caught:
        get_backend("wrong")
    assert "hunter2" not in str(caught.value)


def test_an_owner_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the backend does not read it: a number would find nothing again that text made."""
    connect(monkeypatch, "wrong", "rankvol_local", owner=5)
    with pytest.raises(ConfigError, match="owner of a rankvol_local connection: found 5; expected text"):
        get_owner("wrong", get_backend())


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
    worked, said = LocalRankVolHook("here").test_connection()
    assert worked
    assert said.startswith(f"{tmp_path / 'state'} is usable; volumes are made in directory mode; local: owner ")
    assert said.endswith("has 0 volumes and 0 nodes there; volumes and nodes may be made")
    (tmp_path / "file").write_text("in the way")
    connect(monkeypatch, "here", "rankvol_local", state_dir=str(tmp_path / "file"), mode="directory")
    worked, reason = LocalRankVolHook("here").test_connection()
    assert not worked
    assert "file" in reason

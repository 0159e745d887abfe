"""A secret in a job's env never gets into a cloud node's script."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.log import mask_secret

from airflow_rankvol._shipping import RUNNER, is_runner, runner
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.operators import _check_masked, _check_readings, _check_texts
from airflow_rankvol.spec.contents import data_url

#: What JSON, Python or a URL writes otherwise than it is.
ODD_SECRETS = [
    'pa"ss\\word-of-rankvol',
    "pässwörd-of-rankvol",
    "a'b\"c#d%e-of-rankvol",
    "-----BEGIN KEY-----\nMIIEofrankvol\n-----END KEY-----",
]


def test_a_value_that_airflow_masks_is_refused_and_not_shown() -> None:
    mask_secret("hunter2-of-rankvol")
    with pytest.raises(ConfigError, match=r"env\.DATABASE: .* secret_env") as caught:
        _check_masked("env", {"DAY": "2026-01-02", "DATABASE": "user:hunter2-of-rankvol@host"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("field", ["commands", "gather"])
def test_a_secret_in_a_command_is_refused_and_not_shown(field: str) -> None:
    mask_secret("hunter2-of-rankvol")
    _check_texts(field, ['curl -H "X-Key: $KEY" localhost'])
    with pytest.raises(ConfigError, match=rf"{field}\.1: .* secret_env") as caught:
        _check_texts(field, ["true", "curl -H 'X-Key: hunter2-of-rankvol' localhost"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["API_PASSWORD", "MY_TOKEN_SECRET"])
def test_a_variable_that_sounds_like_a_secret_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"env.{name}"):
        _check_masked("env", {name: "x1y2z3"})


def test_other_values_and_empty_ones_pass() -> None:
    _check_masked("env", {"DAY": "2026-01-02", "API_PASSWORD": "", "RETRIES": "3"})


@pytest.mark.parametrize("arguments", [{"token": "x1y2z3"}, {"url": ["https://hunter2-of-rankvol@host"]}])
def test_an_argument_of_a_function_that_airflow_masks_is_refused(arguments: dict[str, Any]) -> None:
    mask_secret("hunter2-of-rankvol")
    call = {"function": "shard", "injected": ["rank"], "requirements": []}
    _check_masked("files", {"_rankvol/call.json": {**call, "arguments": {"day": "2026-01-02"}}})
    with pytest.raises(ConfigError, match=r"files\._rankvol/call\.json: .* secret_env") as caught:
        _check_masked("files", {"_rankvol/call.json": {**call, "arguments": arguments}})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("secret", ODD_SECRETS)
def test_a_secret_in_a_file_is_refused_however_it_is_written(secret: str) -> None:
    mask_secret(secret)
    source = f"KEY = {secret!r}\n".encode()
    for name, what in (
        ("call.json", {"arguments": {"key": [secret]}}),
        ("shipped.py", data_url(source)),
        ("key.txt", data_url(secret.encode())),
    ):
        with pytest.raises(ConfigError, match=rf"files\.{name}: .* secret_env") as caught:
            _check_readings({name: what})
        assert "rankvol" not in str(caught.value)
    _check_readings({"etl.py": "include/etl.py", "shipped.py": data_url(b"KEY = 'none'"), "broken.py": data_url(b"(")})


def test_only_the_shipped_runner_itself_is_nobodys_secret() -> None:
    assert is_runner(RUNNER, runner())
    assert not is_runner("mine.py", runner())
    assert not is_runner(RUNNER, data_url(b"KEY = 'mine'"))
    assert not is_runner(RUNNER, "include/run.py")

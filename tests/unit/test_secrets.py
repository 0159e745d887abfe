"""A secret in a job's env never gets into a cloud node's script."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.log import mask_secret

from airflow_rankvol._masked import check_files, check_texts, check_values
from airflow_rankvol._shipping import RUNNER, is_runner, runner
from airflow_rankvol.errors import ConfigError
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
        check_values("env", {"DAY": "2026-01-02", "DATABASE": "user:hunter2-of-rankvol@host"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("field", ["commands", "gather"])
def test_a_secret_in_a_command_is_refused_and_not_shown(field: str) -> None:
    mask_secret("hunter2-of-rankvol")
    check_texts(field, ['curl -H "X-Key: $KEY" localhost'])
    with pytest.raises(ConfigError, match=rf"{field}\.1: .* secret_env") as caught:
        check_texts(field, ["true", "curl -H 'X-Key: hunter2-of-rankvol' localhost"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["API_PASSWORD", "MY_TOKEN_SECRET"])
def test_a_variable_that_sounds_like_a_secret_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"env\.{name}: .* for its name's sake; .* another name, .* secret_env"):
        check_values("env", {name: "x1y2z3"})


def test_other_values_and_empty_ones_pass() -> None:
    check_values("env", {"DAY": "2026-01-02", "API_PASSWORD": "", "RETRIES": "3"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"token": "x1y2z3"}, r"arguments\.token: .* for its name's sake"),
        ({"api": {"tokens": {"mine": ["x1y2z3"]}}}, r"arguments\.api\.tokens: .* for its name's sake"),
        (
            {"url": ["https://hunter2-of-rankvol@host"]},
            r"arguments\.url\.0: found a value that Airflow masks as a secret;",
        ),
        ({"hunter2-of-rankvol": 1}, "found a value that Airflow masks as a secret;"),
    ],
)
def test_an_argument_of_a_function_that_airflow_masks_is_refused(arguments: dict[str, Any], said: str) -> None:
    mask_secret("hunter2-of-rankvol")
    call = {"function": "shard", "injected": ["rank"], "requirements": []}
    check_files({"_rankvol/call.json": {**call, "arguments": {"day": "2026-01-02"}}})
    with pytest.raises(ConfigError, match=rf"files\._rankvol/call\.json.*{said}.* secret_env") as caught:
        check_files({"_rankvol/call.json": {**call, "arguments": arguments}})
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
        with pytest.raises(ConfigError, match=rf"files\.{name}[^ ]*: .* secret_env") as caught:
            check_files({name: what})
        assert "rankvol" not in str(caught.value)
    check_files({"etl.py": "include/etl.py", "shipped.py": data_url(b"KEY = 'none'"), "broken.py": data_url(b"(")})


def test_a_files_own_name_may_sound_like_a_secrets() -> None:
    check_files({"tokenizer.json": {"model": "small", "token": ""}, "secret_santa.py": data_url(b"N = 1")})


def test_only_the_shipped_runner_itself_is_nobodys_secret() -> None:
    assert is_runner(RUNNER, runner())
    assert not is_runner("mine.py", runner())
    assert not is_runner(RUNNER, data_url(b"KEY = 'mine'"))
    assert not is_runner(RUNNER, "include/run.py")

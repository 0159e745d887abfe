"""The rendered bootstrap: pure text, safe quoting, small."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_rankvol.engine.bootstrap import BootSpec, render
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import Attachment, Role

SPEC = BootSpec(
    role=Role.RANK,
    rank=3,
    nodes=8,
    attempt=2,
    key="0a1b2c3d",
    identity="identity",
    digest="digest",
    attachments=(Attachment("vol-1", "data-3", "/data_volume", 3, may_format=True),),
    commands=("echo one", "echo two"),
    files={},
    env={},
    secret_env={},
    gpus_per_node=0,
    lifetime_s=60,
)
# Any text but NUL, which no shell variable holds, and lone surrogates, which no file does.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


def run_bash(script: str) -> str:
    """Run a script without its last line, which starts the bootstrap, and with something instead."""
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return done.stdout.decode()


def without_start(spec: BootSpec) -> str:
    """Return the script up to the call that starts it; the node has no directory yet."""
    script = render(spec, "local")
    assert script.endswith("\nrv_main\n")
    settings_ = "RANKVOL_NODE_DIR=/nonexistent RANKVOL_NODE_ADDRESS=127.64.0.1 RANKVOL_NODE_MOUNTS=0\n"
    return settings_ + script.removesuffix("rv_main\n")


def test_the_same_wish_gives_the_same_script() -> None:
    assert render(SPEC, "local") == render(replace(SPEC), "local")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300).flatmap(lambda nodes: st.tuples(st.just(nodes), st.sets(st.integers(0, nodes - 1)))))
@example((6, {0}))
@example((32, {0, 4}))
@example((4, set()))
def test_gather_goes_on_without_the_very_ranks_that_did_not_succeed(job: tuple[int, set[int]]) -> None:
    """Another one in the manifest would be counted as lost, although its results are there."""
    nodes, missing = job
    spec = replace(SPEC, role=Role.GATHER, rank=0, nodes=nodes, missing=tuple(missing), allow_missing=True)
    assert run_bash(without_start(spec) + "rv_left_out") == ",".join(map(str, sorted(missing)))


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ('{"a": [1, 2.5, null, true, "x"]}', "good"), (r'"\\u0000 \ud83e\udd95"', "good"),
        ("rows=3", "bad"), ("NaN", "bad"), (r'["\u0000"]', "bad"), (r'{"\u0000": 1}', "bad"), (r'"\udce9"', "bad"),
        ("1e999", "bad"), ("-1e999", "bad"),
        ("[" * 100 + "1" + "]" * 100, "good"), ("[" * 101 + "1" + "]" * 101, "bad"),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_node_refuses_the_results_that_airflow_cannot_keep(tmp_path: Path, result: str, told: str) -> None:
    """It does so before it writes the completion record, which every retry would return."""
    path = tmp_path / "result.json"
    path.write_text(result, encoding="utf-8")
    asked = f"{without_start(SPEC)}rv_is_json {path} >/dev/null 2>&1 && echo good || echo bad"
    assert run_bash(asked).strip() == told


def test_the_script_is_valid_bash() -> None:
    subprocess.run(["bash", "-n"], input=render(SPEC, "local").encode(), check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_no_error() -> None:
    command = ["shellcheck", "-s", "bash", "-S", "error", "-"]
    subprocess.run(command, input=render(SPEC, "local").encode(), check=True)


def test_the_script_leaves_room_in_the_16_kib_of_ec2_user_data() -> None:
    assert len(gzip.compress(render(SPEC, "local").encode())) < 6 * 1024


def test_what_copies_to_a_destination_is_only_where_there_is_one() -> None:
    gather = replace(SPEC, role=Role.GATHER, rank=-1, collect=("**",))
    assert "rv_copy_all" not in render(gather, "ec2")
    script = render(replace(gather, destination="s3://bucket/it's"), "ec2")
    assert script.endswith("\nrv_main\n")
    assert len(gzip.compress(script.encode())) < 8.5 * 1024
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_no_error_in_what_copies() -> None:
    script = render(replace(SPEC, role=Role.GATHER, rank=-1, collect=("**",), destination="/srv/x"), "local")
    subprocess.run(["shellcheck", "-s", "bash", "-S", "error", "-"], input=script.encode(), check=True)


@settings(max_examples=25, deadline=None)
@given(text=TEXT)
def test_any_text_is_a_json_text(text: str) -> None:
    spec = replace(SPEC, role=Role.GATHER, rank=-1, destination=f"/srv/{text}", collect=("**",))
    shown = run_bash(
        without_start(spec) + 'export LC_ALL=C.UTF-8; rv_json_text "$RV_DESTINATION"; printf \'"%s"\' "$RV_TEXT"'
    )
    assert json.loads(shown) == f"/srv/{text}"


def test_comments_stay_at_home() -> None:
    lines = render(SPEC, "local").splitlines()
    assert [line for line in lines[1:] if line.startswith("#")] == []


@settings(max_examples=25, deadline=None)
@given(value=TEXT, name=TEXT.filter(bool))
def test_any_text_reaches_the_node_unchanged(value: str, name: str) -> None:
    attachment = replace(SPEC.attachments[0], name=name)
    spec = replace(SPEC, env={"VALUE": value}, attachments=(attachment,))
    shown = run_bash(without_start(spec) + 'rv_user_env; printf "%s\\n%s" "$VALUE" "${RV_NAMES[0]}"')
    assert shown == f"{value}\n{name}"


@settings(max_examples=10, deadline=None)
@given(content=st.binary(max_size=2000))
def test_any_file_reaches_the_node_unchanged(content: bytes) -> None:
    spec = replace(SPEC, files={"a": content})
    script = (
        without_start(spec)
        + 'RV_HOME=$(mktemp -d) RV_WORK=$RV_HOME; rv_files; base64 -w0 "$RV_WORK/a"; rm -r "$RV_HOME"'
    )
    shown = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert shown == base64.b64encode(content)


def test_commands_are_one_script() -> None:
    script = (
        without_start(SPEC)
        + 'RV_HOME=$(mktemp -d) RV_WORK=$RV_HOME; rv_files; cat "$RV_HOME/commands.sh"; rm -r "$RV_HOME"'
    )
    assert run_bash(script) == "echo one\necho two\n"


def test_a_gang_never_reuses_a_record() -> None:
    assert "RV_REUSE=0" in render(replace(SPEC, rendezvous=True, reuse=True), "local")


@pytest.mark.parametrize(
    "change",
    [
        {"key": "a/b"},
        {"identity": 'a"b'},
        {"digest": ""},
        {"env": {"A B": "x"}},
        {"secret_env": {"$(id)": "x"}},
        {"files": {"../x": b""}},
        {"files": {"/etc/x": b""}},
        {"files": {"": b""}},
    ],
)
def test_what_could_leave_its_place_in_the_script_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(SPEC, **change)  # type: ignore[arg-type]


def test_json_lists_of_paths_are_escaped() -> None:
    assert run_bash(without_start(SPEC) + "rv_list '/a b' '/c\"d' '/e\\f'") == '["/a b", "/c\\"d", "/e\\\\f"]'

"""The short and the full syntax of a mount, and where a volume may be mounted."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.mounts import Mount, check_path, parse_mount
from airflow_rankvol.spec.templates import ReclaimPolicy, Scope, VolumeTemplate


def volume(**fields: Any) -> VolumeTemplate:
    return VolumeTemplate.model_validate(fields)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("data-volume-${NODE_RANK}:/data_volume", "data-volume-${NODE_RANK}"),
        ("data-${{ node_rank:03d }}:/data_volume", "data-${{ node_rank:03d }}"),
        ("${{ node_rank:x }}-${{nodes_num:02d}}-x:/data_volume", "${{ node_rank:x }}-${{nodes_num:02d}}-x"),
        ("plain:/data_volume", "plain"),
    ],
)
def test_the_short_syntax_is_cut_at_the_colon_outside_variables(text: str, name: str) -> None:
    mount = parse_mount(text)
    assert (mount.name, mount.path, mount.overrides) == (name, "/data_volume", {})
    assert str(mount) == mount.short() == mount.render() == text


def test_the_full_syntax_takes_any_field_of_the_template() -> None:
    mount = parse_mount(
        {
            "name": "a-${NODE_RANK}",
            "path": "/a",
            "size": "1.5TB",
            "iops": "6000",
            "scope": "dag",
            "expiry": 3600,
        }
    )
    assert mount.overrides == {"size": "1.5TB", "iops": 6000, "scope": "dag", "expiry": "1h"}
    template = mount.template(volume(type="gp3", size="10GB"))
    assert (template.size_gib, template.type, template.iops) == (1536, "gp3", 6000)
    assert template.scope is Scope.DAG
    assert template.effective_reclaim is ReclaimPolicy.RETAIN


def test_without_overrides_the_template_is_the_base() -> None:
    base = volume(size=3)
    assert parse_mount("a:/a").template(base) is base


def test_an_override_says_only_what_was_written() -> None:
    base = volume(size="10GB", tags={"team": "x"}, reclaim="snapshot")
    merged = parse_mount({"name": "a", "path": "/a", "type": "gp3"}).template(base)
    assert merged == volume(size="10GB", tags={"team": "x"}, reclaim="snapshot", type="gp3")


def test_a_combination_is_checked_only_with_its_base() -> None:
    mount = parse_mount({"name": "a", "path": "/a", "delete_adopted": True})
    assert mount.template(volume(scope="global")).delete_adopted
    with pytest.raises(ValidationError, match="only 'global' volumes are ever adopted"):
        mount.template(VolumeTemplate())


def test_a_path_object_is_a_path() -> None:
    assert parse_mount({"name": "a", "path": PurePosixPath("/a/b")}).path == "/a/b"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no-path", "'no-path' has no path; expected 'name:path'"),
        ("", "'' has no path"),
        (":/data", "name: '' was found; text that is not empty"),
        ("name:", "path '' is not absolute"),
        ("a:/b:ro", "path '/b:ro' has ':'"),
        ("a-${RANK}:/b", "name: unknown variable 'RANK'"),
        ("a-${NODE_RANK:/b", "name: unclosed variable '${NODE_RANK:/b'"),
        ({"path": "/a"}, "name: nothing was found; the field is required"),
        ({"name": "a"}, "path: nothing was found; the field is required"),
        ({"name": "a", "path": 3}, "path: 3 was found; it should be a valid string"),
        ({"name": "a", "path": "/a", "sise": 1}, "unknown field 'sise'; known: name, path, size, type"),
        ({"name": "a", "path": "/a", "size": "10 apples"}, "size: size '10 apples' has the unknown unit"),
        (
            {"name": "a", "path": "/a", "scope": "run "},
            "scope: 'run ' was found; it should be 'run', 'dag' or 'global'",
        ),
        ({"data-${NODE_RANK}": "/data"}, "did you mean 'data-${NODE_RANK}:/data'? YAML reads"),
        (3, "3 was found; expected 'name:path'"),
        (None, "None was found"),
    ],
)
def test_an_error_says_what_was_found_and_what_is_expected(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mount(value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "path", ["/data", "/data_volume", "/mnt/a.b/c-d", "/opt/x", "/var/lib/x", "/home/x", "/daten/ü", "/a..b"]
)
def test_a_directory_of_ones_own_is_a_mount_path(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data", "not absolute"),
        ("./data", "not absolute"),
        ("~/data", "not absolute"),
        ("/data/", "not normalised; expected '/data'"),
        ("//data", "not normalised; expected '/data'"),
        ("/data//x", "not normalised; expected '/data/x'"),
        ("/data/./x", "not normalised; expected '/data/x'"),
        ("/data/../etc", "'..'"),
        ("/..", "'..'"),
        ("/a b", "' '"),
        ("/a\tb", "'\\t'"),
        ("/a\n", "'\\n'"),
        ("/a\x7f", "'\\x7f'"),
        ("/a,b", "','"),
        ("/a'b", '"\'"'),
        ('/a"b', "'\"'"),
        ("/data/$NODE_RANK", "'$'"),
        ("/a\\b", "'\\\\'"),
        ("/" + "x" * 256, "too long"),
        ("/x" * 600, "too long"),
    ],
)
def test_a_path_that_is_not_absolute_normalised_and_plain_is_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match="path") as caught:
        check_path(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/bin",
        "/boot",
        "/dev",
        "/dev/shm",
        "/etc",
        "/etc/x",
        "/lib",
        "/lib64/x",
        "/proc/1",
        "/root",
        "/run/x",
        "/sbin",
        "/sys/fs",
        "/usr",
        "/usr/local/data",
        "/var",
        "/var/run/x",
        "/tmp",
        "/home",
        "/ranks",
        "/ranks/0",
    ],
)
def test_a_directory_that_the_node_needs_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="a directory that the node itself needs"):
        check_path(path)


NAMES = st.lists(
    st.sampled_from(["a", "data-", "${NODE_RANK}", "${{ node_rank:03d }}", "${{ dstack.job_num }}", "$$", ".", "X_"]),
    min_size=1,
    max_size=5,
).map("".join)
PATHS = st.lists(st.from_regex(r"[A-Za-z0-9_@%+=-][A-Za-z0-9._-]{0,8}", fullmatch=True), max_size=4).map(
    lambda parts: "/" + "/".join(["data", *parts])
)
OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "size": st.one_of(st.integers(1, 5000), st.sampled_from(["512MB", "1.5TB", "0.3TB", "20GiB"])),
        "type": st.sampled_from(["gp3", "pd-ssd"]),
        "iops": st.sampled_from([3000, "6000"]),
        "encrypted": st.booleans(),
        "scope": st.sampled_from(["run", "dag", Scope.GLOBAL]),
        "reclaim": st.sampled_from(["delete", ReclaimPolicy.SNAPSHOT, None]),
        "expiry": st.one_of(st.integers(1, 10**6), st.sampled_from(["1d12h", "90m"])),
        "tags": st.dictionaries(st.sampled_from(["team", "cost"]), st.sampled_from(["x", 3])),
    },
)


@given(NAMES, PATHS)
def test_parsing_a_rendered_short_mount_gives_the_mount_back(name: str, path: str) -> None:
    mount = parse_mount({"name": name, "path": path})
    assert parse_mount(str(mount)) == mount


@given(NAMES, PATHS, OVERRIDES)
def test_parsing_a_rendered_full_mount_gives_the_mount_back(name: str, path: str, overrides: dict[str, Any]) -> None:
    mount = parse_mount({"name": name, "path": path, **overrides})
    assert set(mount.overrides) == set(overrides)
    assert parse_mount(mount.render()) == mount
    assert Mount.model_validate_json(mount.model_dump_json()) == mount
    assert parse_mount(json.loads(json.dumps(mount.model_dump()))) == mount
    assert Mount(name=mount.name, path=mount.path, overrides=mount.overrides) == mount

"""Variables for running nodes, as tags: what the backend writes is what the node's shell reads."""

from __future__ import annotations

import base64
import ipaddress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_rankvol.backends._aws_view import VOLUMES_TAG
from airflow_rankvol.backends._aws_wire import MAX_GO_NODES, MAX_PARTS, PART_CHARACTERS, fits_metadata, go_tags
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import Group
from tests.unit.aws.imds import serving
from tests.unit.aws.shell import Shell

NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)
MESSAGES = st.dictionaries(NAMES, VALUES, max_size=5)
MESSAGE = {"NODES_IPS": "\n".join(f"10.0.{i % 7}.{i * 37 % 251}" for i in range(200)), "MASTER_PORT": "20017"}


def received(shell: Shell, tags: dict[str, list[str | None]]) -> dict[str, str]:
    """Return what a node reads that waits for its message."""
    with serving({f"tags/instance/{key}": values for key, values in tags.items()}) as imds:
        done = shell.run("rv_wait_go >&$RV_STDOUT", RV_IMDS=imds.url)
    pairs = (line.split(" ") for line in done.stdout.splitlines())
    return {name: base64.b64decode(value).decode() for name, value in pairs}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=MESSAGES)
def test_a_node_reads_the_message_as_it_was_given(tmp_path: Path, message: dict[str, str]) -> None:
    assert received(Shell(tmp_path), {key: [value] for key, value in go_tags(message).items()}) == message


def test_a_node_waits_until_every_part_is_there_and_fits(tmp_path: Path) -> None:
    new, old = go_tags(MESSAGE), go_tags({**MESSAGE, "MASTER_PORT": "20018"})
    assert len(new) > 3
    tags: dict[str, list[str | None]] = {key: [None, old.get(key), old.get(key), value] for key, value in new.items()}
    tags["rankvol:go"] = [None, None, "nonsense", "0 0123456789abcdef", old["rankvol:go"], new["rankvol:go"]]
    tags["rankvol:go:1"] = [None, None, "", old["rankvol:go:1"][:-1], new["rankvol:go:1"]]
    assert received(Shell(tmp_path), tags) in (MESSAGE, {**MESSAGE, "MASTER_PORT": "20018"})


def test_a_node_takes_no_part_of_another_message(tmp_path: Path) -> None:
    new, old = go_tags(MESSAGE), go_tags({**MESSAGE, "NODES_IPS": MESSAGE["NODES_IPS"].replace("10", "11")})
    tags: dict[str, list[str | None]] = {key: [value] for key, value in new.items()}
    tags["rankvol:go:1"] = [*([old["rankvol:go:1"]] * 3), new["rankvol:go:1"]]
    assert received(Shell(tmp_path), tags) == MESSAGE


@given(message=MESSAGES)
def test_tags_are_what_ec2_takes_and_the_metadata_service_shows(message: dict[str, str]) -> None:
    tags = go_tags(message)
    assert tags == go_tags(dict(message))
    assert all(fits_metadata(key) and 1 <= len(value) <= PART_CHARACTERS for key, value in tags.items())
    assert len(tags) <= MAX_PARTS + 1


@settings(max_examples=20)
@given(seed=st.randoms(use_true_random=False), count=st.integers(1, MAX_GO_NODES))
def test_any_addresses_of_the_promised_number_of_nodes_fit(seed: st.DataObject, count: int) -> None:
    addresses = [str(ipaddress.IPv4Address(seed.getrandbits(32))) for _ in range(count)]  # type: ignore[attr-defined]
    assert len(_gang(addresses)) <= MAX_PARTS + 1


def test_the_promised_number_holds_for_the_longest_addresses_and_room_is_left_for_other_tags() -> None:
    addresses = [f"1{i % 89 + 10}.2{i % 41 + 10}.1{i * 31 % 89 + 10}.1{i * 57 % 83 + 10}" for i in range(MAX_GO_NODES)]
    tags = _gang(addresses)
    ours = {**Group("o", "d", "r", "g", "k", "dk", "gk").tags().to_dict(), "Name": "", VOLUMES_TAG: ""}
    assert len(tags) <= MAX_PARTS + 1
    assert len(ours) + MAX_PARTS + 1 <= 40, "ten of an instance's 50 tags are the user's"


def test_more_nodes_than_tags_can_name_are_refused_with_the_number_that_fits() -> None:
    addresses = [str(ipaddress.IPv4Address(i * 2654435761 % 2**32)) for i in range(4 * MAX_GO_NODES)]
    with pytest.raises(ConfigError, match=rf"at most {MAX_PARTS} are set aside.*up to {MAX_GO_NODES} always fit"):
        _gang(addresses)


@pytest.mark.parametrize("message", [{"lower": "x"}, {"A B": "x"}, {"": "x"}, {"A": "x\0y"}])
def test_what_no_shell_could_take_is_refused(message: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        go_tags(message)


@pytest.mark.parametrize("key", ["Name", "rankvol:owner", "a+b-c=d.e,f_g:h@i", "..."])
def test_keys_that_the_metadata_service_takes(key: str) -> None:
    assert fits_metadata(key)


@pytest.mark.parametrize("key", ["", "cost centre", "a/b", ".", "..", "_index", "größe", "a\n"])
def test_keys_that_make_a_launch_fail(key: str) -> None:
    assert not fits_metadata(key)


def _gang(addresses: list[str]) -> dict[str, str]:
    first = addresses[0]
    own = {"MASTER_NODE_IP": first, "MASTER_ADDR": first, "MASTER_PORT": "29999"}
    return go_tags({"NODES_IPS": "\n".join(addresses), **own})

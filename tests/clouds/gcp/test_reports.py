"""What instances are told and what they report: metadata, guest attributes, serial port 1."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clouds.gcp.client import ZONE, Double, Rest
from tests.clouds.gcp.conftest import wish

INSTANCES = f"zones/{ZONE}/instances"
NODE = f"{INSTANCES}/node"
MIB = 1024 * 1024


def items(**values: str) -> dict[str, Any]:
    return {"items": [{"key": key.replace("_", "-"), "value": value} for key, value in values.items()]}


GUEST = items(enable_guest_attributes="TRUE")


def test_metadata_are_limited(api: Rest, launch: Any, refuses: Any) -> None:
    """disc, Metadata: values up to 256 KiB, all together less than 512 KB."""
    launch("fits", metadata=items(a="x" * 262_144, b="x" * 262_141))
    for metadata in (items(a="x" * 262_145), items(a="ä" * 131_073), items(a="x" * 262_144, b="x" * 262_142)):
        with refuses("fieldSizeTooLarge", 400, "too large"):
            api.post(INSTANCES, wish(metadata=metadata))


def test_metadata_are_changed_with_their_fingerprint(api: Rest, launch: Any, done: Any, refuses: Any) -> None:
    launch(metadata=items(a="1"))
    read = api.get(NODE)["metadata"]
    done(api.post(f"{NODE}/setMetadata", {**items(b="2"), "fingerprint": read["fingerprint"]}))
    assert api.get(NODE)["metadata"]["items"] == [{"key": "b", "value": "2"}]
    for body in ({**read}, items(c="3")):
        with refuses("conditionNotMet", 412):
            api.post(f"{NODE}/setMetadata", body)


def test_labels_of_an_instance_are_changed_with_their_fingerprint(
    api: Rest, launch: Any, done: Any, refuses: Any
) -> None:
    launch(labels={"a": "1"})
    read = api.get(NODE)["labelFingerprint"]
    done(api.post(f"{NODE}/setLabels", {"labels": {"b": "2"}, "labelFingerprint": read}))
    assert api.get(NODE)["labels"] == {"b": "2"}
    with refuses("conditionNotMet", 412):
        api.post(f"{NODE}/setLabels", {"labels": {}, "labelFingerprint": read})


def test_what_starts_or_stops_is_not_changed(api: Rest, double: Double, launch: Any, refuses: Any) -> None:
    api.post(f"zones/{ZONE}/disks", {"name": "disk"})
    read = api.get(f"zones/{ZONE}/disks/disk")["labelFingerprint"]
    with refuses("resourceNotReady", 400):
        api.post(f"zones/{ZONE}/disks/disk/setLabels", {"labels": {}, "labelFingerprint": read})
    launch()
    read = api.get(NODE)["metadata"]["fingerprint"]
    with refuses("required", 400, "items[0].key"):
        api.post(f"{NODE}/setMetadata", {"items": [{"value": "x"}], "fingerprint": read})
    double("power_off", instance="node")
    with refuses("resourceNotReady", 400):
        api.post(f"{NODE}/setMetadata", {"fingerprint": read})


def test_guest_attributes_are_read_by_namespace_and_by_key(
    api: Rest, double: Double, launch: Any, refuses: Any
) -> None:
    launch(metadata=GUEST)
    with refuses("notFound", 404):
        api.get(f"{NODE}/getGuestAttributes", queryPath="rank/")
    double("write", instance="node", attributes={"rank/state": "done", "rank/code": "0", "other/x": "1"})
    found = api.get(f"{NODE}/getGuestAttributes", queryPath="rank/")["queryValue"]["items"]
    assert {i["key"]: i["value"] for i in found} == {"state": "done", "code": "0"}
    [one] = api.get(f"{NODE}/getGuestAttributes", queryPath="rank/state")["queryValue"]["items"]
    assert one == {"namespace": "rank", "key": "state", "value": "done"}
    assert api.get(f"{NODE}/getGuestAttributes", variableKey="rank/state")["variableValue"] == "done"
    with refuses("notFound", 404):
        api.get(f"{NODE}/getGuestAttributes", queryPath="rank/absent")


def test_guest_attributes_are_off_unless_the_metadata_say_so(
    api: Rest, double: Double, launch: Any, refuses: Any
) -> None:
    launch(metadata=items(enable_guest_attributes="FALSE"))
    with refuses("conditionNotMet", 412, "disabled"):
        api.get(f"{NODE}/getGuestAttributes", queryPath="rank/")


@pytest.mark.parametrize("kept", [True, False])
def test_guest_attributes_may_go_when_the_instance_stops(
    api: Rest, double: Double, launch: Any, refuses: Any, kept: bool
) -> None:
    double.settings(attributes_when_stopped=kept)
    launch(metadata=GUEST)
    double("write", instance="node", attributes={"rank/state": "done"})
    double("power_off", instance="node")
    double.advance(1)
    if kept:
        assert api.get(f"{NODE}/getGuestAttributes", queryPath="rank/state")
        return
    with refuses("resourceNotReady", 400):
        api.get(f"{NODE}/getGuestAttributes", queryPath="rank/state")


def test_the_serial_port_is_read_from_where_one_stopped(api: Rest, double: Double, launch: Any) -> None:
    launch()
    double("write", instance="node", console="one\n")
    first = api.get(f"{NODE}/serialPort")
    assert (first["contents"], first["start"], first["next"]) == ("one\n", "0", "4")
    double("write", instance="node", console="two\n")
    second = api.get(f"{NODE}/serialPort", port=1, start=first["next"])
    assert (second["contents"], second["start"], second["next"]) == ("two\n", "4", "8")
    assert api.get(f"{NODE}/serialPort", start="8")["contents"] == ""
    assert api.get(f"{NODE}/serialPort", start="-3")["contents"] == "wo\n"
    assert api.get(f"{NODE}/serialPort", port=2)["contents"] == ""
    double("lose_serial", instance="node")
    assert api.get(f"{NODE}/serialPort")["contents"] == ""


def test_only_the_last_mebibyte_of_the_serial_port_is_kept(api: Rest, double: Double, launch: Any) -> None:
    launch()
    double("write", instance="node", console="x" * 10 + "y" * MIB)
    found = api.get(f"{NODE}/serialPort", start="3")
    assert (found["start"], found["next"], found["contents"]) == ("10", str(MIB + 10), "y" * MIB)


def test_a_stopped_instance_has_no_serial_port_output(api: Rest, double: Double, launch: Any, refuses: Any) -> None:
    """gce/troubleshooting/viewing-serial-port-output: "only while the VM instance is running"."""
    launch()
    double("write", instance="node", console="last words")
    double("power_off", instance="node")
    assert api.get(f"{NODE}/serialPort")["contents"] == "last words"
    double.advance(1)
    with refuses("resourceNotReady", 400):
        api.get(f"{NODE}/serialPort")
    double.settings(serial_when_stopped=True)
    assert api.get(f"{NODE}/serialPort")["contents"] == "last words"

"""Nodes that run the bootstrap as Compute Engine would run it: startup script, metadata, disks, serial port 1."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_rankvol.backends._console import report_of
from airflow_rankvol.engine.bootstrap import BootSpec, render
from airflow_rankvol.records import Attachment
from tests.clouds.nodes import ec2_kit
from tests.clouds.nodes.host import NodeSpec
from tests.clouds.nodes.metadata import Content, GceMetadata

KEY, RECORD = ec2_kit.KEY, ec2_kit.RECORD
RANK = ec2_kit.RANK
TOKEN = "ya29.c.the-nodes-token"


def volume(disk: Path, rank: int = 0, path: str = "/data_volume", **more: bool) -> Attachment:
    """Return the attachment of a disk, whose name its volume's id ends with."""
    return Attachment(f"zones/us-central1-a/disks/{disk.stem}", f"data-volume-{rank}", path, rank, **more)


class Cloud(ec2_kit.Cloud):
    """Launches nodes with their disks, and reads what they report.

    Attributes:
        tags: the instances' own metadata.
        attributes: the guest attributes of each node.
        deaf: the metadata server takes no guest attributes.
    """

    def __init__(self, lab: Any) -> None:
        super().__init__(lab)
        self.attributes: dict[str, dict[str, str]] = {}
        self.deaf = False

    def metadata(self, address: str) -> Content:
        """Return the content of a node's metadata server."""

        def content_at(path: str) -> bytes | None:
            name = path.removeprefix("/computeMetadata/v1/")
            token = {"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}
            known = {
                "instance/network-interfaces/0/ip": address,
                "project/project-id": "rankvol-test",
                "instance/service-accounts/default/token": json.dumps(token),
            }
            known |= {f"instance/attributes/{key}": value for key, value in self.tags.items()}
            return known[name].encode() if name in known else None

        return content_at

    def launch(self, spec: BootSpec, *disks: Path, address: str = "10.0.0.11", **more: Any) -> str:
        """Launch a node with its disks."""
        node = f"n{len(list((self.lab.folder / 'nodes/nodes').glob('*')))}"
        environment = {
            "RV_PROBE_PAUSE": "0.01",
            "RV_DEVICE_WAIT": "5",
            "RV_TRIES": "2",
            "RV_LINGER": "0.1",
            **more.pop("environment", {}),
        }
        written = self.attributes.setdefault(node, {})

        def write(namespace: str, key: str, value: str | None) -> bool:
            written.pop(f"{namespace}/{key}", None)
            if value is not None and not self.deaf:
                written[f"{namespace}/{key}"] = value
            return not self.deaf

        self.lab.host.launch(
            NodeSpec(
                node,
                render(spec, "gce").encode(),
                address,
                metadata=self.metadata(address),
                metadata_service=lambda content: GceMetadata(content, write),
                runner="guest-agent",
                environment=environment,
                **more,
            )
        )
        for index, disk in enumerate(disks):
            self.lab.host.attach(node, disk.stem, disk, [f"google-{disk.stem}"], f"sd{chr(ord('b') + index)}")
        return node

    def serial(self, node: str) -> str:
        """Return what serial port 1 keeps."""
        return self.lab.host.console(node)[-(1 << 20) :].decode(errors="replace")

    def report(self, node: str) -> dict[str, Any] | None:
        """Return a node's report, read from its guest attributes."""
        text = report_of("\n".join(self.attributes[node].values()))
        return None if text is None else json.loads(text)

    def reported_on_serial_port(self, node: str) -> dict[str, Any] | None:
        """Return a node's report, read from serial port 1."""
        text = report_of(self.serial(node))
        return None if text is None else json.loads(text)


def decoded(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report with its texts."""
    names = ("output", "log_tail", "error")
    return {**report, **{name: base64.b64decode(report[f"{name}_b64"]).decode() for name in names}}


__all__ = ["KEY", "RANK", "RECORD", "TOKEN", "Cloud", "decoded", "replace", "volume"]

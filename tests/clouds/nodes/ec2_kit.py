"""Nodes that run the bootstrap as EC2 would run it: user data, metadata, disks, console."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from airflow_rankvol.backends._aws_userdata import user_data
from airflow_rankvol.backends._console import report_of
from airflow_rankvol.engine.bootstrap import BootSpec, render
from airflow_rankvol.records import Attachment, Role
from tests.clouds.nodes.host import NodeSpec
from tests.clouds.nodes.kit import Lab
from tests.clouds.nodes.test_aws_cli import METADATA

KEY = "0a1b2c3d"
RECORD = f"/.rankvol/{KEY}/record.json"
WINDOW = 64 * 1024
RANK = BootSpec(
    role=Role.RANK,
    rank=0,
    nodes=2,
    attempt=1,
    key=KEY,
    identity="identity",
    digest="digest",
    attachments=(),
    commands=("true",),
    files={},
    env={},
    secret_env={},
    gpus_per_node=0,
    lifetime_s=60,
)


def volume(disk: Path, rank: int = 0, path: str = "/data_volume", **more: bool) -> Attachment:
    """Return the attachment of a disk, whose name is the end of its volume's id."""
    return Attachment(f"vol-{disk.stem}", f"data-volume-{rank}", path, rank, **more)


class Cloud:
    """Launches nodes with their volumes, and reads what they report."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.tags: dict[str, str] = {}

    def metadata(self, address: str) -> Any:
        """Return the content of a node's metadata service."""

        def content_at(path: str) -> bytes | None:
            name = path.removeprefix("/latest/meta-data/")
            known = {"local-ipv4": address, "placement/region": "eu-west-3"}
            known |= {f"tags/instance/{key}": value for key, value in self.tags.items()}
            return known[name].encode() if name in known else METADATA.get(path)

        return content_at

    def launch(self, spec: BootSpec, *disks: Path, address: str = "10.0.0.11", **more: Any) -> str:
        """Launch a node and attach its volumes when it runs."""
        node = f"n{len(list((self.lab.folder / 'nodes/nodes').glob('*')))}"
        data = user_data(render(spec, "ec2"))
        # Once the disk is there, its bytes are zero or not: nothing comes later, as it could from EBS snapshots.
        environment = {"RV_PROBE_PAUSE": "0.01", "RV_DEVICE_WAIT": "5", **more.pop("environment", {})}
        content_at = self.metadata(address)
        self.lab.host.launch(NodeSpec(node, data, address, metadata=content_at, environment=environment, **more))
        for index, disk in enumerate(disks, start=1):
            by_id = f"nvme-Amazon_Elastic_Block_Store_vol{disk.stem}"
            self.lab.host.attach(node, disk.stem, disk, [by_id], f"nvme{index}n1")
        return node

    def report(self, node: str) -> dict[str, Any] | None:
        """Return a node's report, read from what the console keeps."""
        text = report_of(self.lab.host.console(node)[-WINDOW:].decode("latin-1"))
        return None if text is None else json.loads(text)

    def run(self, spec: BootSpec, *disks: Path, **more: Any) -> dict[str, Any]:
        """Run a node to its end and return its report, its texts decoded."""
        node = self.launch(spec, *disks, **more)
        assert self.lab.wait(node) == "poweroff"
        report = self.report(node)
        assert report is not None, self.lab.console(node)
        texts = {name: base64.b64decode(report.pop(f"{name}_b64")).decode() for name in ("output", "log_tail", "error")}
        return {**report, **texts, "node": node}

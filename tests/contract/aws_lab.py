"""The contract's bodies on EC2's double, with nodes that really run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.engine.bootstrap import BootSpec
from airflow_rankvol.records import Node, NodeState
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.client import Double
from tests.contract.cloud_lab import CloudLab
from tests.contract.support import until

#: The identity of the lab's nodes: without one they may call nothing.
PROFILE = "lab-node"


@dataclass
class AwsLab(CloudLab):
    """On EC2 a volume is attached once its node runs: the engine's work."""

    double: Double = field(kw_only=True)

    def other(self, run: str = "run-2", key: str = "ffffffff") -> AwsLab:
        return replace(self, run=run, key=key)

    def template(self) -> NodeTemplate:
        return NodeTemplate(instance_profile=PROFILE)

    def _launch(self, spec: BootSpec) -> Node:
        node = super()._launch(spec)
        until(lambda: self.see().node(node.id) is not None, f"{node.label} is never listed")
        until(lambda: self.seen(node).state is not NodeState.PENDING, f"{node.label} never runs")
        for item in spec.attachments:
            self.backend.attach(item.volume_id, node.id)
        ids = {item.volume_id for item in spec.attachments}
        until(lambda: all(str(v.state) == "attached" for v in self.see().volumes if v.id in ids), "never attached")
        return self.seen(node)

    def secret(self, text: str, folder: Path) -> str:
        self.double.boto3("ssm").put_parameter(Name="/lab/secret", Value=text, Type="SecureString", Overwrite=True)
        return "ssm:/lab/secret"

    def destination(self, folder: Path) -> str:
        self.double.boto3("s3").create_bucket(Bucket="results")
        return "s3://results/of/run"

    def copied(self, destination: str) -> dict[str, bytes]:
        s3 = self.double.boto3("s3")
        prefix = destination.removeprefix("s3://results/") + "/"
        found = s3.list_objects_v2(Bucket="results", Prefix=prefix).get("Contents", [])
        objects = {item["Key"]: s3.get_object(Bucket="results", Key=item["Key"])["Body"].read() for item in found}
        return {key.removeprefix(prefix): body for key, body in objects.items()}

    def _left(self) -> list[str]:
        state: dict[str, Any] = self.double.state()
        live = [key for key, item in state["instances"].items() if item["State"]["Name"] != "terminated"]
        return live + list(state["volumes"])


def aws_backend(double: Double, poll_interval_s: float = 0.05) -> AwsBackend:
    """Return the backend of a connection that leads to the double."""
    connection = json.loads(double.env()["AIRFLOW_CONN_AWS_DEFAULT"])
    settings = Settings("aws_default", "aws", connection["extra"], connection["login"], connection["password"])
    return AwsBackend(Clients(settings), poll_interval_s=poll_interval_s)


def aws_lab(double: Double) -> AwsLab:
    """Return a lab on a double that is as new, with a profile for its nodes."""
    double.reset()
    double.boto3("iam").create_instance_profile(InstanceProfileName=PROFILE)
    return AwsLab(aws_backend(double), double=double)


@contextmanager
def running_double(state_dir: Path) -> Iterator[Double]:
    """Run the double with real nodes, and see that nothing of it stays."""
    with Double(state_dir, nodes=True) as double:
        yield double

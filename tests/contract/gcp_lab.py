"""The contract's bodies on Compute Engine's double, with nodes that really run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_rankvol.backends._gcp_connection import Session
from airflow_rankvol.backends.gcp import GcpBackend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.engine.bootstrap import BootSpec
from airflow_rankvol.records import Node, NodeState
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.gcp.client import ZONE, Double, Refused
from tests.contract.cloud_lab import CloudLab
from tests.contract.support import until

#: The identity of the lab's nodes: without one they have no token.
ACCOUNT = "default"


@dataclass
class GcpLab(CloudLab):
    """On Compute Engine a node is launched with its disks."""

    double: Double = field(kw_only=True)

    def other(self, run: str = "run-2", key: str = "ffffffff") -> GcpLab:
        return replace(self, run=run, key=key)

    def template(self) -> NodeTemplate:
        return NodeTemplate(service_account=ACCOUNT)

    def request(self, spec: BootSpec) -> Any:
        # The name of an instance begins with a letter; the engine's do.
        plain = super().request(spec)
        return replace(plain, name=f"lab-{plain.name}")

    def _launch(self, spec: BootSpec) -> Node:
        # Only what an ended node still holds is waited for, as the engine does.
        until(lambda: not self._held(spec), "a disk is still held by a node that has ended")
        node = super()._launch(spec)
        until(lambda: self.see().node(node.id) is not None, f"{node.label} is never listed")
        until(lambda: self.seen(node).state is not NodeState.PENDING, f"{node.label} never runs")
        return self.seen(node)

    def _held(self, spec: BootSpec) -> bool:
        seen, wanted = self.see(), {item.volume_id for item in spec.attachments}
        holders = [seen.node(v.attached_to) for v in seen.volumes if v.id in wanted and v.attached_to]
        return any(holder is None or holder.state is NodeState.ENDED for holder in holders)

    def secret(self, text: str, folder: Path) -> str:
        self.double("secret", name="lab-secret", value=text)
        return "secretmanager:lab-secret"

    def destination(self, folder: Path) -> str:
        return "gs://bucket/of/run"

    def copied(self, destination: str) -> dict[str, bytes]:
        prefix = destination.removeprefix("gs://bucket/") + "/"
        return {name.removeprefix(prefix): content for name, content in objects(self.double, prefix).items()}

    def _left(self) -> list[str]:
        state: dict[str, Any] = self.double.state()
        return [*state["instances"], *state["disks"]]


def objects(double: Double, prefix: str, bucket: str = "bucket") -> dict[str, bytes]:
    """Return the objects of a bucket of the double."""
    import requests

    try:
        found = double.rest().get(f"/storage/v1/b/{bucket}/o", prefix=prefix)
    except Refused:
        return {}
    names = [item["name"] for item in found.get("items", ())]
    url = f"{double.url}/storage/v1/b/{bucket}/o"
    return {name: requests.get(f"{url}/{quote(name, safe='')}?alt=media", timeout=30).content for name in names}


def gcp_backend(double: Double, poll_interval_s: float = 0.05) -> GcpBackend:
    """Return the backend of a connection that leads to the double."""
    extra = {**double.connection_extra(), "zone": ZONE}
    return GcpBackend(
        Session(Settings("google_cloud_default", "google_cloud_platform", extra)), poll_interval_s=poll_interval_s
    )


def gcp_lab(double: Double) -> GcpLab:
    """Return a lab on a double that is as new."""
    double.reset()
    double.settings(node_environment={"RV_PROBE_PAUSE": "0.01"})
    return GcpLab(gcp_backend(double), double=double)


@contextmanager
def running_double(state_dir: Path) -> Iterator[Double]:
    """Run the double with real nodes, and see that nothing of it stays."""
    with Double(state_dir, nodes=True) as double:
        yield double
        assert double.bugs() == []

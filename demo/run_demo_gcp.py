"""Run the example DAG ``flights_on_gcp`` once, on disks and instances of Compute Engine's double: ``make demo-gcp``."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from demo.on_double import FILES
from demo.on_double import main as run_on
from demo.run_demo import ROOT, environment
from tests.clouds.gcp.client import Double
from tests.clouds.nodes.packages import flights, why_no_flights

BUCKET, PREFIX = "flights-demo", "2013"


class Gcp:
    """Compute Engine, persistent disks and Cloud Storage."""

    name, title = "gcp", "Google Cloud"
    dag, conn_id = "flights_on_gcp", "google_cloud_default"
    most_nodes = 127  # a gather node takes so many disks besides the one that it boots from

    def why_not(self) -> str:
        """Return what is missing on this machine, or nothing."""
        return why_no_flights()

    def double(self, state: Path) -> AbstractContextManager[Double]:
        """Return the cloud's double, whose nodes really run."""
        return Double(state, nodes=True)

    def make_account(self, double: Double) -> dict[str, Any]:
        """Make a bucket, and give the nodes' image what it needs."""
        double("bucket", name=BUCKET)
        sdk = double.state_dir / "google-cloud-sdk"
        (sdk / "bin").mkdir(parents=True)
        shutil.copy(ROOT / "tests/clouds/gcp/gcloud.py", sdk / "bin/gcloud")
        (sdk / "bin/gcloud").chmod(0o755)
        layers = {place: str(folder) for place, folder in flights().items()}
        double("layers", image="*", layers={**layers, "/usr/lib/google-cloud-sdk": str(sdk)})
        return {"result": f"gs://{BUCKET}/{PREFIX}", "image": "projects/debian-cloud/global/images/family/debian-13"}

    def settings(self, home: Path, double: Double) -> dict[str, str]:
        """Return the settings of an Airflow whose cloud is the double."""
        extra = {**double.connection_extra(), "poll_interval": 0.5}
        return {
            **environment(home, ""),
            **double.env(),
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps({"conn_type": "google_cloud_platform", "extra": extra}),
            "AIRFLOW__RANKVOL__OWNER": "demo",
        }

    def fetch(self, double: Double, folder: Path) -> None:
        """Download the result."""
        for name in FILES:
            url = f"{double.url}/storage/v1/b/{BUCKET}/o/{quote(f'{PREFIX}/{name}', safe='')}"
            answer = requests.get(url, params={"alt": "media"}, timeout=30)
            answer.raise_for_status()
            (folder / name).write_bytes(answer.content)


def main() -> int:
    """Run the demo."""
    return run_on(Gcp())


if __name__ == "__main__":
    sys.exit(main())

"""Compute Engine's double, with nodes that really run, as the ground of jobs."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from airflow_rankvol.backends import _gcp_connection
from airflow_rankvol.backends.base import Guard
from airflow_rankvol.backends.gcp import GcpBackend
from tests.airflow.grounds import OWNER, rank_of
from tests.clouds.gcp.client import ZONE, Double


class GcpGround:
    """Compute Engine's double."""

    name = "gcp"
    boot_timeout = 5
    looks_inside = False

    def __init__(self, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secret_fields: dict[str, Any] = {"service_account": "default"}
        self.double = double
        self._patch = monkeypatch
        double.reset()
        # The pause is for disks from snapshots, whose bytes come late; here they are there at once.
        double.settings(node_environment={"RV_PROBE_PAUSE": "0.01", "RV_TRIES": "2", "RV_LINGER": "0.1"})
        extra = {**double.connection_extra(), "zone": ZONE, "poll_interval": 0.1}
        connection = {"conn_type": "google_cloud_platform", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_RANKVOL_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("AIRFLOW__RANKVOL__OWNER", OWNER)
        # A teardown after a failure waits for what a listing may lack; the double's lack nothing for longer.
        monkeypatch.setattr(GcpBackend, "listing_lag_s", 2.0)
        # What a process remembers of Compute Engine is not to be known in the next test.
        _gcp_connection._SHARED.forget()

    def fail_create(self, rank: int) -> None:
        label = json.dumps({"rankvol-rank": str(rank)})[1:-1]
        self._refuse("disks.insert", label, "quotaExceeded", "no room for volume")

    def fail_delete(self, rank: int) -> None:
        delete = GcpBackend.delete_volume

        def failing(backend: GcpBackend, volume_id: str, guard: Guard) -> None:
            if rank_of(backend, volume_id, guard) == rank:
                self._refuse("disks.delete", volume_id.partition("/")[2], "forbidden", "you may not delete this")
            delete(backend, volume_id, guard)

        self._patch.setattr(GcpBackend, "delete_volume", failing)

    def _refuse(self, action: str, resource: str, code: str, message: str) -> None:
        self.double.fault("error", action, resource=resource, code=code, message=message, status=403, times=-1)

    def never_boot(self, rank: int | None = None) -> None:
        self.double("never_boot", times=1000, instance="*" if rank is None else f"*-r{rank}-*")

    def limit_gather(self, volumes: int) -> None:
        self._patch.setattr(GcpBackend, "max_volumes", lambda _self, _template: volumes)

    def secret(self, text: str) -> str:
        self.double("secret", name="tests-secret", value=text)
        return "secretmanager:tests-secret"

    def add_volume(self, name: str, file: str, text: str) -> None:
        body = {"name": name, "sizeGb": "10", "type": f"zones/{ZONE}/diskTypes/pd-balanced"}
        made = self.double.rest().post(f"zones/{ZONE}/disks", body)
        self.double.wait(lambda state: state["disks"][f"{ZONE}/{name}"]["status"] == "READY")
        self._write(f"{name}.{made['targetId']}", file, text)

    def _write(self, disk: str, file: str, text: str) -> None:
        """Write a file system with one file onto a disk that nobody has used yet."""
        folder = self.double.state_dir / f"files-{disk}"
        folder.mkdir()
        (folder / file).write_text(text)
        image = self.double.state_dir / "images" / disk
        with image.open("wb") as blank:
            blank.truncate(10 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", "-d", str(folder), str(image)], check=True)

    def left(self) -> list[str]:
        state = self.double.state()
        return sorted([*state["instances"], *state["disks"]])

"""Where the jobs of a bench run: what the bodies need of each kind of cloud beyond its backend's verbs."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest

from airflow_rankvol.backends import _aws_connection
from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends._local_launch import start
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.base import Backend, Guard, Selector, VolumeRequest
from airflow_rankvol.backends.local import LocalBackend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.errors import AuthDenied, QuotaExceeded
from airflow_rankvol.hooks import get_backend
from airflow_rankvol.records import Volume
from tests.clouds.aws.client import Double

OWNER = "tests"


class Ground(Protocol):
    """One cloud, as tests break and furnish it.

    Attributes:
        name: ``local``, ``aws`` or ``gcp``.
        boot_timeout: seconds in which a node that comes up at all has come up.
        looks_inside: whether anybody but a node can tell what lies on a volume.
        secret_fields: fields of a job's node that may read secrets.
    """

    name: str
    boot_timeout: int
    looks_inside: bool
    secret_fields: dict[str, Any]

    def fail_create(self, rank: int) -> None:
        """Let no volume of a rank be created: ``no room for volume``."""

    def fail_delete(self, rank: int) -> None:
        """Let no volume of a rank be deleted: ``you may not delete this``."""

    def never_boot(self, rank: int | None = None) -> None:
        """Let the nodes of a rank, whose volume exists, or all nodes never come up."""

    def limit_gather(self, volumes: int) -> None:
        """Let a gather node hold so many volumes."""

    def secret(self, text: str) -> str:
        """Keep a text where nodes can read it, and return its id."""

    def add_volume(self, name: str, file: str, text: str) -> None:
        """Make a volume of somebody else's, with a file on it."""

    def left(self) -> list[str]:
        """Return what runs or exists there, whoever asked for it."""


class LocalGround:
    """This machine."""

    name = "local"
    boot_timeout = 1
    looks_inside = True

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secret_fields: dict[str, Any] = {}
        self._folder = folder
        self._patch = monkeypatch
        extra = {"state_dir": str(folder / "state"), "mode": "directory", "poll_interval": 0.05}
        connection = json.dumps({"conn_type": "rankvol_local", "extra": extra})
        monkeypatch.setenv("AIRFLOW_CONN_RANKVOL_DEFAULT", connection)

    def fail_create(self, rank: int) -> None:
        create = LocalBackend.create_volume

        def failing(backend: LocalBackend, request: VolumeRequest) -> Volume:
            if request.tags.rank == rank:
                raise QuotaExceeded("no room for volume", backend="local", verb="create_volume", resource=request.name)
            return create(backend, request)

        self._patch.setattr(LocalBackend, "create_volume", failing)

    def fail_delete(self, rank: int) -> None:
        delete = LocalBackend.delete_volume

        def failing(backend: LocalBackend, volume_id: str, guard: Guard) -> None:
            if rank_of(backend, volume_id, guard) == rank:
                raise AuthDenied("you may not delete this", backend="local", verb="delete_volume", resource=volume_id)
            delete(backend, volume_id, guard)

        self._patch.setattr(LocalBackend, "delete_volume", failing)

    def never_boot(self, rank: int | None = None) -> None:
        def start_others(backend: Any, node: Any, lifetime_s: float) -> None:
            if rank is not None and f"-r{rank}-" not in node.name:
                start(backend, node, lifetime_s)

        self._patch.setattr("airflow_rankvol.backends.local.start", start_others)

    def limit_gather(self, volumes: int) -> None:
        self._patch.setattr(LocalBackend, "max_volumes", lambda _self, _template: volumes)

    def secret(self, text: str) -> str:
        path = self._folder / "secret"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def add_volume(self, name: str, file: str, text: str) -> None:
        backend = get_backend()
        assert isinstance(backend, LocalBackend)
        made = backend.add_untagged_volume(name, 0.03125)
        (backend.state_dir / "volumes" / made.id / "data" / file).write_text(text)

    def left(self) -> list[str]:
        return sorted(path.name for path in (self._folder / "state").glob("volumes/*"))


class AwsGround:
    """EC2's double, with nodes that really run."""

    name = "aws"
    boot_timeout = 5
    looks_inside = False

    def __init__(self, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secret_fields: dict[str, Any] = {"instance_profile": "nodes"}
        self.double = double
        self._patch = monkeypatch
        double.reset()
        # The pause is for disks from snapshots, whose bytes come late; here they are there at once.
        double.settings(node_environment={"RV_PROBE_PAUSE": "0.01"})
        connection = json.loads(double.env()["AIRFLOW_CONN_AWS_DEFAULT"])
        connection["extra"]["poll_interval"] = 0.1
        monkeypatch.setenv("AIRFLOW_CONN_RANKVOL_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("AIRFLOW__RANKVOL__OWNER", OWNER)
        # A teardown after a failure waits for what a listing may lack; the double's lack nothing for longer.
        monkeypatch.setattr(AwsBackend, "listing_lag_s", 2.0)
        # What a process remembers of EC2 is not to be known in the next test; its clients take long to make.
        _aws_connection._SHARED.forget()
        monkeypatch.setattr(_aws_connection, "Clients", _clients)

    def fail_create(self, rank: int) -> None:
        tag = json.dumps({"Key": "rankvol:rank", "Value": str(rank)})
        self._refuse("CreateVolume", tag, "VolumeLimitExceeded", "no room for volume")

    def fail_delete(self, rank: int) -> None:
        delete = AwsBackend.delete_volume

        def failing(backend: AwsBackend, volume_id: str, guard: Guard) -> None:
            if rank_of(backend, volume_id, guard) == rank:
                self._refuse("DeleteVolume", volume_id, "UnauthorizedOperation", "you may not delete this")
            delete(backend, volume_id, guard)

        self._patch.setattr(AwsBackend, "delete_volume", failing)

    def _refuse(self, action: str, resource: str, code: str, message: str) -> None:
        self.double.fault("error", action, resource=resource, code=code, message=message, status=400, times=-1)

    def never_boot(self, rank: int | None = None) -> None:
        if rank is None:
            self.double.settings(launch_s=3600.0)
            return
        for volume_id, volume in self.double.state()["volumes"].items():
            if volume["Tags"].get("rankvol:rank") == str(rank):
                self.double("stick", state="attaching", volume=volume_id)

    def limit_gather(self, volumes: int) -> None:
        self._patch.setattr(AwsBackend, "max_volumes", lambda _self, _template: volumes)

    def secret(self, text: str) -> str:
        self.double.boto3("ssm").put_parameter(Name="/tests/secret", Value=text, Type="SecureString")
        iam = self.double.boto3("iam")
        iam.create_role(RoleName="nodes", AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="nodes")
        iam.add_role_to_instance_profile(InstanceProfileName="nodes", RoleName="nodes")
        return "ssm:/tests/secret"

    def add_volume(self, name: str, file: str, text: str) -> None:
        tags = [{"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": name}]}]
        ec2 = self.double.boto3("ec2")
        made = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1, VolumeType="gp3", TagSpecifications=tags)
        volume_id = made["VolumeId"]
        self.double.wait(lambda state: state["volumes"][volume_id]["State"] == "available")
        self._write(volume_id, file, text)

    def _write(self, volume_id: str, file: str, text: str) -> None:
        """Write a file system with one file onto a volume that nobody has used yet."""
        folder = self.double.state_dir / f"files-{volume_id}"
        folder.mkdir()
        (folder / file).write_text(text)
        image = self.double.state_dir / "images" / volume_id
        with image.open("wb") as disk:
            disk.truncate(1 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", "-d", str(folder), str(image)], check=True)

    def left(self) -> list[str]:
        state = self.double.state()
        live = [key for key, item in state["instances"].items() if item["State"]["Name"] != "terminated"]
        return sorted([*live, *state["volumes"]])


@cache
def _clients_of(conn_id: str, extra: str, login: str, password: str) -> Clients:
    return Clients(Settings(conn_id, "aws", json.loads(extra), login, password))


def _clients(settings: Settings) -> Clients:
    """Return the clients of a connection, the same for all tests of a process."""
    return _clients_of(settings.conn_id, json.dumps(dict(settings.extra)), settings.login, settings.password)


def rank_of(backend: Backend, volume_id: str, guard: Guard) -> int | None:
    """Return the rank of a volume of ours."""
    found = {volume.id: volume.tags for volume in backend.list_owned(Selector(guard.owner)).volumes}
    tags = found.get(volume_id)
    return tags.rank if tags else None

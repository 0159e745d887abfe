"""Instances that really run: the states of the double drive nodes, and the ends of nodes drive the double."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.clouds.aws.imds import Metadata
from tests.clouds.aws.model import Attachment, Instance, Snapshot, Volume
from tests.clouds.aws.nodes import Nodes
from tests.clouds.aws.world import REGION, World
from tests.clouds.nodes.host import Busy, Link, NodeError, NodeHost, NodeSpec
from tests.clouds.nodes.lanes import THREADS, Lanes
from tests.clouds.nodes.packages import aws_cli

# Where a node finds the double's endpoint: an address that no node has.
ENDPOINT, ENDPOINT_PORT = "169.254.169.250", 80
_AGENT = "/opt/amazon/ssm/agent.py"
_GIB = 1024**3
_RETRY_S = 0.2


class RealNodes(Nodes):
    """Instances that run their user data, with their volumes as disks."""

    def __init__(self, world: World, state_dir: Path) -> None:
        super().__init__(world)
        if why := NodeHost.why_not():
            raise RuntimeError(f"nodes cannot run here: {why}")
        self._images = state_dir / "images"
        self._images.mkdir(parents=True, exist_ok=True)
        self._host = NodeHost(state_dir / "host", on_end=self._ended)
        self._lanes = Lanes()
        self._layers = aws_cli()
        self._more_layers: dict[str, dict[str, Path]] = {}  # by image
        self._launched: set[str] = set()

    def _ended(self, node_id: str, why: str) -> None:
        if why != "poweroff":
            return
        with self._world.lock:
            instance = self._world.instances.get(node_id)
            if instance is not None:
                self.powered_off(instance)

    # -- instances

    def give(self, image_id: str, layers: dict[str, str]) -> None:
        """Let the instances of an image see directories of this machine, read-only; programs in ``bin`` are on PATH."""
        self._more_layers[image_id] = {place: Path(folder) for place, folder in layers.items()}

    def started(self, instance: Instance) -> None:
        """Boot it, with the volumes that it was launched with."""
        content = Metadata(self._world, instance)
        settings = self._world.settings
        endpoint = {"AWS_ENDPOINT_URL": f"http://{ENDPOINT}:{ENDPOINT_PORT}", "AWS_REGION": REGION}
        spec = NodeSpec(
            id=instance.id,
            user_data=instance.user_data or b"#!/bin/sh\n",
            address=instance.address,
            metadata=content,
            # Whoever signs a URL of S3's outside of the nodes knows the endpoint by the second address.
            links=(Link(ENDPOINT, ENDPOINT_PORT, self.port), Link("127.0.0.1", self.port, self.port)),
            environment=endpoint | settings.node_environment,
            layers={**self._layers, **self._more_layers.get(instance.facts["ImageId"], {})},
            issue="Amazon Linux 2023",
            # Without a profile the agent finds no credentials, and waits.
            services=(("python3", "-I", _AGENT),) if instance.facts["IamInstanceProfile"] else (),
            files={_AGENT: Path(__file__).with_name("ssm_agent.py").read_text(encoding="utf-8")},
            minute_s=settings.minute_s,
        )
        self._lanes.put(instance.id, lambda: self._launch(instance, spec))

    def _launch(self, instance: Instance, spec: NodeSpec) -> None:
        try:
            self._host.launch(spec)
            self._launched.add(instance.id)
        except (NodeError, OSError):
            instance.impaired = True
            raise
        super().started(instance)

    def kill(self, instance: Instance, done: Callable[[], None]) -> None:
        """Cut the power."""

        def act() -> None:
            try:
                if instance.id in self._launched:
                    self._host.kill(instance.id)
            finally:
                with self._world.lock:
                    done()

        self._lanes.put(instance.id, act)

    def console(self, instance: Instance) -> bytes:
        """Return what the node has written so far."""
        return self._host.console(instance.id) + instance.console

    # -- volumes

    def _image(self, volume: Volume) -> Path:
        """Return the volume's image, sparse and of its true size; made at first use."""
        path = self._images / volume.id
        if not path.exists():
            if volume.snapshot_id and (source := self._images / volume.snapshot_id).exists():
                _copy(source, path)
            with path.open("ab") as file:
                file.truncate(volume.size_gib * _GIB)
        return path

    def copied(self, volume: Volume, snapshot: Snapshot) -> None:
        """Keep what is on the volume now."""
        if (source := self._images / volume.id).exists():
            _copy(source, self._images / snapshot.id)

    def discard(self, gone: Volume | Snapshot) -> None:
        """Remove the image."""
        (self._images / gone.id).unlink(missing_ok=True)

    def attach(self, volume: Volume, attachment: Attachment, done: Callable[[], None]) -> None:
        """Give the node the disk; the root's is not modelled, as nodes have a root of their own."""
        instance = self._world.instances[attachment.instance_id]
        if attachment.device == instance.root_device:
            done()
            return
        if instance.state == "pending":
            self._world.agenda.after(0.01, lambda: self.attach(volume, attachment, done))
            return
        by_id = (f"nvme-Amazon_Elastic_Block_Store_{volume.id.replace('-', '')}", attachment.device)

        def act() -> None:
            if volume.attachment is not attachment or attachment.state != "attaching":
                return
            if instance.id in self._launched:
                try:
                    name = self._disk_name(instance, volume)
                    self._host.attach(instance.id, volume.id, self._image(volume), by_id, name)
                except NodeError:
                    return  # it has ended meanwhile: its termination frees the volume
            with self._world.lock:
                done()

        self._lanes.put(instance.id, act)

    @staticmethod
    def _disk_name(instance: Instance, volume: Volume) -> str:
        """Return the kernel's name for a disk: nothing that anyone can derive from the device name asked for."""
        return f"nvme{instance.disks.setdefault(volume.id, len(instance.disks) + 1)}n1"

    def detach(self, volume: Volume, attachment: Attachment, force: bool, done: Callable[[], None]) -> None:
        """Take the disk from the node; while it is mounted there, the attachment stays busy."""
        node_id = attachment.instance_id

        def act() -> None:
            if volume.attachment is not attachment:
                return
            try:
                if node_id in self._launched:
                    self._host.detach(node_id, volume.id, force=force)
            except Busy:
                with self._world.lock:
                    attachment.state = "busy"
                    self._world.agenda.after(_RETRY_S, lambda: self.detach(volume, attachment, force, done))
                return
            except (NodeError, KeyError):
                pass  # the node has ended, or never had it: the disk is free
            with self._world.lock:
                done()

        self._lanes.put(node_id, act)

    # -- the end

    def clear(self) -> None:
        """End all nodes, remove all images, and be ready for new ones."""
        super().clear()
        self._lanes.close()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._host.kill, self._launched))
        self._launched.clear()
        self._more_layers.clear()
        for image in self._images.iterdir():
            image.unlink()
        self._lanes = Lanes()

    def close(self) -> None:
        """Kill everything that runs, and remove the images; the consoles stay."""
        self._lanes.close()
        self._host.close()
        shutil.rmtree(self._images)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)

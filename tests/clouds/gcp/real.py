"""Instances that really run: the states of the double drive nodes, and the ends of nodes drive the double."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.clouds.gcp.metadata import Metadata
from tests.clouds.gcp.model import Attached, Disk, Instance
from tests.clouds.gcp.nodes import SCRIPT, Done, Nodes
from tests.clouds.gcp.world import World
from tests.clouds.nodes.host import Busy, Link, NodeError, NodeHost, NodeSpec
from tests.clouds.nodes.lanes import THREADS, Lanes
from tests.clouds.nodes.metadata import GceMetadata

# Where a node finds the double's endpoint: an address that no node has.
ENDPOINT, ENDPOINT_PORT = "169.254.169.250", 80
_GIB = 1024**3
_RETRY_S = 0.2


class RealNodes(Nodes):
    """Instances that run their startup script, with their disks; each boot begins with a new boot disk."""

    def __init__(self, world: World, state_dir: Path) -> None:
        super().__init__(world)
        if why := NodeHost.why_not():
            raise RuntimeError(f"nodes cannot run here: {why}")
        self._images = state_dir / "images"
        self._images.mkdir(parents=True, exist_ok=True)
        self._host = NodeHost(state_dir / "host", on_end=self._ended)
        self._lanes = Lanes()
        self._layers: dict[str, dict[str, Path]] = {}  # by image
        self._boots = itertools.count(1)
        self._running: dict[int, str] = {}  # the node of each instance, by the instance's number
        self._instances: dict[str, Instance] = {}

    def _ended(self, node_id: str, why: str) -> None:
        with self._world.lock:
            instance = self._instances.get(node_id)
            if why == "poweroff" and instance is not None and self._running.get(instance.id) == node_id:
                self.powered_off(instance)

    # -- instances

    def give(self, image: str, layers: dict[str, str]) -> None:
        """Let the instances of an image see directories of this machine, read-only; programs in ``bin`` are on PATH."""
        self._layers[image] = {place: Path(folder) for place, folder in layers.items()}

    def started(self, instance: Instance) -> None:
        """Boot it, with the disks that it has."""
        content = Metadata(self._world, instance)
        settings = self._world.settings
        node_id = f"{instance.name}.{next(self._boots)}"
        image = next((attached.disk.image for attached in instance.disks if attached.boot), "")
        spec = NodeSpec(
            id=node_id,
            user_data=instance.metadata.get(SCRIPT, "").encode(),
            address=instance.address,
            metadata=content,
            metadata_service=lambda content: GceMetadata(content, content.write),  # type: ignore[attr-defined]
            runner="guest-agent",
            # Whoever signs a URL outside of the nodes knows the endpoint by the second address.
            links=(Link(ENDPOINT, ENDPOINT_PORT, self.port), Link("127.0.0.1", self.port, self.port)),
            environment={**_endpoints(), **settings.node_environment},
            files={"/etc/hosts": _hosts(instance)},
            layers=self._layers_of(image),
            hostname=instance.name,
            issue="Debian GNU/Linux 12",
            minute_s=settings.minute_s,
        )
        self._running[instance.id] = node_id
        self._instances[node_id] = instance
        disks = [attached for attached in instance.disks if not attached.boot and attached.state == "attached"]
        self._lanes.put(str(instance.id), lambda: self._boot(instance, spec, disks))

    def _layers_of(self, image: str) -> dict[str, Path]:
        named = (layers for name, layers in self._layers.items() if name in ("*", image) or image.endswith(f"/{name}"))
        return {place: folder for layers in named for place, folder in layers.items()}

    def _boot(self, instance: Instance, spec: NodeSpec, disks: list[Attached]) -> None:
        try:
            self._host.launch(spec)
            for attached in disks:
                self._show(spec.id, attached)
        except NodeError:
            with self._world.lock:
                instance.impaired = instance.status == "RUNNING"
            if instance.impaired:
                raise
        super().started(instance)

    def kill(self, instance: Instance, done: Done) -> None:
        """Cut the power, of an instance that may have ended by itself, then call back."""

        def act() -> None:
            try:
                self._cut(instance)
            finally:
                with self._world.lock:
                    done()

        self._lanes.put(str(instance.id), act)

    def _cut(self, instance: Instance) -> None:
        node_id = self._running.pop(instance.id, "")
        if node_id:
            try:
                self._host.kill(node_id)
            except NodeError:
                return  # it never came up

    def serial(self, instance: Instance) -> bytes:
        """Return what the node has written so far."""
        node_id = next((name for name, one in reversed(self._instances.items()) if one is instance), "")
        return (self._host.console(node_id) if node_id else b"") + instance.serial

    # -- disks

    def _image(self, disk: Disk) -> Path:
        """Return the disk's image, sparse and of its true size; made at first use."""
        path = self._images / f"{disk.name}.{disk.id}"
        with path.open("ab") as file:
            file.truncate(disk.size_gb * _GIB)
        return path

    def _show(self, node_id: str, attached: Attached) -> None:
        disk, letter = attached.disk, _letters(attached.index)
        # gce/disks/disk-symlinks: Hyperdisk, and what new machine types have, is NVMe; the rest is SCSI.
        name = f"nvme0n{attached.index + 1}" if disk.type.startswith("hyperdisk") else f"sd{letter}"
        by_id = [f"google-{attached.device}"]
        read_only = attached.mode == "READ_ONLY"
        self._host.attach(node_id, str(disk.id), self._image(disk), by_id, name, read_only=read_only)

    def discard(self, gone: Disk) -> None:
        """Remove the image."""
        (self._images / f"{gone.name}.{gone.id}").unlink(missing_ok=True)

    def attach(self, instance: Instance, attached: Attached, done: Done) -> None:
        """Give a running node a disk, then call back."""

        def act() -> None:
            node_id = self._running.get(instance.id)
            if node_id and attached in instance.disks:
                with contextlib.suppress(NodeError):  # it has ended meanwhile
                    self._show(node_id, attached)
            with self._world.lock:
                done()

        self._lanes.put(str(instance.id), act)

    def detach(self, instance: Instance, attached: Attached, done: Done) -> None:
        """Take a disk from a running node, then call back; while it is mounted there, it is tried again."""

        def act() -> None:
            node_id = self._running.get(instance.id)
            try:
                if node_id:
                    self._host.detach(node_id, str(attached.disk.id))
            except Busy:
                with self._world.lock:
                    self._world.agenda.after(_RETRY_S, lambda: self.detach(instance, attached, done))
                return
            except (NodeError, KeyError):
                pass  # the node has ended, or never had it: the disk is free
            with self._world.lock:
                done()

        self._lanes.put(str(instance.id), act)

    # -- the end

    def clear(self) -> None:
        """End all nodes, remove all images, and be ready for new ones."""
        super().clear()
        self._lanes.close()
        instances = [self._instances[node_id] for node_id in list(self._running.values())]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._cut, instances))
        self._instances.clear()
        self._layers.clear()
        for image in self._images.iterdir():
            image.unlink()
        self._lanes = Lanes()

    def close(self) -> None:
        """Kill everything that runs, and remove the images; the consoles stay."""
        self._lanes.close()
        self._host.close()
        shutil.rmtree(self._images)


def _endpoints() -> dict[str, str]:
    """Return the environment of nodes that find Google's APIs at the double."""
    url = f"http://{ENDPOINT}:{ENDPOINT_PORT}"
    gcloud = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{url}/storage/v1/"}
    return {"RV_SECRETMANAGER": url, "RV_STORAGE": url, **gcloud}


def _hosts(instance: Instance) -> str:
    # The guest agent adds the metadata server's line.
    return f"127.0.0.1 localhost\n{instance.address} {instance.name}\n169.254.169.254 metadata.google.internal\n"


def _letters(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else chr(ord("a") + index // 26 - 1) + chr(ord("a") + index % 26)

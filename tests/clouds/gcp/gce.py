"""Compute Engine, wired up: every method that the double has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.clouds.common.stuck import Stuck
from tests.clouds.gcp.accelerators import AcceleratorCalls
from tests.clouds.gcp.attachments import Attachments
from tests.clouds.gcp.capacity import Capacity
from tests.clouds.gcp.catalog import Catalog, CatalogCalls
from tests.clouds.gcp.disks import Disks, Maker
from tests.clouds.gcp.errors import not_modelled
from tests.clouds.gcp.instances import Instances
from tests.clouds.gcp.launch import Launcher
from tests.clouds.gcp.lifecycle import Lifecycle
from tests.clouds.gcp.nodes import Nodes
from tests.clouds.gcp.operations import Operations
from tests.clouds.gcp.quotas import Quotas
from tests.clouds.gcp.views import Reports, instance_view
from tests.clouds.gcp.world import World

Json = dict[str, Any]
Handler = Callable[..., Json]


class Gce:
    """All of Compute Engine."""

    def __init__(self, world: World, nodes: Nodes) -> None:
        self.world = world
        self.nodes = nodes
        self.catalog = Catalog()
        self.stuck = Stuck()
        self.lost: dict[str, str] = {}  # scopes that lists of all zones do without, with the warning's code
        self.capacity = Capacity()
        self.quotas = Quotas(world)
        self.operations = Operations(world, self.lost)
        self.lifecycle = Lifecycle(world, self.operations, nodes, self.stuck)
        self.attachments = Attachments(world, self.operations, self.lifecycle, nodes, self.stuck)
        maker = Maker(world, self.catalog)
        self.launcher = Launcher(world, self.catalog, maker, self.attachments)
        self.disks = Disks(world, self.operations, maker, self.quotas, self.lifecycle, self.lost)
        self.instances = Instances(
            world,
            self.operations,
            self.launcher,
            self.lifecycle,
            self.attachments,
            (self.quotas, self.capacity, self.lost),
        )
        nodes.view = instance_view
        self._readers = self._reading()
        self._writers = self._writing()

    def _reading(self) -> dict[str, Handler]:
        reads, reports = CatalogCalls(self.catalog, self.lost), Reports(self.world, self.nodes)
        cards = AcceleratorCalls(self.lost)
        return {
            "acceleratorTypes.aggregatedList": cards.aggregated_list,
            "acceleratorTypes.get": cards.get,
            "acceleratorTypes.list": cards.list,
            "disks.aggregatedList": self.disks.aggregated_list,
            "disks.delete": self.disks.delete,
            "disks.get": self.disks.get,
            "disks.list": self.disks.list,
            "diskTypes.get": reads.disk_type,
            "diskTypes.list": reads.disk_types,
            "images.get": reads.image,
            "images.getFromFamily": reads.image_family,
            "instances.aggregatedList": self.instances.aggregated_list,
            "instances.delete": self.instances.delete,
            "instances.detachDisk": self.attachments.detach_disk,
            "instances.setDiskAutoDelete": self.attachments.set_auto_delete,
            "instances.get": self.instances.get,
            "instances.getGuestAttributes": reports.guest_attributes,
            "instances.getSerialPortOutput": reports.serial,
            "instances.list": self.instances.list,
            "instances.stop": self.instances.stop,
            "machineTypes.aggregatedList": reads.all_machine_types,
            "machineTypes.get": reads.machine_type,
            "machineTypes.list": reads.machine_types,
            "networks.get": _network,
            "projects.get": self.quotas.project,
            "regions.get": self.quotas.region,
            "snapshots.get": reads.snapshot,
            "subnetworks.get": reads.subnetwork,
            "subnetworks.list": reads.subnetworks,
            "zoneOperations.get": self.operations.get,
            "zoneOperations.list": self.operations.list,
            "zones.get": reads.zone,
            "zones.list": reads.zones,
        }

    def _writing(self) -> dict[str, Handler]:
        return {
            "disks.insert": self.disks.insert,
            "disks.setLabels": self.disks.set_labels,
            "instances.attachDisk": self.attachments.attach_disk,
            "instances.insert": self.instances.insert,
            "instances.setLabels": self.instances.set_labels,
            "instances.setMetadata": self.instances.set_metadata,
            "instances.testIamPermissions": self.instances.test_permissions,
        }

    def answer(self, method: str, params: Json, body: Any) -> Json:
        """Do what a call asks for, and return the answer.

        Raises:
            GceError: Compute Engine refuses, or the double cannot.
        """
        if method == "zoneOperations.wait":
            return self.operations.wait(params)
        with self.world.lock:
            self.world.agenda.settle()
            if method in self._readers:
                answer = self._readers[method](params)
            elif method in self._writers:
                answer = self._writers[method](params, body)
            else:
                raise not_modelled(f"compute.{method}")
            # What takes no time has happened when the answer is on its way.
            self.world.agenda.settle()
            return answer

    def clear(self) -> None:
        """Be as new."""
        with self.world.lock:
            self.world.agenda.clear()
        # Without the lock: what nodes are at takes it to come to its end.
        self.nodes.clear()
        with self.world.lock:
            self.world.clear()
            self.lost.clear()
            for part in (
                self.stuck,
                self.disks,
                self.capacity,
                self.quotas,
                self.operations,
                self.lifecycle,
                self.launcher,
                self.catalog,
            ):
                part.clear()


def _network(params: Json) -> Json:
    """networks.get."""
    link = Catalog.network(f"global/networks/{params['network']}", "")
    return {"kind": "compute#network", "id": "1", "name": params["network"], "selfLink": link}

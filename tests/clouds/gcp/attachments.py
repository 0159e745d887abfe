"""attachDisk, detachDisk and setDiskAutoDelete."""

from __future__ import annotations

from typing import Any

from tests.clouds.common.stuck import Stuck
from tests.clouds.gcp.disks import check_free
from tests.clouds.gcp.errors import Failure, GceError, invalid, not_modelled, not_ready, required
from tests.clouds.gcp.lifecycle import Lifecycle
from tests.clouds.gcp.machines import TYPES
from tests.clouds.gcp.model import Attached, Disk, Instance
from tests.clouds.gcp.names import check_device, zonal
from tests.clouds.gcp.nodes import Nodes
from tests.clouds.gcp.operations import Operations, checked_request_id
from tests.clouds.gcp.world import World

Json = dict[str, Any]
_KNOWN = {"source", "deviceName", "mode", "autoDelete", "boot", "type", "kind", "interface", "index"}


def incompatible(instance: Instance, disk: Disk) -> Failure | None:
    """Return how an operation fails that joins what does not fit together (seen:astronomer/astronomer#2463)."""
    if TYPES[instance.machine_type].takes(disk.type):
        return None
    text = f"[{disk.type}, {instance.machine_type}] features are not compatible for creating instance."
    return Failure("UNSUPPORTED_OPERATION", text, 400, "BAD REQUEST")


def check_room(machine_type: str, name: str, count: int) -> None:
    """Refuse more disks than a machine type takes [U: status and reason]."""
    limit = TYPES[machine_type].max_disks
    if count > limit:
        text = f"Exceeded limit 'maximum_persistent_disks' on resource '{name}'. Limit: {limit}.0"
        raise GceError(400, "limitExceeded", text)


def _check_ready(instance: Instance) -> None:
    if instance.busy or instance.status not in ("RUNNING", "TERMINATED"):
        raise not_ready(instance.link)


class Attachments:
    """Joins disks with instances, and parts them."""

    def __init__(self, world: World, operations: Operations, lifecycle: Lifecycle, nodes: Nodes, stuck: Stuck) -> None:
        self._world = world
        self._operations = operations
        self._lifecycle = lifecycle
        self._nodes = nodes
        self._stuck = stuck

    def existing(self, instance: Instance, body: Json, field: str) -> Attached:
        """Return the attachment that a body asks for, for a disk that exists; nothing has changed yet.

        Raises:
            GceError: The disk is not there, in another zone or in use; the device's name is taken.
        """
        if more := set(body) - _KNOWN:
            raise not_modelled(f"attaching a disk with {', '.join(sorted(more))}")
        if body.get("type", "PERSISTENT") != "PERSISTENT":
            raise not_modelled("attaching a local SSD")
        if "source" not in body:
            raise required(f"{field}.source")
        disk = self._world.disks.find(instance.zone, zonal(body["source"], "disks", instance.zone, f"{field}.source"))
        mode = body.get("mode", "READ_WRITE")
        check_free(disk, mode)
        return self.attached(instance, disk, body, field)

    @staticmethod
    def attached(instance: Instance, disk: Disk, body: Json, field: str) -> Attached:
        """Return an attachment with a device name of its own."""
        index = next(n for n in range(1000) if all(a.index != n for a in instance.disks))
        device = body.get("deviceName") or f"persistent-disk-{index}"
        check_device(device, f"{field}.deviceName")
        if any(a.device == device for a in instance.disks):
            raise invalid(f"{field}.deviceName", device, "The device name is already used on the instance.")
        return Attached(
            disk=disk,
            device=device,
            mode=body.get("mode", "READ_WRITE"),
            auto_delete=body.get("autoDelete", False),
            boot=body.get("boot", False),
            index=index,
        )

    def bind(self, instance: Instance, attached: Attached) -> None:
        """Give a disk to an instance: from now on it is in use."""
        instance.disks.append(attached)
        attached.disk.users.append(instance)
        attached.disk.facts["lastAttach"] = self._world.now()

    def attach_disk(self, params: Json, body: Json) -> Json:
        """instances.attachDisk."""
        request_id = checked_request_id(params)
        instance = self._world.instances.find(params["zone"], params["instance"])
        # Several disks may be attached to an instance at the same time, each by a request of its own.
        action = f"instances.attachDisk:{body.get('source', '').rpartition('/')[2]}"
        if found := self._operations.recall(action, instance.link, request_id, body):
            return found
        if params.get("forceAttach"):
            # disc, AttachedDisk.forceAttach: "If you try to force attach a zonal disk … you will receive an error".
            raise invalid("forceAttach", "true", "Zonal disks cannot be attached by force.")
        _check_ready(instance)
        attached = self.existing(instance, body, "resource")
        check_room(instance.machine_type, instance.name, len(instance.disks) + 1)
        self.bind(instance, attached)

        return self._operations.start(
            action,
            instance,
            lambda finish: self._plug(instance, attached, finish),
            after_s=self._world.settings.attach_s,
            request_id=request_id,
            undo=lambda: self._lifecycle.free(instance, attached),
            failure=incompatible(instance, attached.disk),
            alone=False,
        ).view()

    def _plug(self, instance: Instance, attached: Attached, finish: Any) -> None:
        def done() -> None:
            attached.state = "attached"
            finish()

        def go_on() -> None:
            if attached not in instance.disks:
                finish(Failure("RESOURCE_NOT_FOUND", f"The instance '{instance.link}' has ended", 404, "NOT FOUND"))
            elif instance.status == "RUNNING":
                self._nodes.attach(instance, attached, done)
            else:
                done()

        if not self._stuck.holds(attached.disk.name, "attaching", go_on):
            go_on()

    def detach_disk(self, params: Json) -> Json:
        """instances.detachDisk: the disk stays in use until the operation is done."""
        request_id, device = checked_request_id(params), params["deviceName"]
        instance = self._world.instances.find(params["zone"], params["instance"])
        action = f"instances.detachDisk:{device}"
        if found := self._operations.recall(action, instance.link, request_id):
            return found
        _check_ready(instance)
        attached = next((a for a in instance.disks if a.device == device), None)
        if attached is None:
            raise invalid("deviceName", device, f"No attached disk found with device name '{device}'")
        if attached.boot and instance.status != "TERMINATED":
            # gce/disks/detach-reattach-boot-disk: "stop the VM" comes first.
            raise GceError(400, "invalid", "Cannot detach the boot disk of a running instance.")
        if attached.state != "attached":
            raise not_ready(attached.disk.link)
        attached.state = "detaching"
        return self._operations.start(
            action,
            instance,
            lambda finish: self._unplug(instance, attached, finish),
            after_s=self._world.settings.detach_s,
            request_id=request_id,
            undo=lambda: setattr(attached, "state", "attached"),
            alone=False,
        ).view()

    def set_auto_delete(self, params: Json) -> Json:
        """instances.setDiskAutoDelete: whether a disk goes with the instance."""
        request_id, device = checked_request_id(params), params["deviceName"]
        instance = self._world.instances.find(params["zone"], params["instance"])
        action = f"instances.setDiskAutoDelete:{device}"
        if found := self._operations.recall(action, instance.link, request_id, params["autoDelete"]):
            return found
        _check_ready(instance)
        attached = next((a for a in instance.disks if a.device == device), None)
        if attached is None:
            raise invalid("deviceName", device, f"No attached disk found with device name '{device}'")
        before, attached.auto_delete = attached.auto_delete, params["autoDelete"] in (True, "true")
        return self._operations.start(
            action,
            instance,
            lambda finish: finish(),
            after_s=self._world.settings.update_s,
            request_id=request_id,
            undo=lambda: setattr(attached, "auto_delete", before),
            alone=False,
        ).view()

    def _unplug(self, instance: Instance, attached: Attached, finish: Any) -> None:
        def done() -> None:
            self._lifecycle.free(instance, attached)
            finish()

        def go_on() -> None:
            if attached in instance.disks and instance.status == "RUNNING":
                self._nodes.detach(instance, attached, done)
            else:
                done()

        if not self._stuck.holds(attached.disk.name, "detaching", go_on):
            go_on()

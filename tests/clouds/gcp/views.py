"""An instance as answers hold it, and what it reports."""

from __future__ import annotations

from typing import Any

from tests.clouds.gcp.errors import GceError, not_found, not_ready
from tests.clouds.gcp.model import PROJECT, ROOT, Attached, Instance, fingerprint, stamp
from tests.clouds.gcp.nodes import Nodes
from tests.clouds.gcp.world import World

Json = dict[str, Any]
SERIAL_LIMIT = 1024 * 1024  # disc, getSerialPortOutput: "Returns the last 1 MB of serial port output"
GUEST_ATTRIBUTES = "enable-guest-attributes"


def instance_view(instance: Instance) -> Json:
    """Return an instance as answers hold it."""
    zone = f"{ROOT}projects/{PROJECT}/zones/{instance.zone}"
    items = [{"key": k, "value": v} for k, v in instance.metadata.items()]
    seen: Json = {
        **instance.base(),
        "kind": "compute#instance",
        "machineType": f"{zone}/machineTypes/{instance.machine_type}",
        "cpuPlatform": "Intel Cascade Lake" if instance.status == "RUNNING" else "Unknown CPU Platform",
        "fingerprint": fingerprint((instance.id, instance.status, sorted(instance.metadata.items()))),
        "metadata": {"kind": "compute#metadata", "fingerprint": fingerprint(sorted(instance.metadata.items()))},
        "disks": [_disk(attached) for attached in sorted(instance.disks, key=lambda a: a.index)],
        "networkInterfaces": instance.facts["networkInterfaces"],
        "scheduling": instance.scheduling,
        "tags": {"fingerprint": fingerprint(instance.facts["tags"]), **instance.facts["tags"]},
        "canIpForward": instance.facts["canIpForward"],
        "deletionProtection": instance.facts["deletionProtection"],
        "startRestricted": False,
    }
    if items:
        seen["metadata"]["items"] = items
    more = {
        "serviceAccounts": instance.facts["serviceAccounts"],
        "shieldedInstanceConfig": instance.facts["shieldedInstanceConfig"],
        "guestAccelerators": [c for c in instance.facts["guestAccelerators"] if c["acceleratorType"] != "(built in)"],
        "lastStartTimestamp": stamp(instance.started_at) if instance.started_at else None,
        "lastStopTimestamp": stamp(instance.stopped_at) if instance.stopped_at else None,
        "resourceStatus": _limits(instance),
    }
    return seen | {name: value for name, value in more.items() if value}


def _limits(instance: Instance) -> Json | None:
    """Return when it will be ended (gce/instances/limit-vm-runtime: terminationTimestamp, while it runs)."""
    if instance.ends_at is None:
        return None
    return {"scheduling": {"terminationTimestamp": stamp(instance.ends_at)}}


def _disk(attached: Attached) -> Json:
    disk = attached.disk
    return {
        "kind": "compute#attachedDisk",
        "type": "PERSISTENT",
        "source": disk.url,
        "deviceName": attached.device,
        "mode": attached.mode,
        "autoDelete": attached.auto_delete,
        "boot": attached.boot,
        "index": attached.index,
        "interface": "NVME" if disk.type.startswith("hyperdisk") else "SCSI",
        "diskSizeGb": str(disk.size_gb),
    }


class Reports:
    """getSerialPortOutput and getGuestAttributes."""

    def __init__(self, world: World, nodes: Nodes) -> None:
        self._world = world
        self._nodes = nodes

    def serial(self, params: Json) -> Json:
        """instances.getSerialPortOutput: the last 1 MB, from ``start`` on."""
        instance = self._world.instances.find(params["zone"], params["instance"])
        stopped = instance.status not in ("RUNNING", "STOPPING")
        if stopped and not self._world.settings.serial_when_stopped:
            raise not_ready(instance.link)  # [U] the words; that it cannot be had is documented
        port = params.get("port", 1)
        whole = self._nodes.serial(instance) if port == 1 and not instance.serial_lost else b""
        end, oldest = len(whole), max(0, len(whole) - SERIAL_LIMIT)
        start = int(params.get("start", 0))
        # gce/reference/rest/v1/instances/getSerialPortOutput: a negative start counts from the end; what is discarded
        # already moves the start on.
        start = max(oldest, end + start if start < 0 else start)
        return {
            "kind": "compute#serialPortOutput",
            "contents": whole[start:].decode(errors="replace"),
            "start": str(start),
            "next": str(max(end, start)),
            "selfLink": f"{instance.url}/serialPort",
        }

    def guest_attributes(self, params: Json) -> Json:
        """instances.getGuestAttributes: of a namespace or of one key.

        gce/metadata/manage-guest-attributes; [U] the statuses when there are none.
        """
        instance = self._world.instances.find(params["zone"], params["instance"])
        if instance.metadata.get(GUEST_ATTRIBUTES, "").upper() != "TRUE":
            raise GceError(412, "conditionNotMet", "Guest attributes endpoint access is disabled.")
        if instance.status == "TERMINATED" and not self._world.settings.attributes_when_stopped:
            raise not_ready(instance.link)
        path = params.get("queryPath") or params.get("variableKey", "")
        namespace, _, key = path.partition("/")
        found = {
            place: value
            for place, value in sorted(instance.guest_attributes.items())
            if (not namespace or place[0] == namespace) and (not key or place[1] == key)
        }
        if not found:
            raise not_found(f"{instance.link}/guestAttributes/{path}")
        entries = [{"namespace": n, "key": k, "value": v} for (n, k), v in found.items()]
        seen: Json = {"kind": "compute#guestAttributes", "selfLink": f"{instance.url}/getGuestAttributes"}
        if "variableKey" in params and key:
            return {**seen, "variableKey": params["variableKey"], "variableValue": entries[0]["value"]}
        return {**seen, "queryPath": params.get("queryPath", ""), "queryValue": {"items": entries}}

"""instances.insert: everything that Compute Engine checks before it starts something."""

from __future__ import annotations

import itertools
import re
from datetime import datetime
from typing import Any

from tests.clouds.gcp.accelerators import accelerators
from tests.clouds.gcp.attachments import Attachments, check_room
from tests.clouds.gcp.catalog import Catalog
from tests.clouds.gcp.disks import Maker
from tests.clouds.gcp.errors import GceError, exists, invalid, not_modelled
from tests.clouds.gcp.machines import TYPES
from tests.clouds.gcp.model import PROJECT, Attached, Disk, Instance
from tests.clouds.gcp.names import check_labels, check_metadata, check_name, zonal
from tests.clouds.gcp.world import World

Json = dict[str, Any]
_KNOWN = {
    "name",
    "description",
    "machineType",
    "disks",
    "networkInterfaces",
    "metadata",
    "labels",
    "tags",
    "serviceAccounts",
    "scheduling",
    "guestAccelerators",
    "shieldedInstanceConfig",
    "hostname",
    "canIpForward",
    "deletionProtection",
    "minCpuPlatform",
    "kind",
}
# gce/instances/limit-vm-runtime: from 30 seconds to 120 days.
SHORTEST_S, LONGEST_S = 30, 120 * 24 * 3600
_STANDARD = (
    "You cannot specify a termination action for a VM instance that has the standard provisioning model (default). To "
    "use instance termination action, the VM instance must use the Spot, Reservation-Bound or Flex Start provisioning "
    "model."
)
_PARAMS = {
    "diskName": "name",
    "diskSizeGb": "sizeGb",
    "diskType": "type",
    "sourceImage": "sourceImage",
    "sourceSnapshot": "sourceSnapshot",
    "labels": "labels",
    "description": "description",
    "provisionedIops": "provisionedIops",
    "provisionedThroughput": "provisionedThroughput",
}


class Launcher:
    """Turns the body of instances.insert into an instance."""

    def __init__(self, world: World, catalog: Catalog, maker: Maker, attachments: Attachments) -> None:
        self._world = world
        self._catalog = catalog
        self._maker = maker
        self._attachments = attachments
        self._addresses = itertools.count(16)

    def clear(self) -> None:
        """Begin with the first address again."""
        self._addresses = itertools.count(16)

    def order(self, zone: str, body: Json) -> tuple[Instance, list[Attached]]:
        """Return the instance that a body asks for, with its disks, as yet nowhere.

        Raises:
            GceError: Whatever Compute Engine has against it. Nothing was changed then.
        """
        if more := set(body) - _KNOWN:
            raise not_modelled(f"instances.insert with {', '.join(sorted(more))}")
        instance = Instance(
            "instances",
            zone,
            check_name(body["name"]),
            self._world.new_id(),
            self._world.now(),
            description=body.get("description", ""),
            labels=check_labels(body.get("labels", {})),
            status="PROVISIONING",
            metadata=check_metadata(body.get("metadata", {})),
        )
        if (zone, instance.name) in self._world.instances:
            raise exists(instance.link)
        instance.machine_type = self._machine_type(zone, body)
        instance.facts["guestAccelerators"] = accelerators(zone, body)
        instance.scheduling = _scheduling(
            body, stays=bool(instance.facts["guestAccelerators"]) or not TYPES[instance.machine_type].moves
        )
        instance.facts["serviceAccounts"] = self._accounts(body)
        instance.facts["networkInterfaces"] = self._network(instance, body)
        instance.facts |= {
            "tags": body.get("tags", {}),
            "shieldedInstanceConfig": body.get("shieldedInstanceConfig"),
            "canIpForward": body.get("canIpForward", False),
            "deletionProtection": body.get("deletionProtection", False),
        }
        return instance, self._disks(instance, body)

    def _machine_type(self, zone: str, body: Json) -> str:
        if "machineType" not in body:
            raise invalid("resource.machineType", "", "The field is required.")
        name = zonal(body["machineType"], "machineTypes", zone, "resource.machineType")
        if self._catalog.machine_type(name, zone) is None:
            raise invalid(
                "resource.machineType",
                body["machineType"],
                f"Machine type with name '{name}' does not exist in zone '{zone}'.",
            )
        return name

    def _accounts(self, body: Json) -> list[Json]:
        found: list[Json] = body.get("serviceAccounts", [])
        if len(found) > 1:
            # disc, serviceAccounts: "Only one service account per VM instance is supported."
            raise invalid("resource.serviceAccounts", "", "Only one service account is supported.")
        for account in found:
            email = account.get("email", "default")
            if email not in self._catalog.accounts:
                text = (
                    f"The resource 'projects/{PROJECT}/serviceAccounts/{email}' of type 'serviceAccount' was not found."
                )
                raise GceError(400, "invalid", text)  # [U] the status
        return found

    def _network(self, instance: Instance, body: Json) -> list[Json]:
        wanted = body.get("networkInterfaces") or []
        if not wanted:
            raise invalid("resource.networkInterfaces", "", "At least one network interface is required.")
        if len(wanted) > 1:
            raise not_modelled("instances with several network interfaces")
        region = instance.zone.rpartition("-")[0]
        wish, field = wanted[0], "resource.networkInterfaces[0]"
        seen: Json = {"kind": "compute#networkInterface", "name": "nic0", "stackType": "IPV4_ONLY"}
        seen["network"] = self._catalog.network(wish.get("network", "global/networks/default"), f"{field}.network")
        link = wish.get("subnetwork", f"regions/{region}/subnetworks/default")
        seen["subnetwork"] = self._catalog.subnet(link, region, f"{field}.subnetwork")
        number = next(self._addresses)
        instance.address = seen["networkIP"] = f"10.128.{number // 250}.{number % 250 + 2}"
        if wish.get("accessConfigs"):
            nat = {"kind": "compute#accessConfig", "type": "ONE_TO_ONE_NAT", "name": "External NAT"}
            seen["accessConfigs"] = [{**nat, "natIP": f"203.0.113.{number % 250}"}]
        return [seen]

    # -- disks

    def _disks(self, instance: Instance, body: Json) -> list[Attached]:
        wanted = body.get("disks") or []
        if not wanted or not wanted[0].get("boot"):
            # disc, AttachedDisk.boot; gce/instances/create-start-instance: the boot disk comes first.
            raise invalid("resource.disks[0].boot", False, "Boot disk must be the first disk attached to the instance.")
        if any(wish.get("boot") for wish in wanted[1:]):
            raise invalid("resource.disks", "", "Only one boot disk is allowed.")
        check_room(instance.machine_type, instance.name, len(wanted))
        for n, wish in enumerate(wanted):
            instance.disks.append(self._disk(instance, wish, n))
            twice = [a for a in instance.disks if a.disk.name == instance.disks[-1].disk.name]
            if len(twice) > 1:
                raise invalid(f"resource.disks[{n}]", twice[0].disk.name, "The same disk is attached twice.")
        found, instance.disks = instance.disks, []
        return found

    def _disk(self, instance: Instance, wish: Json, n: int) -> Attached:
        field = f"resource.disks[{n}]"
        if ("source" in wish) == ("initializeParams" in wish):
            # disc, AttachedDisk.initializeParams: "mutually exclusive with the source property".
            raise invalid(field, "", "Exactly one of source and initializeParams is required.")
        if "source" in wish:
            attached = self._attachments.existing(instance, wish, field)
            if attached.boot and not attached.disk.image:
                raise invalid(f"{field}.source", wish["source"], "The disk has no operating system to boot from.")
            return attached
        return self._attachments.attached(instance, self._new_disk(instance, wish, field), wish, field)

    def _new_disk(self, instance: Instance, wish: Json, field: str) -> Disk:
        params = wish["initializeParams"]
        if more := set(params) - set(_PARAMS):
            raise not_modelled(f"initializeParams with {', '.join(sorted(more))}")
        body = {_PARAMS[name]: value for name, value in params.items()}
        default = instance.name if wish.get("boot") else f"{instance.name}-{field[-2]}"
        body.setdefault("name", default)
        if wish.get("boot") and not ({"sourceImage", "sourceSnapshot"} & set(body)):
            # disc, AttachedDisk.source: one of sourceImage, sourceSnapshot or source is required for a boot disk.
            raise invalid(f"{field}.initializeParams.sourceImage", "", "A boot disk needs a source image.")
        if "type" in body and "/" not in body["type"]:
            raise invalid(f"{field}.initializeParams.diskType", body["type"], "The URL is malformed.")
        if "diskEncryptionKey" in wish:
            body["diskEncryptionKey"] = wish["diskEncryptionKey"]
        disk = self._maker.make(instance.zone, body, f"{field}.initializeParams")
        if (instance.zone, disk.name) in self._world.disks:
            # seen:hashicorp/terraform#7998; disc says of diskName that a disk of that name is attached instead [U].
            raise exists(disk.link)
        return disk


def _scheduling(body: Json, *, stays: bool) -> Json:
    """Return the scheduling with its defaults."""
    wish = dict(body.get("scheduling", {}))
    spot = wish.get("provisioningModel", "STANDARD") == "SPOT"
    if wish.get("provisioningModel", "STANDARD") not in ("SPOT", "STANDARD"):
        raise not_modelled(f"the provisioning model {wish['provisioningModel']}")
    if wish.get("preemptible") and not spot:
        # seen:terraform-google-modules/terraform-google-vm#254
        field = "resource.scheduling.provisioningModel"
        raise invalid(field, "STANDARD", "For preemptible, only allowed provisioning_model value is SPOT.")
    _check_spot(wish, spot=spot)
    limited = _check_limits(wish)
    action = wish.get("instanceTerminationAction")
    if action and not spot and not limited:
        # seen:cloudpilot-ai/karpenter-provider-gcp#155
        raise invalid("resource.scheduling.instanceTerminationAction", action, _STANDARD)
    if limited and not action:
        # gce/instances/limit-vm-runtime: the termination action has to be given with a limit.
        field = "resource.scheduling.instanceTerminationAction"
        raise invalid(field, "", "It is required with maxRunDuration or terminationTime.")
    if spot and action is None:
        wish["instanceTerminationAction"] = "STOP"  # gce/instances/create-use-spot
    default = "TERMINATE" if spot else "MIGRATE"
    if stays and wish.get("onHostMaintenance", default) != "TERMINATE":
        # gce/gpus, gce/instances/bare-metal-instances: neither those with GPUs nor bare metal can move.
        field = "resource.scheduling.onHostMaintenance"
        raise invalid(field, wish.get("onHostMaintenance", ""), "Instances that cannot migrate must be terminated.")
    return {
        "provisioningModel": "STANDARD",
        "automaticRestart": not spot,
        "onHostMaintenance": default,
        "preemptible": spot,
        **wish,
    }


def _check_spot(wish: Json, *, spot: bool) -> None:
    if spot and wish.get("automaticRestart"):
        # seen:percona/mongo_terraform_ansible#34
        raise invalid(
            "resource.scheduling.preemptible",
            "true",
            "Scheduling must have preemptible be false when AutomaticRestart is true.",
        )
    if spot and wish.get("onHostMaintenance", "TERMINATE") != "TERMINATE":
        # disc, Scheduling.onHostMaintenance: for preemptible instances "the … only possible behavior is TERMINATE".
        raise invalid("resource.scheduling.onHostMaintenance", "MIGRATE", "Spot instances cannot be migrated.")


def _check_limits(wish: Json) -> bool:
    """Return whether the run time is limited."""
    if "maxRunDuration" in wish and "terminationTime" in wish:
        raise invalid("resource.scheduling.terminationTime", "", "Only one time limit may be given.")
    if duration := wish.get("maxRunDuration"):
        seconds = int(duration.get("seconds", 0))
        if not SHORTEST_S <= seconds <= LONGEST_S:
            field = "resource.scheduling.maxRunDuration.seconds"
            raise invalid(field, seconds, f"It must be between {SHORTEST_S} and {LONGEST_S} seconds.")
        return True
    if at := wish.get("terminationTime"):
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", at):
            raise invalid("resource.scheduling.terminationTime", at, "It must be in RFC 3339 text format.")
        datetime.fromisoformat(at)
        return True
    return False

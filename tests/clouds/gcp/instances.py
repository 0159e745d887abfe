"""The calls about instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.clouds.gcp.attachments import Attachments, incompatible
from tests.clouds.gcp.bounds import KINDS
from tests.clouds.gcp.capacity import Capacity
from tests.clouds.gcp.catalog import SCOPES, ZONES
from tests.clouds.gcp.errors import Failure, GceError, invalid, not_ready, stale
from tests.clouds.gcp.launch import Launcher
from tests.clouds.gcp.lifecycle import Lifecycle
from tests.clouds.gcp.listing import Lister
from tests.clouds.gcp.machines import TYPES
from tests.clouds.gcp.model import PROJECT, Attached, Instance, fingerprint
from tests.clouds.gcp.names import check_labels, check_metadata
from tests.clouds.gcp.operations import Operations, checked_request_id
from tests.clouds.gcp.quotas import Quotas
from tests.clouds.gcp.views import instance_view
from tests.clouds.gcp.world import World

Json = dict[str, Any]


class Instances:
    """instances.insert and what follows it."""

    def __init__(
        self,
        world: World,
        operations: Operations,
        launcher: Launcher,
        lifecycle: Lifecycle,
        attachments: Attachments,
        limits: tuple[Quotas, Capacity, Mapping[str, str]],
    ) -> None:
        self._world = world
        self._operations = operations
        self._launcher = launcher
        self._lifecycle = lifecycle
        self._attachments = attachments
        self._quotas, self._capacity, self._lost = limits
        self._lister: Lister[Instance] = Lister("zones", "instances", "instance")

    def insert(self, params: Json, body: Json) -> Json:
        """instances.insert: accepted, it is there at once; it may yet vanish, and its operation says why."""
        zone, request_id = params["zone"], checked_request_id(params)
        link = f"projects/{PROJECT}/zones/{zone}/instances/{body['name']}"
        if found := self._operations.recall("instances.insert", link, request_id, body):
            return found
        instance, disks = self._launcher.order(zone, body)
        failure = self._failure(instance, disks)
        self._world.instances.add(instance)
        new = [a.disk for a in disks if a.disk.status == "CREATING"]
        for disk in new:
            self._world.disks.add(disk)
            disk.status = "READY"
        for attached in disks:
            self._attachments.bind(instance, attached)

        def provisioned(finish: Any) -> None:
            self._lifecycle.provisioned(instance, finish)

        def undo() -> None:
            self._lifecycle.vanish(instance)
            for disk in new:
                self._lifecycle.discard(disk)

        return self._operations.start(
            "instances.insert",
            instance,
            provisioned,
            after_s=self._world.settings.provision_s,
            request_id=request_id,
            undo=undo,
            failure=failure,
        ).view()

    def _failure(self, instance: Instance, disks: list[Attached]) -> Failure | None:
        """Return what is known to go wrong later."""
        for attached in disks:
            if failure := incompatible(instance, attached.disk):
                return failure
        wanted: dict[str, float] = {"INSTANCES": 1, "CPUS": TYPES[instance.machine_type].cpus}
        for attached in disks:
            if attached.disk.status == "CREATING":
                metric = KINDS[attached.disk.type].quota
                wanted[metric] = wanted.get(metric, 0.0) + attached.disk.size_gb
        region = instance.zone.rpartition("-")[0]
        return self._quotas.check(instance.zone, wanted) or self._capacity.check(
            instance.zone, instance.machine_type, [zone for zone in ZONES if zone.startswith(region)]
        )

    def delete(self, params: Json) -> Json:
        """instances.delete: from every state but while another operation is at work on it."""

        def act(instance: Instance, finish: Callable[[], None]) -> None:
            self._lifecycle.delete(instance, finish)

        return self._change(params, "instances.delete", act)

    def stop(self, params: Json) -> Json:
        """instances.stop."""

        def act(instance: Instance, finish: Callable[[], None]) -> None:
            if instance.status == "RUNNING":
                self._lifecycle.stop(instance, finish, kill=True)
            else:
                finish()

        return self._change(params, "instances.stop", act)

    def _change(self, params: Json, action: str, act: Callable[[Instance, Callable[[], None]], None]) -> Json:
        request_id = checked_request_id(params)
        link = f"projects/{PROJECT}/zones/{params['zone']}/instances/{params['instance']}"
        if found := self._operations.recall(action, link, request_id):
            return found
        instance = self._world.instances.find(params["zone"], params["instance"])
        if instance.facts["deletionProtection"] and action == "instances.delete":
            text = f"Invalid resource usage: 'Resource cannot be deleted if it's protected against deletion. {link}'."
            raise GceError(400, "invalidResourceUsage", text)
        if instance.busy:
            raise not_ready(instance.link)  # [U] what a second delete meets

        def work(finish: Any) -> None:
            # It may have gone by itself, before its turn came.
            if instance.status == "(gone)":
                finish()
            else:
                act(instance, finish)

        return self._operations.start(action, instance, work, after_s=0.0, request_id=request_id).view()

    # -- what can be changed

    def set_labels(self, params: Json, body: Json) -> Json:
        """instances.setLabels: with the fingerprint of what was read."""
        instance = self._world.instances.find(params["zone"], params["instance"])

        def check() -> None:
            if body.get("labelFingerprint") != fingerprint(sorted(instance.labels.items())):
                raise stale("Labels")

        def apply() -> Callable[[], None]:
            before, instance.labels = instance.labels, check_labels(body.get("labels", {}), "labels")
            return lambda: setattr(instance, "labels", before)

        return self._update(("instances.setLabels", params, body), instance, (check, apply))

    def set_metadata(self, params: Json, body: Json) -> Json:
        """instances.setMetadata: with the fingerprint of what was read (disc, Metadata.fingerprint)."""
        instance = self._world.instances.find(params["zone"], params["instance"])

        def check() -> None:
            if body.get("fingerprint") != fingerprint(sorted(instance.metadata.items())):
                text = "Supplied fingerprint does not match current metadata fingerprint."
                raise GceError(412, "conditionNotMet", text)

        def apply() -> Callable[[], None]:
            before, instance.metadata = instance.metadata, check_metadata(body, "metadata")
            return lambda: setattr(instance, "metadata", before)

        return self._update(("instances.setMetadata", params, body), instance, (check, apply))

    def _update(
        self,
        call: tuple[str, Json, Json],
        instance: Instance,
        change: tuple[Callable[[], None], Callable[[], Callable[[], None]]],
    ) -> Json:
        (action, params, body), (check, apply) = call, change
        request_id = checked_request_id(params)
        if found := self._operations.recall(action, instance.link, request_id, body):
            return found
        if instance.busy or instance.status == "STOPPING":
            raise not_ready(instance.link)
        check()
        undo = apply()
        after_s = self._world.settings.update_s
        return self._operations.start(
            action, instance, lambda finish: finish(), after_s=after_s, request_id=request_id, undo=undo, alone=False
        ).view()

    # -- what can be read

    def get(self, params: Json) -> Json:
        """instances.get."""
        return instance_view(self._world.instances.find(params["zone"], params["instance"]))

    def list(self, params: Json) -> Json:
        """instances.list."""
        found = [found for found in self._world.listed(self._world.instances) if found.zone == params["zone"]]
        return self._lister.answer(params, found, instance_view)

    def aggregated_list(self, params: Json) -> Json:
        """instances.aggregatedList."""
        found = self._world.listed(self._world.instances)
        return self._lister.aggregated(params, found, instance_view, SCOPES, self._lost)

    def test_permissions(self, params: Json, body: Json) -> Json:
        """instances.testIamPermissions: all that are asked for; the app takes away what is denied."""
        if not body.get("permissions"):
            raise invalid("permissions", "", "At least one permission is required.")
        return {"permissions": list(body["permissions"])}

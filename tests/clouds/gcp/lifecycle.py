"""The life of an instance: how it comes to run, and how it ends (gce/instances/instance-lifecycle)."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from datetime import datetime

from tests.clouds.common.stuck import Stuck
from tests.clouds.gcp.model import Attached, Disk, Instance
from tests.clouds.gcp.nodes import Nodes
from tests.clouds.gcp.operations import Operations
from tests.clouds.gcp.world import World

Done = Callable[[], None]
STARTING = ("PROVISIONING", "STAGING")


class Lifecycle:
    """Moves instances from state to state."""

    def __init__(self, world: World, operations: Operations, nodes: Nodes, stuck: Stuck) -> None:
        self._world = world
        self._operations = operations
        self._nodes = nodes
        self._stuck = stuck
        self._no_boot, self._no_boot_of = 0, "*"
        nodes.powered_off = self.powered_off

    def clear(self) -> None:
        """Forget what was scripted."""
        self._no_boot, self._no_boot_of = 0, "*"

    def never_boot(self, times: int, instance: str = "*") -> None:
        """Let the next instances (a glob over names) come to run without ever doing anything."""
        self._no_boot, self._no_boot_of = self._no_boot + times, instance

    # -- its beginning

    def provisioned(self, instance: Instance, done: Done) -> None:
        """There is room for it: STAGING comes next, and RUNNING once all its disks are there."""
        instance.status = "STAGING"
        waiting = list(instance.disks)

        def plugged(attached: Attached) -> None:
            attached.state = "attached"
            waiting.remove(attached)
            if not waiting:
                self._running(instance)
                done()

        def stage() -> None:
            for attached in list(waiting):
                name = attached.disk.name
                # What hangs is a volume, as "*" means them: never what the instance boots from.
                if attached.boot or not self._stuck.holds(
                    name,
                    "attaching",
                    lambda one=attached: plugged(one),  # type: ignore[misc]
                ):
                    plugged(attached)

        self._after(self._world.settings.stage_s, instance, "STAGING", stage)

    def _running(self, instance: Instance) -> None:
        instance.status, instance.started_at = "RUNNING", self._world.now()
        self._limit(instance)
        if self._no_boot and fnmatch.fnmatchcase(instance.name, self._no_boot_of):
            self._no_boot -= 1
            instance.impaired = True
            return
        self._nodes.started(instance)

    def _limit(self, instance: Instance) -> None:
        """Let it end when its time is over (disc, Scheduling.maxRunDuration and terminationTime)."""
        limits = []
        if duration := instance.scheduling.get("maxRunDuration"):
            limits.append(self._world.now() + int(duration.get("seconds", 0)))
        if at := instance.scheduling.get("terminationTime"):
            limits.append(datetime.fromisoformat(at).timestamp())
        if not limits:
            return
        instance.ends_at = ends_at = min(limits)

        def over() -> None:
            if instance.status == "RUNNING" and instance.ends_at == ends_at:
                self.terminate(instance)

        self._world.agenda.after(ends_at - self._world.now(), over)

    # -- its end

    def powered_off(self, instance: Instance) -> None:
        """The instance shut itself down: it stays there, TERMINATED, with its disks."""
        if instance.status != "RUNNING":
            return
        self._operations.event(
            "compute.instances.guestTerminate", instance, "Instance terminated by guest OS shutdown."
        )
        self.stop(instance)

    def stop(self, instance: Instance, done: Done = lambda: None, *, kill: bool = False) -> None:
        """Go through STOPPING to TERMINATED; the disks stay attached."""
        instance.status, instance.ends_at = "STOPPING", None
        wait_s = self._world.settings.kill_s if kill else self._world.settings.stop_s

        def stopped() -> None:
            instance.status, instance.stopped_at = "TERMINATED", self._world.now()
            done()

        self._nodes.kill(instance, lambda: self._after(wait_s, instance, "STOPPING", stopped))

    def delete(self, instance: Instance, done: Done = lambda: None) -> None:
        """End it, and let go of its disks; those that were to go with it are gone as well."""
        wait_s = self._world.settings.delete_instance_s
        if instance.status == "RUNNING":
            wait_s += self._world.settings.kill_s
        instance.status, instance.ends_at = "STOPPING", None

        def deleted() -> None:
            self.vanish(instance)
            done()

        # Whatever its state is by then: a shutdown of its own may have come to its end meanwhile.
        self._nodes.kill(instance, lambda: self._world.agenda.after(wait_s, deleted))

    def vanish(self, instance: Instance) -> None:
        """Take it away, whatever it was at."""
        for attached in list(instance.disks):
            self.free(instance, attached)
            if attached.auto_delete:
                self.discard(attached.disk)
        instance.status = "(gone)"
        self._world.instances.discard(instance)

    def free(self, instance: Instance, attached: Attached) -> None:
        """Let a disk be without that instance."""
        if attached in instance.disks:
            instance.disks.remove(attached)
            attached.disk.users.remove(instance)
            attached.disk.facts["lastDetach"] = self._world.now()

    def discard(self, disk: Disk) -> None:
        """Take a disk away for good."""
        disk.status = "(gone)"
        self._world.disks.discard(disk)
        self._nodes.discard(disk)

    def terminate(self, instance: Instance) -> None:
        """Do what its instanceTerminationAction says."""
        if instance.deletes_itself:
            self.delete(instance)
        else:
            self.stop(instance, kill=True)

    def preempt(self, instance: Instance, notice_s: float) -> None:
        """Let Compute Engine take back a spot instance after its notice."""
        instance.preempted = True

        def take() -> None:
            if instance.status == "RUNNING":
                self._operations.event("compute.instances.preempted", instance, "Instance was preempted.")
                self.terminate(instance)

        self._world.agenda.after(notice_s, take)

    def die(self, instance: Instance) -> None:
        """Let its host fail: it is started anew if it may be (disc, Scheduling.automaticRestart), else it has ended."""
        text = "Instance terminated by Compute Engine due to host error."
        self._operations.event("compute.instances.hostError", instance, text)
        again = instance.scheduling.get("automaticRestart", True)

        def dead() -> None:
            instance.status, instance.stopped_at = "TERMINATED", self._world.now()
            if again:
                instance.serial = b""
                self.provisioned(instance, lambda: None)

        instance.status, instance.ends_at = "STOPPING", None
        self._nodes.kill(instance, lambda: self._after(0.0, instance, "STOPPING", dead))

    def _after(self, seconds: float, instance: Instance, status: str, then: Done) -> None:
        """Go on later, unless the instance has left that state by then."""

        def act() -> None:
            if instance.status == status:
                then()

        self._world.agenda.after(seconds, act)

"""What runs on an instance, as the API sees it: here nothing, or an end that a test has scripted.

An object with the same methods, whose instances really run, can stand in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.clouds.common.endings import Ending
from tests.clouds.gcp.model import Attached, Disk, Instance
from tests.clouds.gcp.world import World

Done = Callable[[], None]
SCRIPT = "startup-script"  # gce/instances/startup-scripts/linux: the metadata key


class Nodes:
    """Instances that are records only.

    All methods are called with the world's lock held; what calls back later takes it first.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._endings: dict[str, Ending] = {}
        self.port = 0  # of the double's HTTP server, once it is known
        self.powered_off: Callable[[Instance], None] = lambda instance: None
        self.view: Callable[[Instance], dict[str, Any]] = lambda instance: {}

    def end_by(self, name: str, ending: Ending | None) -> None:
        """Script the end of an instance by its name; "*" is for those that have none of their own."""
        if ending is None:
            self._endings.pop(name, None)
            return
        self._endings[name] = ending
        for instance in self._world.instances.values():
            if instance.name == name and instance.status == "RUNNING":
                self.started(instance)

    def give(self, image: str, layers: dict[str, str]) -> None:
        """Let an image have directories of this machine at the given places."""

    def started(self, instance: Instance) -> None:
        """Boot it, with the disks that it has: it has come to RUNNING."""
        ending = self._ending(instance)
        if ending is not None and not (ending.waits and len(instance.disks) < 2):
            self._world.agenda.after(ending.after_s, lambda: self._end(instance, ending))

    def _ending(self, instance: Instance) -> Ending | None:
        return self._endings.get(instance.name, self._endings.get("*"))

    def _end(self, instance: Instance, ending: Ending) -> None:
        if instance.status != "RUNNING":
            return
        # Names come again, numbers do not.
        numbers = {attached.device: str(attached.disk.id) for attached in instance.disks}
        view = {**self.view(instance), "diskNumbers": numbers}
        found = ending.outcome(view, instance.metadata.get(SCRIPT, "").encode())
        if found is None:
            self._world.agenda.after(ending.after_s, lambda: self._end(instance, ending))
            return
        if isinstance(found, dict):
            for path, value in found.get("attributes", {}).items():
                namespace, _, key = path.partition("/")
                instance.guest_attributes[namespace, key] = value
            found = found.get("console", "")
        instance.serial += found.encode()
        self.powered_off(instance)

    def attach(self, instance: Instance, attached: Attached, done: Done) -> None:
        """Show a disk to a running node, then call back."""
        done()
        ending = self._ending(instance)
        if ending is not None and ending.waits:
            self._world.agenda.after(ending.after_s, lambda: self._end(instance, ending))

    def detach(self, instance: Instance, attached: Attached, done: Done) -> None:
        """Take a disk from a running node, then call back."""
        done()

    def kill(self, instance: Instance, done: Done) -> None:
        """Cut the power of an instance that may have ended already, then call back."""
        done()

    def serial(self, instance: Instance) -> bytes:
        """Return what the instance has written to serial port 1 so far."""
        return instance.serial

    def discard(self, gone: Disk) -> None:
        """The disk is gone for good."""

    def clear(self) -> None:
        """Forget all scripts, end all nodes."""
        self._endings.clear()

    def close(self) -> None:
        """Leave nothing behind."""

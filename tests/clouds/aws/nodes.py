"""What runs on an instance, as the API sees it: here nothing, or an end that a test has scripted.

``real.py`` has the instances that really run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.clouds.aws.model import Attachment, Instance, Snapshot, Volume
from tests.clouds.aws.world import World
from tests.clouds.common.endings import Ending


class Nodes:
    """Instances that are records only."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._endings: dict[str, Ending] = {}
        self.port = 0  # of the double's HTTP server, once it is known
        self.powered_off: Callable[[Instance], None] = lambda instance: None
        self.view: Callable[[Instance], dict[str, Any]] = lambda instance: {}

    def end_by(self, instance_id: str, ending: Ending | None) -> None:
        """Script the end of an instance; "*" is for those that have none of their own."""
        if ending is None:
            self._endings.pop(instance_id, None)
            return
        self._endings[instance_id] = ending
        instance = self._world.instances.get(instance_id)
        if instance is not None and instance.state == "running":
            self.started(instance)

    def give(self, image_id: str, layers: dict[str, str]) -> None:
        """Let an image have directories of this machine at the given places."""

    def started(self, instance: Instance) -> None:
        """The instance has come to run."""
        ending = self._ending(instance.id)
        if ending is not None and not ending.waits:
            self._world.agenda.after(ending.after_s, lambda: self._end(instance, ending))

    def _ending(self, instance_id: str) -> Ending | None:
        return self._endings.get(instance_id, self._endings.get("*"))

    def _end(self, instance: Instance, ending: Ending) -> None:
        if instance.state != "running":
            return
        text = ending.text(self.view(instance), instance.user_data)
        if text is None:
            self._world.agenda.after(ending.after_s, lambda: self._end(instance, ending))
            return
        instance.console += text
        self.powered_off(instance)

    def attach(self, volume: Volume, attachment: Attachment, done: Callable[[], None]) -> None:
        """Show the volume to the node, then call back."""
        done()
        ending, instance = self._ending(attachment.instance_id), self._world.instances[attachment.instance_id]
        if ending is not None and ending.waits:
            self._world.agenda.after(ending.after_s, lambda: self._end(instance, ending))

    def detach(self, volume: Volume, attachment: Attachment, force: bool, done: Callable[[], None]) -> None:
        """Take the volume from the node, then call back."""
        done()

    def kill(self, instance: Instance, done: Callable[[], None]) -> None:
        """Cut the power, then call back."""
        done()

    def console(self, instance: Instance) -> bytes:
        """Return what the instance has written to its console so far."""
        return instance.console

    def copied(self, volume: Volume, snapshot: Snapshot) -> None:
        """The snapshot holds what is on the volume now."""

    def discard(self, gone: Volume | Snapshot) -> None:
        """The volume or snapshot is gone for good."""

    def clear(self) -> None:
        """Forget all scripts, end all nodes."""
        self._endings.clear()

    def close(self) -> None:
        """Leave nothing behind."""

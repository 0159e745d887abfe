"""The life of an instance: pending, running, and how it ends."""

from __future__ import annotations

from collections.abc import Callable

from tests.clouds.aws.attachments import Attachments
from tests.clouds.aws.model import Instance
from tests.clouds.aws.nodes import Nodes
from tests.clouds.aws.tokens import Tokens
from tests.clouds.aws.volumes import Volumes
from tests.clouds.aws.world import World
from tests.clouds.common.clock import as_datetime

# The reasons that API:StateReason lists.
USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
ITSELF = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
SPOT_STOP = ("Server.SpotInstanceShutdown", "Server.SpotInstanceShutdown: Spot instance shutdown")
SPOT = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
REASONS = {
    code: (code, f"{code}: {text}")
    for code, text in (
        ("Server.InsufficientInstanceCapacity", "Insufficient capacity to launch the instance"),
        ("Server.InternalError", "Internal error on launch"),
        ("Server.ScheduledStop", "Stopped due to a scheduled retirement"),
        ("Client.InternalError", "Client error on launch"),
        ("Client.VolumeLimitExceeded", "Volume limit exceeded"),
        ("Client.InvalidSnapshot.NotFound", "The specified snapshot was not found"),
    )
} | {reason[0]: reason for reason in (USER, ITSELF, SPOT, SPOT_STOP)}

ENDED = ("shutting-down", "terminated")


class Lifecycle:
    """Moves instances from state to state."""

    def __init__(self, world: World, volumes: Volumes, attachments: Attachments, nodes: Nodes, tokens: Tokens) -> None:
        self._world = world
        self._volumes = volumes
        self._attachments = attachments
        self._nodes = nodes
        self._tokens = tokens
        self._launch_failures: list[str] = []
        self._no_boot: list[str] = []
        nodes.powered_off = self.powered_off

    def clear(self) -> None:
        """Forget what was scripted."""
        self._launch_failures.clear()
        self._no_boot.clear()

    def fail_launch(self, reason: str, times: int) -> None:
        """Let the next launches be accepted and end as terminated, for that reason."""
        self._launch_failures += [reason] * times

    def never_boot(self, times: int) -> None:
        """Let the next instances come to run without ever doing anything."""
        self._no_boot += ["*"] * times

    def begin(self, instance: Instance) -> None:
        """The instance is pending; running comes later."""
        self._after(self._world.settings.launch_s, instance, "pending", lambda: self._running(instance))

    def _running(self, instance: Instance) -> None:
        if self._launch_failures:
            self.end(instance, REASONS[self._launch_failures.pop(0)], "")
            return
        instance.state = "running"
        instance.state_reason = ("", "")
        for volume in self._attachments.of(instance):
            if volume.attachment and volume.attachment.state == "attaching":
                volume.attachment.state = "attached"
        if self._no_boot:
            self._no_boot.pop()
            instance.impaired = True
            return
        self._nodes.started(instance)

    def powered_off(self, instance: Instance) -> None:
        """The instance shut itself down: its shutdown behaviour says what that means."""
        if instance.state != "running":
            return
        if instance.shutdown_behavior == "terminate":
            self.end(instance, ITSELF, "")
        else:
            self.stop(instance, ITSELF, "")

    def end(self, instance: Instance, reason: tuple[str, str], why: str) -> None:
        """Start terminating: shutting-down first. Whatever runs is killed."""
        if instance.state in ENDED:
            return
        instance.state = "shutting-down"
        instance.state_reason = reason
        instance.transition_reason = why
        wait_s = self._world.settings.shut_down_s

        def killed() -> None:
            self._after(wait_s, instance, "shutting-down", lambda: self._terminated(instance))

        self._nodes.kill(instance, killed)

    def _terminated(self, instance: Instance) -> None:
        """Termination detaches all volumes, and deletes those that were to go with the instance."""
        settings = self._world.settings
        instance.state = "terminated"
        instance.ended_at = self._world.now()
        for volume in list(self._attachments.of(instance)):
            attachment = volume.attachment
            if attachment is None:
                continue
            self._attachments.unbind(volume, attachment)
            if attachment.delete_on_termination:
                self._volumes.start_deleting(volume)
        self._world.agenda.after(
            settings.terminated_tags_s, lambda: self._world.tag(self._world.instances, instance, {})
        )
        self._world.agenda.after(settings.terminated_listed_s, lambda: self._forget(instance))

    def _forget(self, instance: Instance) -> None:
        self._world.instances.pop(instance.id, None)
        self._tokens.expire("RunInstances", instance.token)

    def stop(self, instance: Instance, reason: tuple[str, str], why: str) -> None:
        """Start stopping: the volumes stay attached."""
        instance.state = "stopping"
        instance.state_reason = reason
        instance.transition_reason = why

        def killed() -> None:
            self._after(
                self._world.settings.stop_s, instance, "stopping", lambda: setattr(instance, "state", "stopped")
            )

        self._nodes.kill(instance, killed)

    def reclaim(self, instance: Instance, notice_s: float) -> None:
        """Let EC2 take a spot instance back: first the notice in its metadata, then the end."""
        instance.spot_action_at = self._world.now() + notice_s
        self._world.agenda.after(
            notice_s, lambda: self.end(instance, SPOT, self.stamp("Server.SpotInstanceTermination"))
        )

    def stamp(self, who: str) -> str:
        """Return the text that StateTransitionReason has after an end from outside."""
        return f"{who} ({as_datetime(self._world.now()):%Y-%m-%d %H:%M:%S} GMT)"

    def _after(self, seconds: float, instance: Instance, state: str, then: Callable[[], None]) -> None:
        """Go on later, unless the instance has left that state by then."""

        def act() -> None:
            if instance.state == state:
                then()

        self._world.agenda.after(seconds, act)

"""What tests say to the double besides AWS' own calls: JSON by POST to ``/_double/<verb>``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.clouds.aws.ec2 import Ec2
from tests.clouds.aws.lifecycle import REASONS
from tests.clouds.aws.model import Instance
from tests.clouds.aws.rights import STATES, Rights
from tests.clouds.common.control import BaseControl, Json
from tests.clouds.common.endings import Ending
from tests.clouds.common.faults import Faults, Rule
from tests.clouds.common.recorder import Recorder


@dataclass
class Ec2Rule(Rule):
    """A fault in EC2's words, and of EC2's calls unless it says otherwise."""

    service: str = "ec2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "throttle":
            self.code, self.message, self.status = "RequestLimitExceeded", "Request limit exceeded.", 503


class Control(BaseControl):
    """The verbs of this double; the keywords of each method are the fields of its JSON."""

    rule = Ec2Rule

    def __init__(self, ec2: Ec2, recorder: Recorder, faults: Faults, rights: Rights) -> None:
        super().__init__(ec2.world, recorder, faults)
        self._ec2 = ec2
        self._world = ec2.world
        self._rights = rights

    def do_health(self) -> Json:
        """Say that the double is there, and whether its nodes really run."""
        return {"ok": True, "nodes": type(self._ec2.nodes).__name__}

    def do_reset(self) -> None:
        """Be as new: no resources, faults, records; default settings."""
        self._faults.clear()
        self._rights.clear()
        self._recorder.clear()
        self._ec2.clear()

    def do_actions(self, access_key: str) -> list[str]:
        """Return every ``service:Action`` that was ever called with that key, before resets as well."""
        return self._recorder.ever(access_key)

    def do_deny(self, actions: list[str]) -> None:
        """Take rights away: globs over ``service:Action``; an empty list gives all back."""
        self._rights.denied[:] = actions

    def do_credentials(self, state: str) -> None:
        """Let all credentials be "ok", "expired" or "invalid"."""
        if state not in STATES:
            raise ValueError(f"expected one of {list(STATES)}, found {state!r}")
        self._rights.credentials = state

    def do_no_capacity(self, zone: str = "*", type: str = "*", times: int = 1_000_000) -> None:  # noqa: A002
        """Let the next launches of a type in a zone find no capacity; times 0 gives it back."""
        self._ec2.launcher.capacity.scarce[zone, type] = times

    def do_unsupported(self, zone: str = "*", type: str = "*", on: bool = True) -> None:  # noqa: A002
        """Take a type from a zone, or give it back."""
        lacking = self._ec2.launcher.capacity.unsupported
        (lacking.add if on else lacking.discard)((zone, type))

    def do_stick(self, state: str, volume: str = "*", times: int = 1) -> None:
        """Let the next attaches or detaches of a volume hang in "attaching" or "detaching"."""
        self._ec2.stuck.add(volume, state, times)

    def do_unstick(self, volume: str = "*") -> int:
        """Let volumes that hang go on."""
        with self._world.lock:
            return self._ec2.stuck.release(volume)

    def do_unlist(self, resource: str, seconds: float) -> None:
        """Let EC2 not know a volume or an instance for a while, as an answer from a place that lags behind may."""
        with self._world.lock:
            self._world.unlisted_until[resource] = self._world.now() + seconds

    def do_end_nodes(self, instance: str = "*", on: bool = True, **ending: Any) -> None:
        """Script how a recorded instance ends by itself (the fields of ``Ending``)."""
        with self._world.lock:
            self._ec2.nodes.end_by(instance, Ending(**ending) if on else None)

    def do_power_off(self, instance: str, console: str = "", keep: bool = False) -> None:
        """Let an instance write that to its console and shut itself down, or keep on running."""
        with self._world.lock:
            found = self._instance(instance)
            found.console += console.encode()
            if not keep:
                self._ec2.lifecycle.powered_off(found)

    def do_die(self, instance: str, reason: str = "Server.InternalError") -> None:
        """Let an instance die: its host failed."""
        with self._world.lock:
            self._ec2.lifecycle.end(self._instance(instance), REASONS[reason], self._ec2.lifecycle.stamp(reason))

    def do_reclaim(self, instance: str, notice_s: float | None = None) -> None:
        """Let EC2 take back a spot instance after its notice."""
        with self._world.lock:
            found = self._instance(instance)
            if not found.spot:
                raise ValueError(f"{instance} is no spot instance")
            self._ec2.lifecycle.reclaim(found, self._world.settings.spot_notice_s if notice_s is None else notice_s)

    def do_layers(self, image: str, layers: dict[str, str]) -> None:
        """Let the instances of an image that really run see directories of this machine: places and directories."""
        self._ec2.nodes.give(image, layers)

    def do_never_boot(self, times: int = 1) -> None:
        """Let the next instances come to run without doing anything."""
        self._ec2.lifecycle.never_boot(times)

    def do_fail_launch(self, reason: str = "Server.InternalError", times: int = 1) -> None:
        """Let the next launches be accepted, and end as terminated."""
        self._ec2.lifecycle.fail_launch(REASONS[reason][0], times)

    def do_lose_console(self, instance: str) -> None:
        """Let the console of an instance be empty from now on."""
        with self._world.lock:
            self._instance(instance).console_lost = True

    def do_agent_register(self, instance: str) -> bool:
        """Let an instance's SSM agent register, as the agent or as a test that plays it."""
        return self._ec2.run_command.register(instance)

    def do_agent_messages(self, instance: str) -> list[Json]:
        """Hand an agent the commands that it is to start now."""
        return self._ec2.run_command.messages(instance)

    def do_agent_reply(self, instance: str, command: str, code: int = 0, stdout: str = "", stderr: str = "") -> None:
        """Take what an agent says of a command that has ended."""
        self._ec2.run_command.reply(instance, command, code, stdout, stderr)

    def do_state(self) -> Json:
        """Return everything as it is, without the delay that EC2's own calls see."""
        with self._world.lock:
            self._world.agenda.settle()
            return {
                "volumes": {
                    v.id: {**self._ec2.volumes.view(v), "Tags": v.tags.current} for v in self._world.volumes.values()
                },
                "instances": {
                    i.id: {**self._ec2.instances.view(i), "Tags": i.tags.current, "EndedAt": i.ended_at}
                    for i in self._world.instances.values()
                },
                "snapshots": list(self._world.snapshots),
            }

    def _instance(self, instance_id: str) -> Instance:
        """Return an instance; the time it takes to be seen is for EC2's callers."""
        return self._world.instances[instance_id]

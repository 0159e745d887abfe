"""What tests say to the double besides Google's own calls: JSON by POST to ``/_double/<verb>``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.clouds.common.control import BaseControl, Json
from tests.clouds.common.endings import Ending
from tests.clouds.common.faults import Faults, Rule
from tests.clouds.common.recorder import Recorder
from tests.clouds.gcp.catalog import ZONES
from tests.clouds.gcp.disks import Disks
from tests.clouds.gcp.gce import Gce
from tests.clouds.gcp.model import Instance
from tests.clouds.gcp.operations import Late
from tests.clouds.gcp.rights import STATES, Rights
from tests.clouds.gcp.services import Services
from tests.clouds.gcp.views import instance_view


@dataclass
class GceRule(Rule):
    """A fault in Compute Engine's words, and of its calls unless it says otherwise; ``code`` is the reason.

    Args:
        plain: whether something between the client and Google answers: no JSON, and so no reason.
    """

    service: str = "compute"
    code: str = "backendError"
    message: str = "Backend Error"
    status: int = 503
    plain: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "throttle":
            self.code, self.message, self.status = "rateLimitExceeded", "Rate Limit Exceeded", 403


class Control(BaseControl):
    """The verbs of this double; the keywords of each method are the fields of its JSON."""

    rule = GceRule

    def __init__(self, gce: Gce, recorder: Recorder, faults: Faults, rights: Rights, services: Services) -> None:
        super().__init__(gce.world, recorder, faults)
        self._gce = gce
        self._world = gce.world
        self._rights = rights
        self._services = services

    def do_health(self) -> Json:
        """Say that the double is there, and whether its nodes really run."""
        return {"ok": True, "nodes": type(self._gce.nodes).__name__}

    def do_reset(self) -> None:
        """Be as new: no resources, faults, records; default settings."""
        self._faults.clear()
        self._rights.clear()
        self._recorder.clear()
        self._services.clear()
        self._gce.clear()

    def do_actions(self, access_key: str = "") -> list[str]:
        """Return every ``service:method`` that was ever called with that token, before resets as well."""
        return self._recorder.ever(access_key)

    def do_permissions(self) -> list[str]:
        """Return every permission that a call has ever needed, before resets as well."""
        return sorted(self._rights.needed)

    def do_deny(self, actions: list[str]) -> None:
        """Take rights away: globs over permissions and ``service:method``; an empty list gives all back."""
        self._rights.denied[:] = actions

    def do_credentials(self, state: str) -> None:
        """Let all credentials be "ok" or "invalid"."""
        if state not in STATES:
            raise ValueError(f"expected one of {list(STATES)}, found {state!r}")
        self._rights.credentials = state

    # -- what the project has

    def do_snapshot(self, name: str, size_gb: int) -> None:
        """Let there be a snapshot."""
        self._gce.catalog.snapshots[name] = size_gb

    def do_regional_disk(
        self, name: str, region: str, labels: dict[str, str] | None = None, description: str = ""
    ) -> None:
        """Let a region have a disk, which no call of the double does more with than list it."""
        self._gce.disks.add_regional(name, region, labels or {}, description)

    def do_account(self, email: str) -> None:
        """Let there be a service account."""
        self._gce.catalog.accounts.add(email)

    def do_key(self, name: str) -> None:
        """Let there be a key that disks can be encrypted with."""
        self._gce.catalog.keys.add(name)

    def do_secret(self, name: str, value: str) -> int:
        """Add a version to a secret, and return its number."""
        self._services.secrets.setdefault(name, []).append(value.encode())
        return len(self._services.secrets[name])

    def do_bucket(self, name: str) -> None:
        """Let there be a bucket."""
        self._services.storage.buckets_insert({}, {"name": name})

    # -- what goes wrong

    def do_fail_later(self, **rule: Any) -> None:
        """Let the next operations that are accepted fail (the fields of ``Late``)."""
        with self._world.lock:
            self._gce.operations.late.append(Late(**rule))

    def do_no_capacity(self, zone: str = "*", type: str = "*", times: int = 1_000_000) -> None:  # noqa: A002
        """Let the next launches of a type in a zone find no room; times 0 gives it back."""
        self._gce.capacity.scarce[zone, type] = times

    def do_unreachable(self, zone: str, on: bool = True) -> None:
        """Let lists of all zones do without one, and say so in a warning."""
        if zone not in ZONES:
            raise ValueError(f"expected one of {', '.join(ZONES)}, found {zone!r}")
        self.do_warn("UNREACHABLE" if on else "", f"zones/{zone}")

    def do_warn(self, code: str, scope: str = "") -> None:
        """Let lists do without a scope ("zones/…", "regions/…"), and say so in a warning of that code.

        Args:
            code: as the discovery document has it; empty takes the warning back.
            scope: empty for whole lists, whose own warning it is then.
        """
        if code:
            self._gce.lost[scope] = code
        else:
            self._gce.lost.pop(scope, None)

    def do_stick(self, state: str, disk: str = "*", times: int = 1) -> None:
        """Let the next attaches or detaches of a disk hang in "attaching" or "detaching"."""
        self._gce.stuck.add(disk, state, times)

    def do_unstick(self, disk: str = "*") -> int:
        """Let disks that hang go on."""
        with self._world.lock:
            return self._gce.stuck.release(disk)

    # -- nodes

    def do_end_nodes(self, instance: str = "*", on: bool = True, **ending: Any) -> None:
        """Script how a recorded instance ends by itself (the fields of ``Ending``).

        Its script returns the text for serial port 1, or ``{"console": …, "attributes": {"namespace/key": …}}``. Its
        view of the instance holds the disks' numbers by their device names, too: ``diskNumbers``.
        """
        with self._world.lock:
            self._gce.nodes.end_by(instance, Ending(**ending) if on else None)

    def do_write(self, instance: str, console: str = "", attributes: dict[str, str] | None = None) -> None:
        """Let an instance write to serial port 1, and set guest attributes by ``namespace/key``."""
        with self._world.lock:
            found = self._instance(instance)
            found.serial += console.encode()
            for path, value in (attributes or {}).items():
                namespace, _, key = path.partition("/")
                found.guest_attributes[namespace, key] = value

    def do_power_off(self, instance: str) -> None:
        """Let an instance shut itself down."""
        with self._world.lock:
            self._gce.lifecycle.powered_off(self._instance(instance))

    def do_die(self, instance: str) -> None:
        """Let an instance's host fail."""
        with self._world.lock:
            self._gce.lifecycle.die(self._instance(instance))

    def do_preempt(self, instance: str, notice_s: float | None = None) -> None:
        """Let Compute Engine take back a spot instance after its notice."""
        with self._world.lock:
            found = self._instance(instance)
            if not found.spot:
                raise ValueError(f"{instance} is no spot instance")
            wait_s = self._world.settings.spot_notice_s if notice_s is None else notice_s
            self._gce.lifecycle.preempt(found, wait_s)

    def do_never_boot(self, times: int = 1, instance: str = "*") -> None:
        """Let the next instances (a glob over names) come to run without doing anything."""
        self._gce.lifecycle.never_boot(times, instance)

    def do_lose_serial(self, instance: str) -> None:
        """Let serial port 1 of an instance be empty from now on."""
        with self._world.lock:
            self._instance(instance).serial_lost = True

    def do_layers(self, image: str, layers: dict[str, str]) -> None:
        """Let the instances of an image that really run see directories of this machine: places and directories."""
        self._gce.nodes.give(image, layers)

    def do_state(self) -> Json:
        """Return everything as it is, by ``zone/name``, with how each disk is attached."""
        with self._world.lock:
            self._world.agenda.settle()
            return {
                "disks": {f"{d.zone}/{d.name}": Disks.view(d) for d in self._world.disks.values()},
                "instances": {
                    f"{i.zone}/{i.name}": {
                        **instance_view(i),
                        "attachments": {a.disk.name: a.state for a in i.disks},
                        "guestAttributes": {f"{n}/{k}": v for (n, k), v in i.guest_attributes.items()},
                    }
                    for i in self._world.instances.values()
                },
                "operations": {o.name: o.view() for o in self._world.operations.values()},
            }

    def _instance(self, name: str) -> Instance:
        """Return an instance by its name, whatever its zone."""
        found = [i for i in self._world.instances.values() if i.name == name]
        if len(found) != 1:
            raise KeyError(f"there are {len(found)} instances {name!r}")
        return found[0]

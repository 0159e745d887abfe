"""Where things can be: zones, machine types, images, subnets; looked up once per process."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow_rankvol.backends._gcp_calls import Gce, any_of
from airflow_rankvol.backends._gcp_creation import check_link, partial
from airflow_rankvol.backends._gcp_errors import code
from airflow_rankvol.backends._gcp_machines import (
    MOST_DISKS,
    SHARED,
    SHARED_DISKS,
    MachineType,
    check_names,
    is_custom,
    machine_type_of,
)
from airflow_rankvol.backends._gcp_types import ARM, DEFAULT_MACHINE, FAMILIES, family_of
from airflow_rankvol.backends._gcp_view import zone_of
from airflow_rankvol.errors import BackendError, ConfigError
from airflow_rankvol.records import Tags
from airflow_rankvol.spec.templates import NodeTemplate

T = TypeVar("T")
#: Machine types by name, then by zone.
Offers = Mapping[str, Mapping[str, MachineType]]

#: How long an answer is good, in seconds.
FRESH_S = 600.0
#: The newest Debian: its images have the guest agent, which runs startup scripts.
DEFAULT_IMAGE, DEFAULT_ARM_IMAGE = "debian-13", "debian-13-arm64"
#: Whose images a family's name stands for, where this project has none of that name (Compute Engine's documentation,
#: "Operating system details").
_PUBLIC = {
    "debian": "debian-cloud",
    "ubuntu": "ubuntu-os-cloud",
    "rocky": "rocky-linux-cloud",
    "rhel": "rhel-cloud",
    "centos": "centos-cloud",
    "almalinux": "almalinux-cloud",
    "sles": "suse-cloud",
    "opensuse": "opensuse-cloud",
    "oracle": "oracle-linux-cloud",
    "fedora": "fedora-coreos-cloud",
    "common": "deeplearning-platform-release",
    "pytorch": "deeplearning-platform-release",
}


@dataclass(frozen=True, slots=True)
class Image:
    """What a node boots from."""

    link: str
    size_gib: int = 10
    arm: bool = False
    shielded: bool = True


class Places:
    """Look-ups in one project, shared by all threads of this process."""

    def __init__(self, gce: Gce, now: Callable[[], float] = time.monotonic) -> None:
        self.gce = gce
        self._now = now
        self._lock = threading.RLock()
        self._found: dict[tuple[str, ...], tuple[float, Any]] = {}

    def region(self) -> str:
        """Return the region for what names no place.

        Raises:
            ConfigError: nothing names one.
        """
        region = self.gce.session.region
        if not region:
            raise ConfigError(
                f"connection {self.gce.session.conn_id!r} names no place to work in: set zone or region in its extra "
                "('us-central1'), or NodeTemplate.zones"
            )
        return region

    def zones(self, region: str) -> list[str]:
        """Return the zones of a region that are up."""
        return [zone for zone, status in self.all_zones().items() if status == "UP" and _in(zone, region)]

    def all_zones(self) -> Mapping[str, str]:
        """Return every zone with its status."""

        def read() -> dict[str, str]:
            return {
                str(raw["name"]): str(raw.get("status", "UP")) for raw in self.gce.listed("zones", "check", "zones")
            }

        return self._once(("zones",), read)

    def zone_for(self, tags: Tags) -> str:
        """Return the zone for what a job without zones makes before one was chosen; the same for the same group."""
        if self.gce.session.zone:
            return self.gce.session.zone
        zones = self.zones(self.region())
        if not zones:
            raise ConfigError(f"there is no zone in region {self.region()!r} that is up; correct region, or name zones")
        return pick(zones, tags.owner, tags.dag, tags.group)

    def offers(self, names: Sequence[str], zones: Sequence[str], *, whole: bool = True) -> Offers:
        """Return by name, then by zone, which machine types exist.

        Args:
            zones: those that count. Custom types are asked for in each by itself: no list has them.
            whole: whether all of them have to be listed; else one that cannot be reached seems to offer nothing.

        Raises:
            RetryableError: of one of these zones, or of the whole list, Compute Engine does not know for now.
        """
        custom = sorted(filter(is_custom, set(names)))
        found = {name: {zone: self.machine_type(name, zone) for zone in zones} for name in custom}
        return {
            **self._listed(tuple(sorted(set(names).difference(custom))), tuple(sorted(zones)) if whole else ()),
            **{name: {zone: kind for zone, kind in there.items() if kind} for name, there in found.items()},
        }

    def machine_type(self, name: str, zone: str) -> MachineType | None:
        """Return a machine type as a zone has it.

        Raises:
            ConfigError: no such type can be.
        """

        def read() -> MachineType | None:
            try:
                raw = self.gce.find(f"zones/{zone}/machineTypes/{name}", "check", f"{name} in {zone}")
            except BackendError as exc:
                if code(exc) != "invalid" or not is_custom(name):
                    raise
                raise ConfigError(f"machine_type: {name!r} can be had nowhere: {exc}") from exc
            return machine_type_of(raw) if raw else None

        return self._once(("machineType", name, zone), read)

    def cards(self, name: str, zones: Sequence[str], *, whole: bool = True) -> Mapping[str, int]:
        """Return the zones that have a type of accelerators, each with how many a machine takes, or 0.

        Args:
            zones, whole, and errors: as ``offers`` has them.
        """
        known = sorted(zones) if whole else []

        def read() -> dict[str, int]:
            wanted = any_of("name", [name])
            found = self.gce.everywhere("acceleratorTypes", "check", name, filter_=wanted, known=known)
            return {zone_of(raw): int(raw.get("maximumCardsPerInstance") or 0) for raw in found}

        return self._once(("acceleratorTypes", name, *known), read)

    def names(self, kind: str, zone: str) -> list[str]:
        """Return what a zone has of ``machineTypes`` or ``acceleratorTypes``, by name."""

        def read() -> list[str]:
            pages = self.gce.pages(f"zones/{zone}/{kind}", "check", zone, fields="nextPageToken,items(name)")
            return sorted(str(raw["name"]) for page in pages for raw in page.get("items") or ())

        return self._once(("names", kind, zone), read)

    def _listed(self, wanted: tuple[str, ...], zones: tuple[str, ...]) -> Offers:
        def read() -> dict[str, dict[str, MachineType]]:
            found: dict[str, dict[str, MachineType]] = {name: {} for name in wanted}
            filter_ = any_of("name", wanted)
            for raw in self.gce.everywhere("machineTypes", "check", ", ".join(wanted), filter_=filter_, known=zones):
                found[raw["name"]][zone_of(raw)] = machine_type_of(raw)
            return found

        return self._once(("machineTypes", *wanted, "in", *zones), read) if wanted else {}

    @staticmethod
    def types_of(template: NodeTemplate) -> tuple[str, ...]:
        """Return a template's machine types in the order of preference.

        Raises:
            ConfigError: one of them is no name.
        """
        check_names("machine_type", template.machine_types, "n2-standard-4")
        return template.machine_types or (DEFAULT_MACHINE,)

    def attachments(self, template: NodeTemplate) -> int:
        """Return how many volumes a node can hold, on whichever of its machine types."""
        return min(self._attachments(template, name) for name in self.types_of(template))

    def image(self, name: str | None, machine_type: str) -> Image:
        """Return the image of a template for a machine type.

        Raises:
            ConfigError: there is none, or it is for another kind of processor.
        """
        arm = family_of(machine_type) in ARM
        if not name:
            family = DEFAULT_ARM_IMAGE if arm else DEFAULT_IMAGE
            return Image(f"projects/debian-cloud/global/images/family/{family}", arm=arm)
        found = self._once(("image", name), lambda: self._image(name))
        if family_of(machine_type) in FAMILIES and found.arm != arm:
            kinds = ("x86", "Arm")
            raise ConfigError(
                f"image {name!r} is for {kinds[found.arm]} processors, {machine_type} is an {kinds[arm]} machine. Name "
                "another image, or another machine type"
            )
        return found

    def subnet(self, name: str, region: str) -> str:
        """Return the link of a subnet that a template names, in a region."""
        if "/" in name:
            link = partial(name)
            return link if link.startswith("projects/") else self.gce.link(link)
        return self.gce.link(f"regions/{region}/subnetworks/{name}")

    def network(self, name: str | None) -> str:
        """Return the link of a network that a template names; that of the default one for None."""
        if name and "/" in name:
            link = partial(name)
            return link if link.startswith("projects/") else self.gce.link(link)
        return self.gce.link(f"global/networks/{name or 'default'}")

    def exists(self, link: str, where: str) -> bool:
        """Say whether there is something at a link ``projects/…``."""
        path = link.removeprefix("projects")
        return self._once(("exists", link), lambda: self.gce.find(path, "check", where) is not None)

    def _attachments(self, template: NodeTemplate, name: str) -> int:
        zones = template.effective_zones or ((self.gce.session.zone,) if self.gce.session.zone else ())
        if zones:
            found = self.machine_type(name, zones[0])
        else:
            near = self.zones(self.region()) if is_custom(name) or self.gce.session.region else ()
            # Any zone's will do.
            there = self.offers([name], near, whole=False)[name] or self.offers([name], near)[name]
            found = next(iter(there.values()), None)
        if found is None:
            return SHARED_DISKS if name in SHARED else MOST_DISKS
        return found.max_disks

    def _image(self, name: str) -> Image:
        check_link("node.image", name, "images", DEFAULT_IMAGE)
        if "/" in name:
            link = partial(name)
            paths = [link.removeprefix("projects") if link.startswith("projects/") else link]
        else:
            public = _PUBLIC.get(name.partition("-")[0])
            paths = [f"global/images/{name}", f"global/images/family/{name}"]
            paths += [f"/{public}/global/images/{name}", f"/{public}/global/images/family/{name}"] if public else []
        for path in paths:
            raw = self.gce.find(path, "check", name)
            if raw is not None:
                return _image_of(raw)
        tried = ", ".join(f"projects{path}" if path.startswith("/") else self.gce.link(path) for path in paths)
        raise ConfigError(
            f"node.image: there is no {name!r} (looked for {tried}). Name an image or a family: 'debian-13', "
            "'projects/PROJECT/global/images/NAME', 'projects/PROJECT/global/images/family/NAME'"
        )

    def _once(self, key: tuple[str, ...], read: Callable[[], T]) -> T:
        with self._lock:
            at, found = self._found.get(key, (0.0, None))
            if key in self._found and self._now() - at < FRESH_S:
                return found  # type: ignore[no-any-return]  # what ``read`` returned
            made = read()
            self._found[key] = (self._now(), made)
            return made


def pick(zones: Sequence[str], *identity: str) -> str:
    """Return one of the zones, always the same for the same identity."""
    ordered = sorted(zones)
    digest = hashlib.sha256("/".join(identity).encode()).digest()
    return ordered[int.from_bytes(digest[:8], "big") % len(ordered)]


def region_of(zone: str) -> str:
    """Return a zone's region."""
    return zone.rpartition("-")[0]


def _in(zone: str, region: str) -> bool:
    return region_of(zone) == region


def _image_of(raw: Mapping[str, Any]) -> Image:
    features = {str(item.get("type")) for item in raw.get("guestOsFeatures") or ()}
    return Image(
        link=partial(str(raw["selfLink"])),
        size_gib=int(raw.get("diskSizeGb") or 10),
        arm=raw.get("architecture") == "ARM64",
        # Compute Engine's documentation, "Shielded VM": the image has to boot by UEFI.
        shielded="UEFI_COMPATIBLE" in features,
    )

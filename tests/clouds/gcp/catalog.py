"""What is there without our doing: zones, machine and disk types, images, networks, snapshots."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.clouds.gcp.bounds import KINDS, Kind
from tests.clouds.gcp.errors import GceError, invalid, not_found
from tests.clouds.gcp.listing import Lister
from tests.clouds.gcp.machines import TYPES, MachineType
from tests.clouds.gcp.model import PROJECT, PROJECT_NUMBER, ROOT, stamp
from tests.clouds.gcp.names import split_link, zonal

Json = dict[str, Any]

REGIONS = {"us-central1": ("a", "b", "c", "f"), "us-east1": ("b", "c", "d")}
ZONES = tuple(f"{region}-{letter}" for region, letters in REGIONS.items() for letter in letters)
#: What lists of all zones name.
SCOPES = tuple(f"zones/{zone}" for zone in ZONES)
# Types that not every zone has.
_ONLY_IN = {
    "a3": ("us-central1-a", "us-central1-c"),
    "a4": ("us-central1-b",),
    "h3": ("us-central1-a",),
    "m3": ("us-central1-b",),
    "t2a": ("us-central1-a", "us-central1-b", "us-central1-f"),
}
_BASE = f"{ROOT}projects/{PROJECT}"
_EPOCH = 1_760_000_000.0
DEFAULT_ACCOUNT = f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com"


@dataclass(frozen=True)
class Image:
    """An image to boot from."""

    project: str
    name: str
    family: str
    size_gb: int = 10
    arm: bool = False

    @property
    def link(self) -> str:
        """The name that error messages use."""
        return f"projects/{self.project}/global/images/{self.name}"

    def view(self) -> Json:
        """Return it as answers hold it."""
        return {
            "kind": "compute#image",
            "id": str(zlib.crc32(self.name.encode())),
            "name": self.name,
            "family": self.family,
            "status": "READY",
            "sourceType": "RAW",
            "diskSizeGb": str(self.size_gb),
            "archiveSizeBytes": "1000000000",
            "architecture": "ARM64" if self.arm else "X86_64",
            "creationTimestamp": stamp(_EPOCH),
            "guestOsFeatures": [{"type": t} for t in ("UEFI_COMPATIBLE", "VIRTIO_SCSI_MULTIQUEUE", "GVNIC")],
            "selfLink": ROOT + self.link,
        }


IMAGES = (
    Image("debian-cloud", "debian-12-bookworm-v20261013", "debian-12"),
    Image("debian-cloud", "debian-12-bookworm-v20260914", "debian-12"),
    Image("debian-cloud", "debian-12-bookworm-arm64-v20261013", "debian-12-arm64", arm=True),
    Image("debian-cloud", "debian-13-trixie-v20261013", "debian-13"),
    Image("debian-cloud", "debian-13-trixie-arm64-v20261013", "debian-13-arm64", arm=True),
    Image("ubuntu-os-cloud", "ubuntu-2404-noble-amd64-v20261020", "ubuntu-2404-lts-amd64"),
    Image(PROJECT, "own-image", "own-family", size_gb=20),
)


@dataclass
class Catalog:
    """Look-ups in what is there; tests can take something away, or add snapshots, keys and accounts."""

    snapshots: dict[str, int] = field(default_factory=dict)  # sizes in GB
    keys: set[str] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)

    def clear(self) -> None:
        """Be as new."""
        self.snapshots = {"a-snapshot": 20}
        self.keys = {f"projects/{PROJECT}/locations/us-central1/keyRings/ring/cryptoKeys/key"}
        self.accounts = {"default", DEFAULT_ACCOUNT, f"node@{PROJECT}.iam.gserviceaccount.com"}

    def __post_init__(self) -> None:
        self.clear()

    # -- what launches ask

    def machine_type(self, name: str, zone: str) -> MachineType | None:
        """Return a machine type, if the zone has it."""
        found = TYPES.named(name)
        if found is None or zone not in _ONLY_IN.get(found.family, ZONES):
            return None
        return found

    def disk_kind(self, link: str, zone: str, field_name: str) -> Kind:
        """Return the disk type that a URL names."""
        name = zonal(link, "diskTypes", zone, field_name) if "/" in link else link
        if "/" not in link:
            raise invalid(field_name, link, "The URL is malformed.")
        if name not in KINDS:
            raise not_found(f"projects/{PROJECT}/zones/{zone}/diskTypes/{name}")
        return KINDS[name]

    def image(self, link: str, field_name: str) -> Image:
        """Return the image that a URL names, by itself or by its family."""
        project, parts = split_link(link)
        if len(parts) == 4 and parts[:3] == ["global", "images", "family"]:
            return self.newest(project, parts[3])
        if len(parts) != 3 or parts[:2] != ["global", "images"]:
            raise invalid(field_name, link, "The URL is malformed.")
        for image in IMAGES:
            if (image.project, image.name) == (project, parts[2]):
                return image
        raise not_found(f"projects/{project}/global/images/{parts[2]}")

    def newest(self, project: str, family: str) -> Image:
        """Return the newest image of a family."""
        found = [image for image in IMAGES if (image.project, image.family) == (project, family)]
        if not found:
            raise not_found(f"projects/{project}/global/images/family/{family}")
        return max(found, key=lambda image: image.name)

    def snapshot(self, link: str, field_name: str) -> str:
        """Return the name of a snapshot that exists."""
        project, parts = split_link(link)
        if len(parts) != 3 or parts[:2] != ["global", "snapshots"]:
            raise invalid(field_name, link, "The URL is malformed.")
        if project != PROJECT or parts[2] not in self.snapshots:
            raise not_found(f"projects/{project}/global/snapshots/{parts[2]}")
        return parts[2]

    def check_key(self, name: str) -> None:
        """Refuse a key that is not there, or that Compute Engine's service agent may not use [U: the reason]."""
        if name.partition("/cryptoKeyVersions/")[0] not in self.keys:
            raise GceError(
                400,
                "kmsPermissionDenied",
                f"Cloud KMS error when using key {name}: Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied "
                f"on resource '{name}' (or it may not exist).",
            )

    @staticmethod
    def subnet(link: str, region: str, field_name: str) -> str:
        """Return a subnetwork's link; there is one in each region, and one for nodes alone."""
        project, parts = split_link(link)
        if len(parts) != 4 or parts[0] != "regions" or parts[2] != "subnetworks":
            raise invalid(field_name, link, "The URL is malformed.")
        if parts[1] != region:
            raise invalid(field_name, link, f"The subnetwork must be in the region '{region}' of the instance.")
        if project != PROJECT or parts[3] not in ("default", "nodes"):
            raise not_found(f"projects/{project}/regions/{parts[1]}/subnetworks/{parts[3]}")
        return f"{_BASE}/regions/{region}/subnetworks/{parts[3]}"

    @staticmethod
    def network(link: str, field_name: str) -> str:
        """Return a network's link."""
        project, parts = split_link(link)
        if len(parts) != 3 or parts[:2] != ["global", "networks"]:
            raise invalid(field_name, link, "The URL is malformed.")
        if project != PROJECT or parts[2] != "default":
            raise not_found(f"projects/{project}/global/networks/{parts[2]}")
        return f"{_BASE}/global/networks/default"


class CatalogCalls:
    """The calls that only read what is there."""

    def __init__(self, catalog: Catalog, lost: Mapping[str, str]) -> None:
        self._catalog = catalog
        self._lost = lost
        self._types: Lister[tuple[str, MachineType]] = Lister("zones", "machineTypes", "machineType")
        self._kinds: Lister[tuple[str, Kind]] = Lister("zones", "diskTypes", "diskType")
        self._zones: Lister[str] = Lister("global", "zones", "zone")
        self._subnets: Lister[tuple[str, str]] = Lister("regions", "subnetworks", "subnetwork")

    @staticmethod
    def _zone_view(zone: str) -> Json:
        region = zone.rpartition("-")[0]
        return {
            "kind": "compute#zone",
            "id": str(2000 + ZONES.index(zone)),
            "name": zone,
            "description": zone,
            "status": "UP",
            "region": f"{_BASE}/regions/{region}",
            "selfLink": f"{_BASE}/zones/{zone}",
            "availableCpuPlatforms": ["Intel Cascade Lake", "Intel Ice Lake"],
            "creationTimestamp": stamp(_EPOCH),
        }

    def zone(self, params: Json) -> Json:
        """zones.get."""
        return self._zone_view(params["zone"])

    def zones(self, params: Json) -> Json:
        """zones.list."""
        return self._zones.answer(params, sorted(ZONES), self._zone_view, self._lost)

    @staticmethod
    def _type_view(found: tuple[str, MachineType]) -> Json:
        return found[1].view(found[0], _BASE)

    def machine_type(self, params: Json) -> Json:
        """machineTypes.get."""
        zone, name = params["zone"], params["machineType"]
        found = self._catalog.machine_type(name, zone)
        if found is None:
            raise not_found(f"projects/{PROJECT}/zones/{zone}/machineTypes/{name}")
        return found.view(zone, _BASE)

    def _in(self, zone: str) -> list[tuple[str, MachineType]]:
        return [(zone, TYPES[name]) for name in sorted(TYPES) if self._catalog.machine_type(name, zone)]

    def machine_types(self, params: Json) -> Json:
        """machineTypes.list."""
        return self._types.answer(params, self._in(params["zone"]), self._type_view)

    def all_machine_types(self, params: Json) -> Json:
        """machineTypes.aggregatedList."""
        found = sorted((pair for zone in ZONES for pair in self._in(zone)), key=lambda pair: (pair[1].name, pair[0]))
        return self._types.aggregated(params, found, self._type_view, SCOPES, self._lost)

    @staticmethod
    def _kind_view(found: tuple[str, Kind]) -> Json:
        zone, kind = found
        return {
            "kind": "compute#diskType",
            "id": str(zlib.crc32(kind.name.encode())),
            "name": kind.name,
            "description": kind.name,
            "defaultDiskSizeGb": str(kind.default_gb),
            "validDiskSize": f"{max(kind.min_gb, 10) if kind.name.startswith('pd') else kind.min_gb}GB-{kind.max_gb}GB",
            "zone": f"{_BASE}/zones/{zone}",
            "selfLink": f"{_BASE}/zones/{zone}/diskTypes/{kind.name}",
        }

    def disk_type(self, params: Json) -> Json:
        """diskTypes.get."""
        kind = self._catalog.disk_kind(f"zones/{params['zone']}/diskTypes/{params['diskType']}", params["zone"], "")
        return self._kind_view((params["zone"], kind))

    def disk_types(self, params: Json) -> Json:
        """diskTypes.list."""
        found = [(params["zone"], KINDS[name]) for name in sorted(KINDS)]
        return self._kinds.answer(params, found, self._kind_view)

    def image(self, params: Json) -> Json:
        """images.get."""
        return self._catalog.image(f"projects/{params['project']}/global/images/{params['image']}", "").view()

    def image_family(self, params: Json) -> Json:
        """images.getFromFamily."""
        return self._catalog.newest(params["project"], params["family"]).view()

    @staticmethod
    def _subnet_view(found: tuple[str, str]) -> Json:
        region, name = found
        return {
            "kind": "compute#subnetwork",
            "id": str(zlib.crc32(f"{region}/{name}".encode())),
            "name": name,
            "ipCidrRange": "10.128.0.0/16",
            "gatewayAddress": "10.128.0.1",
            "network": f"{_BASE}/global/networks/default",
            "region": f"{_BASE}/regions/{region}",
            "privateIpGoogleAccess": True,
            "selfLink": f"{_BASE}/regions/{region}/subnetworks/{name}",
        }

    def subnetwork(self, params: Json) -> Json:
        """subnetworks.get."""
        region, name = params["region"], params["subnetwork"]
        self._catalog.subnet(f"regions/{region}/subnetworks/{name}", region, "")
        return self._subnet_view((region, name))

    def subnetworks(self, params: Json) -> Json:
        """subnetworks.list."""
        found = [(params["region"], name) for name in ("default", "nodes")]
        return self._subnets.answer(params, found, self._subnet_view)

    def snapshot(self, params: Json) -> Json:
        """snapshots.get."""
        name = self._catalog.snapshot(f"global/snapshots/{params['snapshot']}", "")
        return {
            "kind": "compute#snapshot",
            "id": str(zlib.crc32(name.encode())),
            "name": name,
            "status": "READY",
            "diskSizeGb": str(self._catalog.snapshots[name]),
            "creationTimestamp": stamp(_EPOCH),
            "selfLink": f"{_BASE}/global/snapshots/{name}",
        }

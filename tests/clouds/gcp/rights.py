"""Who may what: the permissions that each call needs, those that are missing, and credentials that are no good."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

from tests.clouds.gcp.errors import GceError, forbidden
from tests.clouds.gcp.model import PROJECT

Json = dict[str, Any]
STATES = ("ok", "invalid")

# What a method needs, where it is not "compute.<resource>.<method>" (the "IAM Permissions" of each method's reference
# page: cloud.google.com/compute/docs/reference/rest/v1/<resource>/<method>).
_NAMES = {
    "acceleratorTypes.aggregatedList": "compute.acceleratorTypes.list",
    "disks.aggregatedList": "compute.disks.list",
    "disks.insert": "compute.disks.create",
    "instances.aggregatedList": "compute.instances.list",
    "instances.insert": "compute.instances.create",
    "instances.testIamPermissions": "",
    "machineTypes.aggregatedList": "compute.machineTypes.list",
    "images.getFromFamily": "compute.images.getFromFamily",
    "zoneOperations.wait": "compute.zoneOperations.get",
    "projects.testIamPermissions": "",
    "projects.secrets.versions.access": "secretmanager.versions.access",
    "objects.insert": "storage.objects.create",
}


class Rights:
    """What the caller lacks, and what has been needed so far."""

    def __init__(self) -> None:
        self.denied: list[str] = []  # globs over permissions and over "service:method"
        self.credentials = "ok"
        self.needed: set[str] = set()  # since the start, resets do not matter

    def clear(self) -> None:
        """Allow everything."""
        self.denied.clear()
        self.credentials = "ok"

    def check_credentials(self) -> None:
        """Refuse a call whose credentials are no good."""
        if self.credentials != "ok":
            raise GceError(
                401,
                "authError",
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
                "valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-"
                "project.",
            )

    def check(self, service: str, method: str, params: Json, body: Any) -> None:
        """Refuse a call for which a permission is missing, and name it."""
        for permission, link in _needs(service, method, params, body):
            self.needed.add(permission)
            if self.lacks(permission) or self.lacks(f"{service}:{method}"):
                raise forbidden(permission, link)

    def lacks(self, name: str) -> bool:
        """Return whether a permission is denied."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.denied)


def _needs(service: str, method: str, params: Json, body: Any) -> Iterator[tuple[str, str]]:
    if method.startswith("images.") and params.get("project") != PROJECT:
        return  # gce/images: public images can be used by every authenticated user
    name = _NAMES.get(method, f"{service}.{method}")
    if name:
        yield name, _link(service, method, params, body)
    if method == "disks.insert":
        yield from _sources(body)
    elif method == "instances.insert":
        yield from _launch(params, body)
    elif method == "instances.attachDisk":
        yield from _source(body)
    elif method == "instances.detachDisk":
        yield "compute.disks.use", f"projects/{PROJECT}/zones/{params['zone']}/disks/{params['deviceName']}"


def _link(service: str, method: str, params: Json, body: Any) -> str:
    """Return the resource that an error names."""
    if service == "storage":
        return f"projects/_/buckets/{params.get('bucket', '')}/objects/{params.get('object', params.get('name', ''))}"
    link = f"projects/{params.get('project', PROJECT)}"
    for place in ("region", "zone"):
        if place in params:
            link += f"/{place}s/{params[place]}"
    kind = method.partition(".")[0]
    name = next((params[n] for n in (kind.removesuffix("s"), "resource") if n in params), None)
    name = name or (body.get("name") if isinstance(body, dict) and method.endswith(".insert") else None)
    return f"{link}/{kind}/{name}" if name and kind not in ("zones", "regions") else link


def _sources(body: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    if body.get("labels"):
        yield "compute.disks.setLabels", f"projects/{PROJECT}{prefix}"
    for field, permission in (("sourceSnapshot", "snapshots"), ("sourceImage", "images")):
        link = body.get(field, "")
        if link and (permission == "snapshots" or f"projects/{PROJECT}/" in link or not link.count("projects/")):
            yield f"compute.{permission}.useReadOnly", link


def _source(wish: Json) -> Iterator[tuple[str, str]]:
    permission = "compute.disks.useReadOnly" if wish.get("mode") == "READ_ONLY" else "compute.disks.use"
    yield permission, wish.get("source", "")


def _launch(params: Json, body: Json) -> Iterator[tuple[str, str]]:
    link = f"projects/{PROJECT}/zones/{params['zone']}/instances/{body.get('name')}"
    for field, permission in (("labels", "setLabels"), ("metadata", "setMetadata"), ("tags", "setTags")):
        if body.get(field):
            yield f"compute.instances.{permission}", link
    for wish in body.get("disks", ()):
        if "source" in wish:
            yield from _source(wish)
        else:
            yield "compute.disks.create", f"projects/{PROJECT}/zones/{params['zone']}/disks"
            yield from _sources(wish.get("initializeParams", {}))
    for interface in body.get("networkInterfaces", ()):
        subnet = interface.get("subnetwork", "default")
        yield "compute.subnetworks.use", subnet
        if interface.get("accessConfigs"):
            yield "compute.subnetworks.useExternalIp", subnet
    for account in body.get("serviceAccounts", ()):
        yield "compute.instances.setServiceAccount", link
        yield "iam.serviceAccounts.actAs", f"projects/{PROJECT}/serviceAccounts/{account.get('email')}"

"""How things may be called: names, links, labels, metadata."""

from __future__ import annotations

import re
from typing import Any

from tests.clouds.gcp.errors import GceError, invalid, required
from tests.clouds.gcp.model import PROJECT, PROJECT_NUMBER

Json = dict[str, Any]

# disc: "1-63 characters long, and comply with RFC1035".
NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LINK = re.compile(r"(?:https://(?:www|compute)\.googleapis\.com/compute/v1/)?(?:projects/([^/]+)/)?(.+)")
LABELS, LABEL_LENGTH = 64, 63  # gce/labeling-resources: at most 64 labels, keys and values of 63 characters
METADATA_VALUE = 262_144  # disc, Metadata.items.value: "must be less than or equal to 262144 bytes (256 KiB)"
METADATA_TOTAL = 512 * 1024  # disc, Metadata.items: "The total size of all keys and values must be less than 512 KB"
_DEVICE = re.compile(r"\w[\w.-]{0,254}")  # disc, instances.setDiskAutoDelete: deviceName


def check_name(name: str, field: str = "resource.name") -> str:
    """Return a name that is one."""
    if not NAME.fullmatch(name):
        raise invalid(field, name, f"Must be a match of regex '(?:{NAME.pattern})'")
    return name


def check_device(name: str, field: str) -> str:
    """Return the name of a device on an instance, if it is one."""
    if not _DEVICE.fullmatch(name):
        raise invalid(field, name, f"Must be a match of regex '{_DEVICE.pattern}'")
    return name


def split_link(link: str) -> tuple[str, list[str]]:
    """Return the project of a full or partial URL, and its parts after that."""
    match = _LINK.fullmatch(link)
    assert match is not None
    project = match[1] or PROJECT
    return PROJECT if project == PROJECT_NUMBER else project, match[2].split("/")


def zonal(link: str, kind: str, zone: str, field: str) -> str:
    """Return the name in a URL of a resource of this project in that zone.

    Raises:
        GceError: The URL is of something else, or leads to another project or zone.
    """
    project, parts = split_link(link)
    if len(parts) != 4 or parts[0] != "zones" or parts[2] != kind:
        raise invalid(field, link, "The URL is malformed.")
    if project != PROJECT:
        raise GceError(403, "forbidden", f"Required 'compute.{kind}.use' permission for 'projects/{project}'")
    if parts[1] != zone:
        # [U] Google's very words; that it refuses is in gce/instances/create-start-instance.
        raise invalid(field, link, f"The referenced resource must be in the zone '{zone}', as the instance is.")
    return parts[3]


def check_labels(labels: dict[str, str], field: str = "resource.labels") -> dict[str, str]:
    """Return labels that are as they have to be (gce/labeling-resources; seen:oap-project/cloudtik#14)."""
    if len(labels) > LABELS:
        raise invalid(field, "", f"At most {LABELS} labels are allowed, found {len(labels)}.")
    for key, value in labels.items():
        if not key or not key[0].isalpha() or not _fits(key):
            raise invalid(
                field,
                "",
                f"Label key '{key}' violates format constraints. The key must start with a lowercase character, can "
                "only contain lowercase letters, numeric characters, underscores and dashes. The key can be at most "
                "63 characters long. International characters are allowed.",
            )
        if not _fits(value):
            raise invalid(
                field,
                "",
                f"Label value '{value}' violates format constraints. The value can only contain lowercase letters, "
                "numeric characters, underscores and dashes. The value can be at most 63 characters long. "
                "International characters are allowed.",
            )
    return dict(labels)


def _fits(text: str) -> bool:
    # 128 bytes in UTF-8 (gce/labeling-resources).
    if len(text) > LABEL_LENGTH or len(text.encode()) > 128:
        return False
    return all(c in "_-" or ((c.isalnum() and c.isprintable()) and c == c.lower()) for c in text)


def check_metadata(metadata: Json, field: str = "resource.metadata") -> dict[str, str]:
    """Return the keys and values of an instance's metadata."""
    found: dict[str, str] = {}
    for n, item in enumerate(metadata.get("items", ())):
        if "key" not in item:
            raise required(f"{field}.items[{n}].key")
        key, value = item["key"], item.get("value", "")
        if key in found:
            raise invalid(f"{field}.items[{n}].key", key, f"Metadata has duplicate key: {key}")
        if len(value.encode()) > METADATA_VALUE:
            raise GceError(
                400,
                "fieldSizeTooLarge",
                f"Value for field '{field}.items[{n}].value' is too large: maximum size {METADATA_VALUE} character(s); "
                f"actual size {len(value.encode())}.",
            )
        found[key] = value
    total = sum(len(k.encode()) + len(v.encode()) for k, v in found.items())
    if total >= METADATA_TOTAL:
        raise GceError(
            400,
            "fieldSizeTooLarge",
            f"Value for field '{field}' is too large: maximum size {METADATA_TOTAL} character(s); actual size {total}.",
        )
    return found

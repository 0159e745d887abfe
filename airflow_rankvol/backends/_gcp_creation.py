"""From a volume's request to the body of disks.insert."""

from __future__ import annotations

import math
import re
from typing import Any

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_labels import description_of, labels_of
from airflow_rankvol.backends._gcp_machines import NAME, check_names
from airflow_rankvol.backends._gcp_types import DEFAULT_TYPE
from airflow_rankvol.backends.base import VolumeRequest
from airflow_rankvol.errors import ConfigError

#: What is named by links → where it lies in a project.
_PLACES = {
    "images": r"global/images/(?:family/)?",
    "networks": "global/networks/",
    "snapshots": r"(?:global|regions/[-a-z0-9]+)/snapshots/",
    "subnetworks": r"regions/[-a-z0-9]+/subnetworks/",
}
_EXAMPLES = {
    "images": "projects/PROJECT/global/images/NAME",
    "networks": "projects/PROJECT/global/networks/NAME",
    "snapshots": "projects/PROJECT/global/snapshots/NAME",
    "subnetworks": "projects/PROJECT/regions/REGION/subnetworks/NAME",
}


def creation(gce: Gce, request: VolumeRequest, zone: str) -> dict[str, Any]:
    """Return the body of disks.insert; 64-bit numbers travel as text."""
    template = request.template
    optional = {
        "provisionedIops": None if template.iops is None else str(template.iops),
        "provisionedThroughput": None if template.throughput is None else str(template.throughput),
        "sourceSnapshot": global_link(gce, "snapshots", template.snapshot),
        "sourceImage": global_link(gce, "images", template.image),
        "diskEncryptionKey": {"kmsKeyName": template.kms_key} if template.kms_key else None,
    }
    return {
        "name": request.name,
        "sizeGb": str(math.ceil(template.size_gib)),
        # The API's own default is pd-standard.
        "type": gce.link(f"zones/{zone}/diskTypes/{template.type or DEFAULT_TYPE}"),
        "labels": labels_of(request.tags, template.tags),
        "description": description_of(request.tags),
        **{name: value for name, value in optional.items() if value is not None},
    }


def global_link(gce: Gce, kind: str, name: str | None) -> str | None:
    """Return the link of a snapshot or an image; a name is one of this project's."""
    if not name:
        return None
    return partial(name) if "/" in name else gce.link(f"global/{kind}/{name}")


def check_link(field: str, name: str, kind: str, example: str) -> None:
    """Refuse what is neither a name nor a link of a kind: Google answers such a path as one that no API has.

    Raises:
        ConfigError: says what was found and what is possible.
    """
    if "/" not in name:
        check_names(field, [name], example)
    elif not re.fullmatch(rf"(?:projects/[^/?#\s]+/)?{_PLACES[kind]}{NAME.pattern}", partial(name)):
        raise ConfigError(f"{field}: {name!r} was found; expected a name, such as {example!r}, or {_EXAMPLES[kind]}")


def partial(link: str) -> str:
    """Return a link without the API's address: ``projects/…``."""
    _, found, rest = link.partition("/compute/v1/")
    return rest if found else link

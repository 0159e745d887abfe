"""From a volume's request to the body of disks.insert."""

from __future__ import annotations

import math
from typing import Any

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_labels import description_of, labels_of
from airflow_rankvol.backends._gcp_types import DEFAULT_TYPE
from airflow_rankvol.backends.base import VolumeRequest


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


def partial(link: str) -> str:
    """Return a link without the API's address: ``projects/…``."""
    _, found, rest = link.partition("/compute/v1/")
    return rest if found else link

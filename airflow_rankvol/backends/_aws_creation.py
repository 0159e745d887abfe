"""From a volume's request to the parameters of CreateVolume: the same in every try, or its token would be of no use."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from airflow_rankvol.backends._aws_types import DEFAULT_TYPE
from airflow_rankvol.backends._aws_view import tag_list
from airflow_rankvol.backends.base import VolumeRequest


def creation(request: VolumeRequest, zone: str, token: str = "") -> dict[str, Any]:
    """Return the parameters of CreateVolume.

    Args:
        token: that of an earlier try; else the request's.
    """
    template = request.template
    optional = {
        "Iops": template.iops,
        "Throughput": template.throughput,
        "SnapshotId": template.snapshot,
        "KmsKeyId": template.kms_key,
        "Encrypted": True if template.encrypted else None,
    }
    return {
        "AvailabilityZone": zone,
        # The API's own default is gp2.
        "VolumeType": template.type or DEFAULT_TYPE,
        "Size": math.ceil(template.size_gib),
        # 64 characters, as many as EC2 takes. The name is hashed, too: the same token for another volume is a mismatch.
        "ClientToken": hashed(f"{token or request.token}/{request.tags.key}/{request.name}"),
        "TagSpecifications": [{"ResourceType": "volume", "Tags": tag_list(volume_tags(request))}],
        **{name: value for name, value in optional.items() if value is not None},
    }


def volume_tags(request: VolumeRequest) -> dict[str, str]:
    """Return all tags of a new volume; its expiry counts from its creation, so that a later try asks for the same."""
    tags = request.tags
    if tags.expiry:
        tags = tags.with_(expiry=f"+{request.template.expiry.total_seconds():.0f}s")
    return {**request.template.tags, "Name": request.name, **tags.to_dict()}


def hashed(text: str) -> str:
    """Return a token: EC2 takes 64 characters."""
    return hashlib.sha256(text.encode()).hexdigest()

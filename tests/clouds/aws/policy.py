"""What docs/aws-policy.json allows, for comparison with the calls that the double has recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

_FILE = Path(__file__).resolve().parents[3] / "docs/aws-policy.json"
#: Where the right has another name than the call (Service Authorization Reference, "Actions … for Amazon S3").
RIGHTS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
}


def allowed() -> set[str]:
    """Return every action that the policy names."""
    statements = json.loads(_FILE.read_text())["Statement"]
    found = (statement["Action"] for statement in statements)
    return {action for names in found for action in ([names] if isinstance(names, str) else names)}


def needed(calls: Iterable[str]) -> set[str]:
    """Return the rights that calls (``service:Action``) take.

    One without an action (``ec2:POST /``) was cut off with the process that sent it, and had no effect.
    """
    return {RIGHTS.get(call, call) for call in calls if " " not in call}

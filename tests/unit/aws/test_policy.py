"""The policy of docs/aws-policy.json: harmless to what is not ours. tests/clouds/aws compares it with real calls."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
STATEMENTS: list[dict[str, Any]] = json.loads((ROOT / "docs/aws-policy.json").read_text())["Statement"]
DESTRUCTIVE = {"AttachVolume", "DeleteVolume", "TerminateInstances", "GetConsoleOutput"}


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def actions(statements: list[dict[str, Any]]) -> set[str]:
    return {action for statement in statements for action in as_list(statement["Action"])}


def test_files_are_kept_below_the_owners_prefix_only() -> None:
    """What a bucket holds besides is nobody's business of ours."""
    for statement in STATEMENTS:
        if {"s3:GetObject", "s3:PutObject"} & set(as_list(statement["Action"])):
            assert statement["Resource"] == "arn:aws:s3:::BUCKET/PREFIX/rankvol/OWNER/*"


def test_whatever_destroys_is_bound_to_the_owners_tag() -> None:
    for statement in STATEMENTS:
        names = {action.removeprefix("ec2:") for action in as_list(statement["Action"])}
        if names & DESTRUCTIVE:
            assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/rankvol:owner": "OWNER"}}
    assert {f"ec2:{name}" for name in DESTRUCTIVE} <= actions(STATEMENTS)


def test_what_is_made_and_billed_carries_the_owners_tag() -> None:
    for statement in STATEMENTS:
        makes = {"ec2:CreateVolume", "ec2:RunInstances"} & set(as_list(statement["Action"]))
        billed = [arn for arn in as_list(statement["Resource"]) if fnmatch.fnmatch("arn:aws:ec2:r:1:volume/vol-1", arn)
                  or fnmatch.fnmatch("arn:aws:ec2:r:1:instance/i-1", arn)]  # fmt: skip
        if makes and billed:
            assert statement["Condition"]["StringEquals"]["aws:RequestTag/rankvol:owner"] == "OWNER"


def test_tags_are_set_only_while_something_is_made_or_on_what_is_ours() -> None:
    for statement in STATEMENTS:
        if "ec2:CreateTags" in as_list(statement["Action"]):
            wanted = statement["Condition"]["StringEquals"]
            assert "ec2:CreateAction" in wanted or wanted == {"aws:ResourceTag/rankvol:owner": "OWNER"}

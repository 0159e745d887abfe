"""Tags: what may be one, and the calls that change them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.clouds.aws.errors import Ec2Error, invalid, missing, not_found, not_modelled
from tests.clouds.aws.model import Instance, Resource
from tests.clouds.aws.world import Shelf, World

MAX_TAGS, MAX_KEY, MAX_VALUE = 50, 128, 256  # ec2ug/Using_Tags: tag restrictions
MAX_RESOURCES = 1000  # API:CreateTags: "Constraints: Up to 1000 resource IDs."

# ec2ug/work-with-tags-in-IMDS: what a key may be once instance tags are in the metadata service.
_METADATA_KEY = re.compile(r"[0-9a-zA-Z\-_+=,.@:]{1,255}")
_METADATA_RESERVED = (".", "..", "_index")


def check_pairs(pairs: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return tags as a dict.

    Raises:
        Ec2Error: A key that is missing, doubled, reserved or too long, or a value that is too long.
    """
    tags: dict[str, str] = {}
    for pair in pairs:
        key, value = pair.get("Key", ""), pair.get("Value", "")
        if not key:
            raise invalid("Tag key cannot be empty.")
        if key.lower().startswith("aws:"):
            raise invalid(f"Tag keys starting with 'aws:' are reserved for internal use. Found '{key}'")
        if len(key) > MAX_KEY:
            raise invalid(f"Tag key exceeds the maximum length of {MAX_KEY} characters: '{key}'")
        if len(value) > MAX_VALUE:
            raise invalid(f"Tag value exceeds the maximum length of {MAX_VALUE} characters, key '{key}'")
        if key in tags:
            raise invalid(f"Duplicate tag key '{key}' specified.")
        tags[key] = value
    check_count(tags)
    return tags


def check_count(tags: dict[str, str]) -> None:
    """Refuse more tags than a resource can carry."""
    if len(tags) > MAX_TAGS:
        raise Ec2Error("TagLimitExceeded", f"The maximum number of Tags for a resource is {MAX_TAGS}")


def check_metadata_keys(tags: dict[str, str]) -> None:
    """Refuse keys that the metadata service cannot show."""
    for key in tags:
        if not _METADATA_KEY.fullmatch(key) or key in _METADATA_RESERVED:
            raise invalid(
                f"'{key}' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{{1,255}}), "
                "and must not be a reserved name ('.', '..', '_index')"
            )


def from_specifications(params: dict[str, Any], allowed: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the tags of a creating call by resource type."""
    found: dict[str, dict[str, str]] = {}
    for one in params.get("TagSpecifications") or []:
        kind = one.get("ResourceType")
        if kind not in allowed:
            raise invalid(f"'{kind}' is not a valid taggable resource type for this operation.")
        if kind in found:
            raise invalid(f"Duplicate resource type '{kind}' in the tag specifications")
        if not one.get("Tags"):
            raise missing("Tag")
        found[kind] = check_pairs(one["Tags"])
    return found


class Tagging:
    """CreateTags, DeleteTags, DescribeTags."""

    def __init__(self, world: World) -> None:
        self._world = world

    def create_tags(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateTags: one unknown resource fails the whole call."""
        tags = check_pairs(params.get("Tags") or [])
        if not tags:
            raise missing("Tag")
        return self._change(params, lambda old: {**old, **tags})

    def delete_tags(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteTags: a value restricts the deletion to that value, no tags mean all (API:DeleteTags)."""
        gone = {pair["Key"]: pair.get("Value") for pair in params.get("Tags") or []}

        def without(old: dict[str, str]) -> dict[str, str]:
            if not gone:
                return {}
            return {k: v for k, v in old.items() if k not in gone or gone[k] not in (None, v)}

        return self._change(params, without)

    def _change(self, params: dict[str, Any], change: Callable[[dict[str, str]], dict[str, str]]) -> dict[str, Any]:
        ids = params.get("Resources") or []
        if not ids:
            raise missing("ResourceId")
        if len(ids) > MAX_RESOURCES:
            raise invalid(f"At most {MAX_RESOURCES} resources in one call, found {len(ids)}")
        found = [self._find(i) for i in ids]
        new = [change(resource.tags.current) for _, resource in found]
        for (_, resource), tags in zip(found, new, strict=True):
            check_count(tags)
            if isinstance(resource, Instance) and resource.metadata_tags:
                check_metadata_keys(tags)
        for (shelf, resource), tags in zip(found, new, strict=True):
            self._world.tag(shelf, resource, tags)
        return {}

    def _find(self, resource_id: str) -> tuple[Shelf[Any], Resource]:
        shelves: tuple[Shelf[Any], ...] = (self._world.volumes, self._world.instances, self._world.snapshots)
        for shelf in shelves:
            if resource_id.startswith(f"{shelf.prefix}-"):
                return shelf, self._world.find(shelf, resource_id)
        if resource_id.partition("-")[0] in ("ami", "subnet", "sg", "vpc"):
            raise not_modelled(f"tagging {resource_id}")
        raise not_found(resource_id)

    def describe_tags(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeTags, by resource-id, resource-type, key and value."""
        wanted = {f["Name"]: f["Values"] for f in params.get("Filters") or []}
        if unknown := set(wanted) - {"resource-id", "resource-type", "key", "value"}:
            raise invalid(f"The filter '{min(unknown)}' is invalid")
        rows = []
        for kind, shelf in (
            ("volume", self._world.volumes),
            ("instance", self._world.instances),
            ("snapshot", self._world.snapshots),
        ):
            for resource in shelf.values():
                for key, value in self._world.tags_of(resource).items() if self._world.seen(resource) else ():
                    row = {"resource-id": resource.id, "resource-type": kind, "key": key, "value": value}
                    if all(row[name] in values for name, values in wanted.items()):
                        rows.append({"ResourceId": resource.id, "ResourceType": kind, "Key": key, "Value": value})
        return {"Tags": rows}

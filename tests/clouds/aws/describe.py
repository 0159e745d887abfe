"""What all Describe calls share: ids, filters and pages."""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tests.clouds.aws.errors import Ec2Error, combination, invalid
from tests.clouds.aws.model import Resource
from tests.clouds.aws.world import Shelf, World

R = TypeVar("R", bound=Resource)

# A filter's values on a resource: a string, or the strings of its parts.
Filters = Mapping[str, Callable[[R], str | Sequence[str]]]

MAX_FILTERS, MAX_VALUES = 50, 200  # ec2ug/Using_Filtering: 50 filters, 200 values in one request
PAGE = (5, 1000)  # API:DescribeVolumes, API:DescribeInstances: MaxResults


def select(world: World, shelf: Shelf[R], ids: Sequence[str] | None, params: Any, filters: Filters[R]) -> list[R]:
    """Return what a Describe shows, in a stable order.

    One unknown id fails the whole call.
    """
    wanted = params.get("Filters") or []
    check_filters(wanted, filters)
    if ids:
        found = [world.find(shelf, i) for i in dict.fromkeys(ids)]
    else:
        found = [r for r in _candidates(shelf, wanted) if world.seen(r)]
    shown = (world.shown(r) for r in found)
    return sorted((r for r in shown if _matches(world, r, wanted, filters)), key=lambda r: (r.created_at, r.id))


def check_filters(wanted: Sequence[Mapping[str, Any]], known: Mapping[str, Any] | frozenset[str]) -> None:
    """Refuse filters that EC2 does not have for this call, or that ask for nothing."""
    if len(wanted) > MAX_FILTERS or sum(len(f.get("Values", ())) for f in wanted) > MAX_VALUES:
        raise Ec2Error("FilterLimitExceeded", f"At most {MAX_FILTERS} filters with {MAX_VALUES} values in all")
    for one in wanted:
        name = one.get("Name")
        if not name:
            raise invalid("The filter must have a name")
        if not one.get("Values"):
            raise invalid(f"The filter '{name}' must have at least one value")
        if not name.startswith("tag:") and name not in known and name != "tag-key":
            raise invalid(f"The filter '{name}' is invalid")


def _exact(value: str) -> bool:
    return not any(c in value for c in "*?\\")


def _candidates(shelf: Shelf[R], wanted: Sequence[Mapping[str, Any]]) -> Sequence[R]:
    """Return what can match at all: by the index where a filter names tags exactly."""
    best: Sequence[R] | None = None
    for one in wanted:
        if one["Name"].startswith("tag:") and all(map(_exact, one["Values"])):
            found = shelf.with_tag(one["Name"].removeprefix("tag:"), one["Values"])
            best = found if best is None or len(found) < len(best) else best
    return list(shelf.values()) if best is None else best


def _matches(world: World, resource: R, wanted: Sequence[Mapping[str, Any]], filters: Filters[R]) -> bool:
    return all(_hit(_values(world, resource, one["Name"], filters), one["Values"]) for one in wanted)


def _values(world: World, resource: R, name: str, filters: Filters[R]) -> Sequence[str]:
    tags = world.tags_of(resource)
    if name == "tag-key":
        return list(tags)
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return [tags[key]] if key in tags else []
    found = filters[name](resource)
    return [found] if isinstance(found, str) else found


def _hit(found: Sequence[str], patterns: Sequence[str]) -> bool:
    r"""Return whether a value matches one pattern: `*` and `?` are wild, and a backslash takes that away.

    API:Filter: "specify \\*amazon\\?\\\\ to search for the literal string *amazon?\\".
    """
    return any(v == p if _exact(p) else _pattern(p).fullmatch(v) for v in found for p in patterns)


@functools.lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": ".?"}
    parts = re.findall(r"\\.|.", text, re.DOTALL)
    return re.compile("".join(wild.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL)


def page(
    params: Mapping[str, Any], ids: Sequence[str] | None, found: Sequence[R], *, id_name: str
) -> tuple[Sequence[R], str | None]:
    """Return one page of what was found, and the token of the next.

    Raises:
        Ec2Error: MaxResults out of bounds or beside ids (API:DescribeInstances: "You cannot specify this parameter
            and the instance IDs parameter in the same request"), or a token that is none of ours.
    """
    limit = params.get("MaxResults")
    if limit is not None and ids:
        raise combination(f"The parameter {id_name} cannot be used with the parameter maxResults")
    if limit is not None and not PAGE[0] <= limit <= PAGE[1]:
        raise invalid(f"Value ( {limit} ) for parameter maxResults is invalid. Expecting a value from 5 to 1000.")
    rest = _after(params.get("NextToken"), found)
    if limit is None or len(rest) <= limit:
        return rest, None
    return rest[:limit], base64.b64encode(json.dumps(_place(rest[limit - 1])).encode()).decode()


def _place(resource: Resource) -> list[float | str]:
    return [resource.created_at, resource.id]


def _after(token: str | None, found: Sequence[R]) -> Sequence[R]:
    if token is None:
        return found
    try:
        place = json.loads(base64.b64decode(token, validate=True))
    except ValueError:
        raise invalid(f"The token '{token}' is invalid") from None
    return [r for r in found if _place(r) > place]

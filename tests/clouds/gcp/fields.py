"""Partial answers: what ``fields`` selects, held against the schema of the answer.

storage/docs/json_api, "Partial response": names by commas, ``a/b`` for b in a, ``a(b,c)`` for several in a, ``*`` for
whatever a holds by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
_TOKEN = re.compile(r"[(),/]|\*|[A-Za-z]\w*")


@dataclass
class Mask:
    """What is selected of an object; nothing below a name selects all of it."""

    names: dict[str, Mask] = field(default_factory=dict)

    def applied(self, found: Any) -> Any:
        """Return the selected part of an answer."""
        if not self.names:
            return found
        if isinstance(found, list):
            return [self.applied(item) for item in found]
        if not isinstance(found, dict):
            return found
        chosen = {name: self.names.get(name, self.names.get("*")) for name in found}
        return {name: mask.applied(found[name]) for name, mask in chosen.items() if mask is not None}

    def unknown(self, schema: Json, schemas: Json) -> str:
        """Return a selected name that the schema does not have; empty where it has all."""
        schema = _resolved(schema, schemas)
        for name, mask in self.names.items():
            below = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if below is None:
                return name
            if wrong := mask.unknown(below, schemas):
                return f"{name}/{wrong}"
        return ""


def _resolved(schema: Json, schemas: Json) -> Json:
    while "$ref" in schema or schema.get("type") == "array":
        schema = schemas[schema["$ref"]] if "$ref" in schema else schema["items"]
    return schema


def parsed(text: str) -> Mask:
    """Return the mask that a text stands for.

    Raises:
        ValueError: it stands for none.
    """
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", ""):
        raise ValueError(text)
    rest = tokens[::-1]
    found = _list(rest)
    if rest:
        raise ValueError(text)
    return found


def _list(rest: list[str]) -> Mask:
    mask = Mask()
    while True:
        _one(rest, mask)
        if not rest or rest[-1] != ",":
            return mask
        rest.pop()


def _one(rest: list[str], into: Mask) -> None:
    if not rest or rest[-1] in "(),/":
        raise ValueError("a name is missing")
    below = into.names.setdefault(rest.pop(), Mask())
    if rest and rest[-1] == "/":
        rest.pop()
        _one(rest, below)
    elif rest and rest[-1] == "(":
        rest.pop()
        below.names |= _list(rest).names
        if not rest or rest.pop() != ")":
            raise ValueError("a parenthesis is not closed")

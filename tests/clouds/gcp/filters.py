"""The filter of lists: AIP-160's comparisons, and the older ``eq`` and ``ne`` with regular expressions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.clouds.gcp.errors import invalid

Json = dict[str, Any]
Matcher = Callable[[Json], bool]

_TOKEN = re.compile(
    r"""\s*(?: (?P<paren>[()]) | (?P<op>!=|<=|>=|=|:|<|>) | "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>[^']*)'"""
    r"""| (?P<word>[^\s()=!<>:"']+) )""",
    re.VERBOSE,
)
_OPERATORS = ("=", "!=", ":", "<", ">", "<=", ">=", "eq", "ne")


def matcher(text: str) -> Matcher:
    """Return what tells whether a filter takes a resource's view; the empty one takes all.

    disc, filter: field, operator and value; several in parentheses, which AND joins unless OR does; ``:*`` asks
    whether a key is there; ``eq`` and ``ne`` hold a regular expression against the whole field, and do not mix with
    the others.
    """
    return _Parser(text).parse() if text.strip() else lambda view: True


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._at = 0
        self._styles: set[str] = set()

    def _bad(self, why: str) -> Exception:
        return invalid("filter", self._text, f"Invalid list filter expression. {why}")

    def _split(self) -> list[tuple[str, str]]:
        tokens, at, text = [], 0, self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._bad(f"Unexpected character at position {at}.")
            kind = match.lastgroup or ""
            tokens.append((kind, re.sub(r"\\(.)", r"\1", match[kind]) if kind == "double" else match[kind]))
            at = match.end()
        return tokens

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def parse(self) -> Matcher:
        found = self._all()
        if self._peek()[0] != "end":
            raise self._bad(f"Unexpected {self._peek()[1]!r}.")
        if len(self._styles) > 1:
            raise self._bad("The two types of filter expressions cannot be mixed in one request.")
        return found

    def _all(self) -> Matcher:
        # disc's example, "a OR b AND c": AIP-160 has OR bind more tightly than AND.
        parts = [self._any()]
        while self._peek()[0] != "end" and self._peek() != ("paren", ")"):
            if self._peek() == ("word", "AND"):
                self._next()
            parts.append(self._any())
        return lambda view: all(part(view) for part in parts)

    def _any(self) -> Matcher:
        parts = [self._one()]
        while self._peek() == ("word", "OR"):
            self._next()
            parts.append(self._one())
        return lambda view: any(part(view) for part in parts)

    def _one(self) -> Matcher:
        if self._peek() == ("word", "NOT"):
            self._next()
            denied = self._one()
            return lambda view: not denied(view)
        if self._peek() == ("paren", "("):
            self._next()
            found = self._all()
            if self._next() != ("paren", ")"):
                raise self._bad("A parenthesis is not closed.")
            return found
        return self._comparison()

    def _comparison(self) -> Matcher:
        kind, field = self._next()
        if kind != "word":
            raise self._bad(f"Expected a field's name, found {field!r}.")
        operator = self._next()[1]
        if operator not in _OPERATORS:
            raise self._bad(f"Expected an operator after {field!r}, found {operator!r}.")
        kind, value = self._next()
        if kind not in ("word", "double", "single"):
            raise self._bad(f"Expected a value after {field!r}.")
        self._styles.add("regex" if operator in ("eq", "ne") else "aip")
        if operator in ("eq", "ne"):
            return self._regex(field, operator, value)
        return _compare(field, operator, value, quoted=kind != "word")

    def _regex(self, field: str, operator: str, value: str) -> Matcher:
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise self._bad(f"{value!r} is no regular expression: {error}.") from None

        def matches(view: Json) -> bool:
            found = _field(view, field)
            hit = found is not None and pattern.fullmatch(_text(found)) is not None
            return hit == (operator == "eq")

        return matches


def _compare(field: str, operator: str, value: str, *, quoted: bool) -> Matcher:
    def matches(view: Json) -> bool:
        found = _field(view, field)
        if operator == ":":
            return _has(found, value, quoted=quoted)
        if operator in ("=", "!="):
            return (found is not None and _text(found) == value) == (operator == "=")
        return found is not None and _ordered(found, operator, value)

    return matches


def _has(found: Any, value: str, *, quoted: bool) -> bool:
    if found is None:
        return False
    if value == "*" and not quoted:
        return True
    return value in (map(_text, found) if isinstance(found, list) else _text(found))


def _ordered(found: Any, operator: str, value: str) -> bool:
    mine: Any = _text(found)
    theirs: Any = value
    if re.fullmatch(r"-?\d+", mine) and re.fullmatch(r"-?\d+", theirs):
        mine, theirs = int(mine), int(theirs)
    return bool({"<": mine < theirs, ">": mine > theirs, "<=": mine <= theirs, ">=": mine >= theirs}[operator])


def _field(view: Json, path: str) -> Any:
    found: Any = view
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

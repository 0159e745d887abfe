"""Rank templates: how one written volume name becomes the names of N ranks.

A template is text with variables in it. Two quantities can be named, each in spellings that mean the same:

    rank   ${NODE_RANK}  ${DSTACK_NODE_RANK}  ${{ node_rank }}  ${{ dstack.node_rank }}  ${{ dstack.job_num }}
    nodes  ${NODES_NUM}  ${DSTACK_NODES_NUM}  ${{ nodes_num }}  ${{ dstack.nodes_num }}

``$$`` is a literal ``$``; the double-brace spelling takes a Python format for integers
(``${{ node_rank:03d }}``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from airflow_rankvol.errors import ConfigError

#: Compute Engine's limit for resource names (an RFC 1035 label), the strictest: so a job runs on every cloud.
MAX_NAME = 63
#: Hex digits of the identity's hash in a name.
KEY_LENGTH = 8

_LABEL = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
_GLOBAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
# Only narrow integer formats: Python would take ".2f" for an integer too, or a width that fills the memory.
_INT_FORMAT = re.compile(r"(?:.?[<>=^])?[+-]?#?0?[0-9]{0,3}[_,]?[bdoxX]?")

Quantity = Literal["rank", "nodes"]
_SINGLE: dict[str, Quantity] = {
    "NODE_RANK": "rank",
    "DSTACK_NODE_RANK": "rank",
    "NODES_NUM": "nodes",
    "DSTACK_NODES_NUM": "nodes",
}
_DOUBLE: dict[str, Quantity] = {
    "node_rank": "rank",
    "dstack.node_rank": "rank",
    "dstack.job_num": "rank",
    "nodes_num": "nodes",
    "dstack.nodes_num": "nodes",
}
_KNOWN_DOUBLE = ", ".join(f"${{{{ {name} }}}}" for name in _DOUBLE)
_KNOWN = ", ".join(f"${{{name}}}" for name in _SINGLE) + ", " + _KNOWN_DOUBLE

_ANY_OPENING = re.compile(r"\$\$|\$\{\{|\$\{")
_DOUBLE_OPENING = re.compile(r"\$\$|\$\{\{")


class Naming(StrEnum):
    """How the names of one mount's volumes may differ."""

    SUFFIX = "suffix"
    PATTERN = "pattern"


class Scope(StrEnum):
    """How far a volume's name reaches: one run, all runs of its DAG, or the literal name everywhere."""

    RUN = "run"
    DAG = "dag"
    GLOBAL = "global"


@dataclass(frozen=True)
class Variable:
    """One variable of a template: which quantity, its format, and how it was written."""

    quantity: Quantity
    format: str
    source: str

    def render(self, *, rank: int, nodes: int) -> str:
        """The quantity's value, formatted."""
        return format(rank if self.quantity == "rank" else nodes, self.format)


@dataclass(frozen=True)
class Piece:
    """A stretch ``text[start:end]`` of a template: literal text, or a variable."""

    start: int
    end: int
    value: str | Variable


def interpolate(text: str, *, rank: int, nodes: int) -> str:
    """Replace every variable of ``text`` by its value, and ``$$`` by ``$``.

    Raises:
        ConfigError: A variable is unknown or unclosed, its format is not one for integers, or the text is no
            text, ``nodes`` no whole number from 1 on, or ``rank`` none from 0 to ``nodes`` - 1.
    """
    _check_values(text, rank, nodes)
    return _join(pieces(text), rank=rank, nodes=nodes)


def interpolate_braces(text: str, *, rank: int, nodes: int) -> str:
    """Replace only the ``${{ … }}`` variables, and leave ``$X``, ``${X}`` and ``$$`` to the node's shell.

    Raises:
        ConfigError: As `interpolate`.
    """
    _check_values(text, rank, nodes)
    return _join(pieces(text, braces_only=True), rank=rank, nodes=nodes)


def pieces(text: str, *, braces_only: bool = False) -> Iterator[Piece]:
    """Cut a template into literal text and variables, in order and without gaps."""
    opening = _DOUBLE_OPENING if braces_only else _ANY_OPENING
    position = 0
    while found := opening.search(text, position):
        start = found.start()
        if start > position:
            yield Piece(position, start, text[position:start])
        if found[0] == "$$":
            position = found.end()
            yield Piece(start, position, "$$" if braces_only else "$")
            continue
        closing = "}}" if found[0] == "${{" else "}"
        inner_end = text.find(closing, found.end())
        if inner_end < 0 or "${" in text[found.end() : inner_end]:
            raise ConfigError(
                f"unclosed variable {_shorten(text[start:])!r} in {_shorten(text)!r}: {closing!r} is missing"
                " (write $$ for a literal $)"
            )
        position = inner_end + len(closing)
        yield Piece(start, position, _variable(text[start:position], text))
    if position < len(text):
        yield Piece(position, len(text), text[position:])


def variables(text: str, *, braces_only: bool = False) -> list[Variable]:
    """The variables of a template, in order."""
    return [p.value for p in pieces(text, braces_only=braces_only) if isinstance(p.value, Variable)]


def volume_names(template: str, *, nodes: int, naming: Naming, scope: Scope, key: str) -> tuple[str, ...]:
    """The volume names of the ranks 0 … ``nodes`` - 1.

    Args:
        template: The name as written in the mount.
        nodes: How many ranks there are, at least 1.
        naming: Whether the names may differ by a numeric suffix only.
        scope: Whether the names carry ``key`` (run, dag) or are literal (global).
        key: The identity's hash, 8 hex digits; see `airflow_rankvol.plan.RunIdentity.key`.

    Raises:
        ConfigError: The template breaks a rule of its naming mode, or a name is not valid or not unique.
    """
    naming, scope = Naming(naming), Scope(scope)
    if nodes < 1:
        raise ConfigError(f"volume name {template!r}: {nodes} nodes were asked for; at least 1 is needed")
    if not _KEY.fullmatch(key):
        raise ConfigError(f"volume name {template!r}: key {key!r} is not {KEY_LENGTH} lower-case hex digits")
    found = variables(template)
    if nodes > 1 and not any(v.quantity == "rank" for v in found):
        raise ConfigError(
            f"volume name {template!r} has no rank variable: one disk cannot be attached to {nodes} nodes;"
            f" end the name with ${{NODE_RANK}}"
        )
    if naming is Naming.SUFFIX:
        _check_suffix(template, found)
    shown_key = None if scope is Scope.GLOBAL else key
    suffixed = naming is Naming.SUFFIX and bool(found)
    names = tuple(_name(interpolate(template, rank=r, nodes=nodes), r, suffixed, shown_key) for r in range(nodes))
    for rank, name in enumerate(names):
        _check_valid(template, name, rank, scope)
    _check_distinct(template, names)
    return names


def _check_values(text: object, rank: object, nodes: object) -> None:
    if not isinstance(text, str):
        raise ConfigError(f"text: {text!r} was found; text is expected, as in 'data-${{NODE_RANK}}'")
    # By exact type, because True is an int to isinstance() and would become part of a name.
    if type(nodes) is not int or nodes < 1:
        raise ConfigError(f"nodes: {nodes!r} was found; a whole number of at least 1 is expected")
    if type(rank) is not int or not 0 <= rank < nodes:
        raise ConfigError(
            f"rank: {rank!r} was found; with nodes={nodes}, a whole number from 0 to {nodes - 1} is expected"
        )


def _join(parts: Iterator[Piece], *, rank: int, nodes: int) -> str:
    return "".join(p.value.render(rank=rank, nodes=nodes) if isinstance(p.value, Variable) else p.value for p in parts)


def _variable(source: str, text: str) -> Variable:
    double = source.startswith("${{")
    inner = source[3:-2] if double else source[2:-1]
    name, colon, spec = (part.strip() for part in (inner.partition(":") if double else (inner, "", "")))
    quantity = (_DOUBLE if double else _SINGLE).get(name)
    if quantity is None:
        hint = ""
        if not double and inner.partition(":")[0].strip() in _SINGLE:
            hint = " (a format needs double braces: ${{ node_rank:03d }})"
        known = _KNOWN_DOUBLE if double else _KNOWN
        raise ConfigError(f"unknown variable {name!r} in {_shorten(text)!r}{hint}; known: {known}")
    if colon and not _valid_format(spec):
        raise ConfigError(
            f"bad format {spec!r} of the variable {source!r} in {_shorten(text)!r};"
            " expected a Python format for integers, for example 03d"
        )
    return Variable(quantity, spec, source)


def _valid_format(spec: str) -> bool:
    if not _INT_FORMAT.fullmatch(spec):
        return False
    try:
        format(0, spec)
    except ValueError:  # for example a comma with hexadecimal digits
        return False
    return True


def _check_suffix(template: str, found: Sequence[Variable]) -> None:
    """Names differ by a numeric suffix only: exactly one rank variable, at the end, written plainly."""
    problem = ""
    ranks = [v for v in found if v.quantity == "rank"]
    others = [v for v in found if v.quantity != "rank"]
    if others:
        problem = f"{others[0].source} is not a rank variable"
    elif len(ranks) > 1:
        problem = f"it has {len(ranks)} rank variables, where one is allowed"
    elif ranks and not isinstance(list(pieces(template))[-1].value, Variable):
        problem = f"{ranks[0].source} is not at the end"
    elif ranks and ranks[0].format:
        problem = f"the format {ranks[0].format!r} is not allowed in a plain suffix"
    elif ranks and template == ranks[0].source:
        problem = "nothing stands before the rank variable"
    if problem:
        raise ConfigError(
            f"volume name {template!r}: {problem}; names may differ by a numeric suffix only, as in"
            " 'data-${NODE_RANK}' (naming='pattern' lifts this rule)"
        )


def _name(rendered: str, rank: int, suffixed: bool, key: str | None) -> str:
    """Put the key into a rendered name: before its numeric suffix, or at the end."""
    if key is None:
        return rendered
    if suffixed:
        return f"{_dashed(rendered.removesuffix(str(rank)))}{key}-{rank}"
    return f"{_dashed(rendered)}{key}"


def _dashed(text: str) -> str:
    return text if text.endswith("-") else f"{text}-"


def _check_valid(template: str, name: str, rank: int, scope: Scope) -> None:
    where = f"volume name {template!r} gives rank {rank} the name {name!r} of {len(name)} characters"
    if scope is Scope.GLOBAL:
        if not _GLOBAL_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}; allowed are 1 to 128 letters, digits, dots, dashes and underscores,"
                " the first a letter or digit"
            )
        return
    if len(name) > MAX_NAME:
        raise ConfigError(
            f"{where}; at most {MAX_NAME} are allowed, the run's hash included:"
            f" shorten the template by {len(name) - MAX_NAME}"
        )
    if not _LABEL.fullmatch(name):
        raise ConfigError(
            f"{where}; allowed are lower-case letters, digits and dashes, the first a letter, the last"
            " no dash (a dot, an underscore or a capital needs scope='global')"
        )


def _check_distinct(template: str, names: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for rank, name in enumerate(names):
        other = first.setdefault(name, rank)
        if other != rank:
            raise ConfigError(
                f"volume name {template!r} gives the ranks {other} and {rank} the same name {name!r}"
                f" of {len(name)} characters; each rank needs a volume of its own"
            )


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""A function's definition as text that stands alone: as it is in its file, with its defaults as values."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import symtable
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

from airflow_rankvol._plain import not_plain
from airflow_rankvol.errors import ConfigError

_IN_BLOCK = "if True:\n"


class Names:
    """What a function's names stand for, as Python would look them up."""

    def __init__(self, function: FunctionType) -> None:
        closure: dict[str, Any] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                closure[name] = cell.cell_contents
            except ValueError:  # nothing was assigned to it yet
                continue
        self._free = frozenset(function.__code__.co_freevars)
        self._closure: Mapping[str, Any] = MappingProxyType(closure)
        self._globals = function.__globals__

    def find(self, name: str) -> tuple[bool, Any]:
        """Say whether a name is defined, and what it stands for."""
        space = self._closure if name in self._free else self._globals
        return name in space, space.get(name)

    def is_builtin(self, name: str) -> bool:
        """Say whether nothing but Python itself defines a name."""
        return hasattr(builtins, name) and name not in self._free and name not in self._globals

    def of_surroundings(self, name: str) -> bool:
        """Say whether a name is a variable of the function around it."""
        return name in self._free


def definition_of(function: FunctionType) -> tuple[str, ast.FunctionDef]:
    """Return the text of a function's definition without its decorators, and its syntax tree.

    A default of JSON that is made of names stands there as its value: they may be those of a function around it, which
    nothing tells any more, and may stand for something else since.

    Raises:
        ConfigError: its source cannot be read, or a default might be another one elsewhere.
    """
    raw = _source(function)
    # A definition inside of something is indented. A block around it lets it stay so, and its texts of several lines
    # keep what they are.
    block = _IN_BLOCK if raw.lstrip("\f")[:1] in " \t" else ""
    node = _node(function, block, raw)
    node.decorator_list = []
    first, last = node.lineno, node.end_lineno
    # Where syntax trees see the ends of lines. str.splitlines() sees more of them, in texts and between statements.
    lines = (block + raw).split("\n")[first - 1 : last]
    text = block + _with_literals("\n".join(lines), first, _literals(function, node)) + "\n"
    try:
        whole = ast.dump(_inner(text, block)) == ast.dump(node)
    except (SyntaxError, ValueError, IndexError):
        whole = False
    if not whole:
        raise ConfigError(
            f"the source of {function.__qualname__} does not come out whole; write control characters in it as "
            r"escapes, such as '\r', and end its lines alike"
        )
    return text, node


def free_names(code: str, place: str) -> set[str]:
    """Return the names that a code uses and somebody else has to define.

    Args:
        place: the file that it is from, for messages.

    Raises:
        SyntaxError: it cannot stand alone.
    """
    table = symtable.symtable(code, place, "exec")
    return {symbol.get_name() for part in _tables(table) for symbol in part.get_symbols() if _is_free(symbol)}


def _is_free(symbol: symtable.Symbol) -> bool:
    # What "global" declares and "+=" changes does not count as referenced.
    return symbol.is_global() and (symbol.is_referenced() or symbol.is_declared_global())


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError) as exc:
        raise ConfigError(
            f"the source of {function.__qualname__} cannot be read ({exc}); @rank_task ships it: expected a function "
            "of a file"
        ) from exc


def _node(function: FunctionType, block: str, raw: str) -> ast.FunctionDef:
    name = function.__qualname__
    try:
        node = _inner(block + raw, block)
    except SyntaxError as exc:
        raise ConfigError(f"the source of {name} cannot be read ({exc}); put it into lines of its own") from exc
    if not isinstance(node, ast.FunctionDef) or node.name != function.__name__:
        raise ConfigError(
            f"the source of {name} cannot be found: {function.__code__.co_filename} has changed since it was read"
        )
    if len(node.decorator_list) > 1:
        raise ConfigError(f"{name} has decorators besides @rank_task, which would be lost; expected it alone")
    return node


def _inner(text: str, block: str) -> ast.stmt:
    outer: Any = ast.parse(text).body[0]
    inner: ast.stmt = outer.body[0] if block else outer
    return inner


@dataclass(frozen=True, slots=True)
class _Literal:
    """What takes the place of an expression, whose place it knows."""

    old: ast.expr
    text: str


def _literals(function: FunctionType, node: ast.FunctionDef) -> list[_Literal]:
    """Put values in place of a tree's defaults where they are JSON, and return what that changes in its text."""
    arguments, names = node.args, Names(function)
    positional = [*arguments.posonlyargs, *arguments.args][-len(arguments.defaults) :] if arguments.defaults else []
    found = []
    for defaults, parameters in ((arguments.defaults, positional), (arguments.kw_defaults, arguments.kwonlyargs)):
        for at, (parameter, old) in enumerate(zip(parameters, list(defaults), strict=True)):
            value = inspect.signature(function).parameters[parameter.arg].default
            if old and _goes_as_value(function, names, parameter.arg, old, value):
                found.append(_Literal(old, repr(value)))
                defaults[at] = ast.parse(repr(value), mode="eval").body
    return found


def _goes_as_value(function: FunctionType, names: Names, parameter: str, old: ast.expr, value: object) -> bool:
    """Say whether a default's value stands in for it. Else it is evaluated on the node, and has to be the same there.

    Raises:
        ConfigError: it might not be.
    """
    used = sorted(free_names(ast.unparse(old), function.__code__.co_filename))
    if not used:
        return False
    problem = not_plain(value)
    if not problem:
        return True
    for name in used:
        if _is_doubtful(function, names, name, value if isinstance(old, ast.Name) else None):
            raise ConfigError(
                f"{function.__qualname__}: the default of {parameter!r} is evaluated on the node (it is no JSON value, "
                f"found {problem}), and {name!r} in it may be another one there; let it be a JSON value or None, and "
                f"make the rest inside {function.__name__}"
            )
    return False


def _is_doubtful(function: FunctionType, names: Names, name: str, value: object) -> bool:
    """Say whether a default's name may mean something else on a node than it did here: only modules are the same.

    Args:
        value: what it meant, where that is known.
    """
    if names.is_builtin(name):
        return value is not None and value is not getattr(builtins, name)
    found, there = names.find(name)
    # Names of a default belong to the function around: a variable of it hides one of the file, and nothing tells.
    hidden = "<locals>" in function.__qualname__ and not names.of_surroundings(name) and not found
    return hidden or (found and not isinstance(there, ModuleType))


def _with_literals(text: str, first: int, literals: list[_Literal]) -> str:
    """Return a text with values in place of expressions.

    Args:
        first: the number of its first line.
    """
    raw = text.encode()  # a syntax tree counts bytes
    starts = [0, *(end.end() for end in re.finditer(b"\n", raw))]
    for literal in sorted(literals, key=lambda found: (found.old.lineno, found.old.col_offset), reverse=True):
        old = literal.old
        begin = starts[old.lineno - first] + old.col_offset
        end = starts[(old.end_lineno or old.lineno) - first] + (old.end_col_offset or 0)
        raw = raw[:begin] + literal.text.encode() + raw[end:]
    return raw.decode()

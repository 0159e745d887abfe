"""How a Python function becomes a module that runs elsewhere: its source, and what it uses of the file around it.

The source is shipped as it stands, so that what a DAG file says is what runs. Of the names that it does not define
itself, those of modules become imports, and JSON values (and tuples of them) stand before it as they were when the DAG
file was read. Everything else has no meaning on another machine, and is refused by name.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import io
import math
import symtable
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

from airflow_rankvol.errors import ConfigError

# What every module has of its own; that of the DAG file means nothing elsewhere.
_OF_MODULES = frozenset({"__builtins__", "__doc__", "__file__", "__name__", "__package__", "__spec__"})
_IN_BLOCK = "if True:\n"


def check_function(function: object) -> FunctionType:
    """Return the function if it is one that can run elsewhere.

    Raises:
        ConfigError: it is no plain function with a name, or one that Python does not run by calling it.
    """
    if not isinstance(function, FunctionType):
        raise ConfigError(f"{function!r} was found; @rank_task expects a function that is defined with 'def'")
    name = function.__qualname__
    problem = ""
    if function.__name__ == "<lambda>":
        problem = "is a lambda"
    elif name != function.__name__ and not name.endswith(f"<locals>.{function.__name__}"):
        problem = "is a method, and its object stays here"
    elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problem = "is async"
    elif inspect.isgeneratorfunction(function):
        problem = "is a generator, because it has a 'yield'"
    elif hasattr(function, "__wrapped__"):
        problem = "has another decorator below @rank_task, which would be lost"
    if problem:
        raise ConfigError(f"{name} {problem}; @rank_task expects a plain function that is defined with 'def'")
    return function


def module_source(function: FunctionType, *, strict: bool = True) -> str:
    """Return the source of a module that has the function, and all that it uses.

    Args:
        strict: refuse names that are not defined (yet).

    Raises:
        ConfigError: its source cannot be read, or it uses what cannot be shipped.
    """
    text, node = _definition(function)
    bare = _Bare().visit(node)
    lines = ["from __future__ import annotations", ""]
    values = _Names(function)
    for name in _free_names(bare, function):
        found, value = values.find(name)
        if isinstance(value, ModuleType):
            lines += _imports(name, value, bare)
        elif found:
            problem = not_plain(value)
            if problem:
                raise ConfigError(_refusal(function, name, value, problem))
            lines.append(f"{name} = {value!r}")
        elif strict:
            raise ConfigError(
                f"{function.__qualname__} uses {name!r}, which is not defined where it is called; define it before"
            )
    return "\n".join([*lines, text])


def not_plain(value: object, where: str = "", allowed: Callable[[object], bool] | None = None) -> str:
    """Return what in a value is neither JSON nor a tuple, and where; nothing when all of it is.

    Subclasses (an enum's members, NumPy's numbers) are something else: they would come out as something else.

    Args:
        allowed: what passes besides.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str) or (allowed and allowed(value)):
        return ""
    if isinstance(value, float) and kind is float:
        return "" if math.isfinite(value) else f"{value}{where and f' at {where}'}"
    items: Iterator[tuple[object, object]] = iter(())
    if isinstance(value, list | tuple) and kind in (list, tuple):
        items = iter(enumerate(value))
    elif isinstance(value, dict) and kind is dict and all(type(key) is str for key in value):
        items = iter(value.items())
    else:
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        keys = " with keys that are not str" if kind is dict else ""
        return f"{module}{kind.__qualname__}{keys}{where and f' at {where}'}"
    problems = (not_plain(item, f"{where}[{key!r}]", allowed) for key, item in items)
    return next(filter(None, problems), "")


class _Names:
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


class _Bare(ast.NodeTransformer):
    """Takes decorators and annotations away: the former ran here, the latter are never evaluated there."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        value = self.visit(node.value) if node.value else None
        new = ast.Assign([node.target], value) if value else ast.Pass()
        return ast.copy_location(new, node)


def _definition(function: FunctionType) -> tuple[str, ast.FunctionDef]:
    """Return the text of a function's definition without its decorators, and its syntax tree."""
    name = function.__qualname__
    try:
        raw = inspect.getsource(function)
    except (OSError, TypeError) as exc:
        raise ConfigError(
            f"the source of {name} cannot be read ({exc}); @rank_task ships it: expected a function of a file"
        ) from exc
    # A definition inside of something is indented. A block around it lets it stay so, and its texts of several lines
    # keep what they are.
    block = _IN_BLOCK if raw[:1] in " \t" else ""
    try:
        outer: Any = ast.parse(block + raw).body[0]
    except SyntaxError as exc:
        raise ConfigError(f"the source of {name} cannot be read ({exc}); put it into lines of its own") from exc
    node = outer.body[0] if block else outer
    if not isinstance(node, ast.FunctionDef) or node.name != function.__name__:
        raise ConfigError(
            f"the source of {name} cannot be found: {function.__code__.co_filename} has changed since it was read"
        )
    if len(node.decorator_list) > 1:
        raise ConfigError(f"{name} has decorators besides @rank_task, which would be lost; expected it alone")
    node.decorator_list = []
    first, last = node.lineno, node.end_lineno
    lines = io.StringIO(block + raw).readlines()[first - 1 : last]  # str.splitlines ends lines where Python does not
    return block + "".join(lines), node


def _free_names(node: ast.FunctionDef, function: FunctionType) -> list[str]:
    """Return the names that a function uses and somebody else has to define."""
    try:
        table = symtable.symtable(ast.unparse(node), function.__code__.co_filename, "exec")
    except SyntaxError as exc:
        raise ConfigError(
            f"{function.__qualname__} cannot stand alone ({exc.msg}); it may read variables of the function around it, "
            "but not assign to them"
        ) from exc
    found = {symbol.get_name() for part in _tables(table) for symbol in part.get_symbols() if _is_free(symbol)}
    space = function.__globals__
    ours = {function.__name__, *_OF_MODULES}
    known = {name for name in vars(builtins) if name not in space and name not in function.__code__.co_freevars}
    return sorted(found - ours - known)


def _is_free(symbol: symtable.Symbol) -> bool:
    # What "global" declares and "+=" changes does not count as referenced.
    return symbol.is_global() and (symbol.is_referenced() or symbol.is_declared_global())


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _imports(name: str, module: ModuleType, node: ast.AST) -> list[str]:
    """Return the imports that give a module its name, and those of the modules in it that the function uses."""
    lines = [f"import {module.__name__}" if module.__name__ == name else f"import {module.__name__} as {name}"]
    for path in _paths(name, node):
        full = module.__name__
        for step in path:
            full = f"{full}.{step}"
            if full not in sys.modules:
                break
            lines.append(f"import {full}" if module.__name__ == name else f"import {full} as _")
    return list(dict.fromkeys(lines))


def _paths(name: str, node: ast.AST) -> Iterator[list[str]]:
    """Return what a function takes from a name by attributes: ``["etree", "ElementTree"]``."""
    for item in ast.walk(node):
        path: list[str] = []
        while isinstance(item, ast.Attribute):
            path.insert(0, item.attr)
            item = item.value  # noqa: PLW2901 - down the chain
        if path and isinstance(item, ast.Name) and item.id == name:
            yield path


def _refusal(function: FunctionType, name: str, value: object, problem: str) -> str:
    where = getattr(value, "__module__", None)
    if isinstance(value, type) or callable(value):
        if where in (None, "__main__", function.__module__) or not hasattr(value, "__name__"):
            advice = f"define it inside {function.__name__}, or import it there from a file that is named in files"
        else:
            advice = f"import it inside {function.__name__}"
    else:
        advice = f"make it inside {function.__name__}, or pass what it is made of as an argument"
    return (
        f"{function.__qualname__} uses {name!r} of the code around it, which is not JSON (found {problem}); "
        f"only JSON values, tuples of them and modules are shipped with a function: {advice}"
    )

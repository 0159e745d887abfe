"""How a Python function becomes a module that runs elsewhere: its source, and what it uses of the file around it.

The source is shipped as it stands (``_definition``), so that what a DAG file says is what runs. Of the names that it
does not define itself, those of modules become imports, and JSON values (and tuples of them) stand before it as they
were when the DAG file was read. Everything else has no meaning on another machine, and is refused by name.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from importlib.resources import files
from types import FunctionType, ModuleType

from airflow_rankvol._definition import Names, definition_of, free_names
from airflow_rankvol._plain import not_plain
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.contents import data_url

#: Where a node finds what calls the function.
RUNNER = "_rankvol/run.py"
#: What runs it. RANKVOL_PYTHON is the interpreter of a local node's creator; clouds have their image's.
RUN_COMMAND = f'"${{RANKVOL_PYTHON:-python3}}" -u {RUNNER}'

# What every module has of its own; that of the DAG file means nothing elsewhere.
_OF_MODULES = frozenset({"__builtins__", "__doc__", "__file__", "__name__", "__package__", "__spec__"})


def runner() -> str:
    """Return the content of ``RUNNER``, the same for every function, as a value of ``files``."""
    return data_url(files(__package__).joinpath("_rank_task_node.py").read_bytes())


def is_runner(name: str, source: object) -> bool:
    """Say whether this file is ``RUNNER`` as it is shipped: nothing of a user's, so no secret, stands in it."""
    return name == RUNNER and source == runner()


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
    text, node = definition_of(function)
    bare = _Bare().visit(node)
    lines = ["from __future__ import annotations", ""]
    values = Names(function)
    for name in _names_around(bare, function, values):
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


def _names_around(node: ast.FunctionDef, function: FunctionType, values: Names) -> list[str]:
    """Return the names that a function uses and the code around it defines."""
    try:
        found = free_names(ast.unparse(node), function.__code__.co_filename)
    except SyntaxError as exc:
        raise ConfigError(
            f"{function.__qualname__} cannot stand alone ({exc.msg}); it may read variables of the function around it, "
            "but not assign to them"
        ) from exc
    ours = {function.__name__, *_OF_MODULES}
    return sorted(name for name in found - ours if not values.is_builtin(name))


def _imports(name: str, module: ModuleType, node: ast.AST) -> list[str]:
    """Return the imports that give a module its name, and those of the modules in it that the function uses."""
    lines = [f"import {module.__name__}" if module.__name__ == name else f"import {module.__name__} as {name}"]
    for path in _paths(name, node):
        full = module.__name__
        for step in path:
            full = f"{full}.{step}"
            if full not in sys.modules:
                break
            # Below another name, the statement would need one more, which the function may use for something else.
            lines.append(f"import {full}" if module.__name__ == name else f"__import__({full!r})")
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

"""Which values are the same ones elsewhere: JSON, and tuples of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

#: Python reads no literal of more than 200 levels, and JSON of more than its stack has room for.
DEEPEST = 100
# Python neither writes nor reads an int of more than 4,300 digits (``sys.int_info``); this is less by a digit.
_LONGEST_INT = 14_280


def not_plain(
    value: object, where: str = "", allowed: Callable[[object], bool] | None = None, room: int = DEEPEST
) -> str:
    """Return what in a value is neither JSON nor a tuple, and where; nothing when all of it is.

    Subclasses (an enum's members, NumPy's numbers) are something else: they would come out as something else.

    Args:
        allowed: what passes besides.
        room: how many levels it may have.
    """
    if allowed and allowed(value):
        return ""
    kind = type(value)
    if isinstance(value, list | tuple) and kind in (list, tuple):
        items: Iterator[tuple[object, object]] = iter(enumerate(value))
    elif isinstance(value, dict) and kind is dict and all(type(key) is str for key in value):
        items = iter(value.items())
    else:
        problem = _not_single(value)
        return problem and f"{problem}{where and f' at {where}'}"
    if not room:
        return f"a {kind.__name__} in itself, or in more than {DEEPEST} others"
    problems = (not_plain(item, f"{where}[{key!r}]", allowed, room - 1) for key, item in items)
    return next(filter(None, problems), "")


def _not_single(value: object) -> str:
    """Return what a value is that has no items; nothing when it is JSON."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return ""
    if isinstance(value, int) and kind is int:
        return "" if value.bit_length() <= _LONGEST_INT else "an int of more than 4,298 digits"
    if isinstance(value, float) and kind is float:
        return "" if math.isfinite(value) else str(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    keys = " with keys that are not str" if kind is dict else ""
    return f"{module}{kind.__qualname__}{keys}"

"""What a file's content says, apart from how it is written: a secret in JSON or in Python is written with escapes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any

#: Larger files are data rather than what a secret is written into.
SEARCHED_BYTES = 262_144


def readings(name: str, content: bytes) -> Iterator[str]:
    """Return a file's text, and the texts that JSON or Python, judged by its name and beginning, reads in it."""
    if len(content) > SEARCHED_BYTES:
        return
    text = content.decode(errors="replace")
    yield text
    try:
        if name.endswith(".py"):
            found = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
            yield from (value for value in found if isinstance(value, str))
        elif text.lstrip()[:1] in ("{", "[", '"'):
            yield from _leaves(json.loads(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # what cannot be read says no more than its text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)

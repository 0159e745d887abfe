"""How the command line answers: rows on stdout, notes on stderr, and an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """What the command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    TO_REMOVE = 3


def render(rows: Sequence[Mapping[str, Any]], output: str) -> str:
    """Return rows as a table, JSON or YAML."""
    if output == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False)
    if output == "yaml":
        import yaml

        return str(yaml.safe_dump([dict(row) for row in rows], sort_keys=False, allow_unicode=True)).rstrip()
    from tabulate import tabulate

    # Cells are text already: without this, a run id such as "1e5" would be shown as a number.
    table = [dict(row) for row in rows]
    return str(tabulate(table, headers="keys", tablefmt="simple", disable_numparse=True))


def note(message: str) -> None:
    """Say something on stderr that is not the answer."""
    sys.stderr.write(f"rankvol: {message}\n")

"""What nodes that do not really run report, as the bootstrap writes it (engine/bootstrap.sh)."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any


def report(rank: int = 0, exit_code: int = 0, output: Any = None, **more: Any) -> dict[str, Any]:
    """Return a report as the bootstrap writes it."""
    encoded = base64.b64encode(json.dumps({"rank": rank} if output is None else output).encode()).decode()
    return {
        "version": 1,
        "role": "rank",
        "rank": rank,
        "attempt": 1,
        "phase": "done",
        "exit_code": exit_code,
        "output_b64": encoded,
        "log_tail_b64": "",
        "error_b64": "",
        "collected": [],
        "missing": [],
        "reused": False,
        **more,
    }


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return the lines in which a node writes its report (engine/platform_cloud.sh)."""
    text = base64.b64encode(gzip.compress(json.dumps(found).encode(), mtime=0)).decode()
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    parts = [text[at : at + 800] for at in range(0, len(text), 800)]
    head = f"RANKVOL-REPORT {digest}.{len(text)}"
    return [f"{head} {number}/{len(parts)} {part}" for number, part in enumerate(parts, 1)]

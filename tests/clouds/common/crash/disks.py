"""What nodes do to their volumes, in a double: completion records as the bootstrap writes and reads them.

A stand-in for nodes that really run, fast enough for hundreds of runs. It knows only what lies on the volumes; the
records' rules are those of engine/bootstrap.sh.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from tests.clouds.common.reports import report

#: What never comes again of a volume → identity, rank, digest and output of the record on it.
RECORDS: dict[str, dict[str, Any]] = {}


def ids_of(script: str) -> list[str]:
    """Return the ids of the volumes that a node's script waits for."""
    return _words(script, "IDS")


def finished(script: str, volumes: Sequence[str]) -> dict[str, Any]:
    """Return what a node reports that has done its work.

    Args:
        volumes: what never comes again of each of ``ids_of(script)``.
    """
    return _rank(script, volumes[0]) if _value(script, "ROLE") == "rank" else _gather(script, volumes)


def _rank(script: str, volume: str) -> dict[str, Any]:
    rank = int(_value(script, "RANK"))
    record = {"identity": _value(script, "IDENTITY"), "rank": rank, "digest": _value(script, "DIGEST")}
    found = RECORDS.get(volume, {})
    reused = {name: found.get(name) for name in record} == record
    if not reused:
        attempt = int(_value(script, "ATTEMPT"))
        RECORDS[volume] = {**record, "output": {"rank": rank, "attempt": attempt}}
    return report(rank, output=RECORDS[volume]["output"], reused=reused)


def _gather(script: str, volumes: Sequence[str]) -> dict[str, Any]:
    identity = _value(script, "IDENTITY")
    ranks = [int(word) for word in _words(script, "OF")]
    outputs = {
        rank: RECORDS[volume]["output"]
        for rank, volume in zip(ranks, volumes, strict=True)
        if (RECORDS.get(volume, {}).get("identity"), RECORDS.get(volume, {}).get("rank")) == (identity, rank)
    }
    missing = sorted(set(ranks) - set(outputs))
    ending = {"phase": "incomplete", "exit_code": 1} if missing else {"exit_code": 0}
    return report(-1, output=[outputs[rank] for rank in sorted(outputs)], role="gather", collected=sorted(outputs),
                  missing=missing, **ending)  # fmt: skip


def _value(script: str, name: str) -> str:
    found = re.search(rf"\bRV_{name}=(\S*)", script)
    assert found is not None, name
    return "".join(shlex.split(found[1]))


def _words(script: str, name: str) -> list[str]:
    found = re.search(rf"^RV_{name}=\((.*)\)$", script, re.MULTILINE)
    assert found is not None, name
    return shlex.split(found[1])

"""What nodes do to their volumes, in the double: completion records as the bootstrap writes and reads them.

A stand-in for nodes that really run, fast enough for hundreds of runs. Like a node it waits for all its volumes, and
it knows only what lies on them; the records' rules are those of engine/bootstrap.sh.
"""

from __future__ import annotations

import gzip
import re
import shlex
from typing import Any

from tests.clouds.aws.backend.kit import console_of, report

#: Volume id → identity, rank, digest and output of the record on it. Volume ids are never used again.
RECORDS: dict[str, dict[str, Any]] = {}


def end(view: dict[str, Any], user_data: bytes) -> str | None:
    """Return the console of a node that has done its work, or None while it waits for its volumes."""
    script = gzip.decompress(user_data).decode()
    ids = _words(script, "IDS")
    attached = {
        mapping["Ebs"]["VolumeId"] for mapping in view["BlockDeviceMappings"] if mapping["Ebs"]["Status"] == "attached"
    }
    if not attached.issuperset(ids):
        return None
    return console_of(_rank(script, ids) if _value(script, "ROLE") == "rank" else _gather(script, ids))


def _rank(script: str, ids: list[str]) -> dict[str, Any]:
    rank = int(_value(script, "RANK"))
    record = {"identity": _value(script, "IDENTITY"), "rank": rank, "digest": _value(script, "DIGEST")}
    found = RECORDS.get(ids[0], {})
    reused = {name: found.get(name) for name in record} == record
    if not reused:
        attempt = int(_value(script, "ATTEMPT"))
        RECORDS[ids[0]] = {**record, "output": {"rank": rank, "attempt": attempt}}
    return report(rank, output=RECORDS[ids[0]]["output"], reused=reused)


def _gather(script: str, ids: list[str]) -> dict[str, Any]:
    identity = _value(script, "IDENTITY")
    ranks = [int(word) for word in _words(script, "OF")]
    outputs = {
        rank: RECORDS[volume]["output"]
        for rank, volume in zip(ranks, ids, strict=True)
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

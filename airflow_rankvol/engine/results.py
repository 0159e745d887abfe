"""Reports that nodes write, and the results that Airflow shows."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import RankVolError
from airflow_rankvol.records import Node, Observation, RankResult, to_iso

#: How deep a result may be nested: Airflow's serializers recurse.
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Report:
    """What the bootstrap said last. ``error`` is its own sentence when a step before the commands failed.

    ``copied`` counts the files that went to the destination; it is -1 where there are some, and none was meant.
    """

    exit_code: int
    phase: str
    output: Any = None
    log_tail: str = ""
    error: str = ""
    attached_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    reused: bool = False
    collected: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    copied: int = 0


class ReportUnreadable(RankVolError):
    """The node's report is cut off or not ours; what its commands did is unknown."""


class ResultNotJson(RankVolError):
    """The command wrote something to $RANKVOL_RESULT that is not JSON; ``report`` is the rest of its report."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def _text(raw: dict[str, Any], field: str) -> str:
    text = base64.b64decode(raw.get(field) or "", validate=True).decode("utf-8", errors="replace")
    return text if field == "output_b64" else text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_storable(value: Any) -> None:
    """Refuse what Airflow cannot keep: PostgreSQL's JSON takes no NUL, lone surrogate or infinity, serializers recurse.

    The bootstrap's ``rv_is_json`` refuses the same on the node, before it writes the completion record.
    """
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        if any("\0" in part for item in level for part in ((item,) if isinstance(item, str) else _keys(item))):
            raise ValueError("a text in it holds NUL")
        level = [part for item in level for part in _parts(item)]


def _keys(item: Any) -> Iterable[str]:
    return item if isinstance(item, dict) else ()


def _parts(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


def parse_report(raw: str) -> Report:
    """Read a node's report.

    Raises:
        ReportUnreadable: when it is not a report of the bootstrap, or only a part of one.
        ResultNotJson: when the commands succeeded but their result file does not hold JSON.
    """
    try:
        data = json.loads(raw)
        output_text = _text(data, "output_b64")
        report = _report(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ReportUnreadable(
            f"found a report that cannot be read ({exc!r}): {raw[:200]!r}; expected the bootstrap's JSON. "
            "A retry returns the result if the rank had finished"
        ) from exc
    try:
        output = json.loads(output_text, parse_constant=_no_constant) if output_text.strip() else None
        _check_storable(output)
    except (ValueError, RecursionError) as exc:
        if report.exit_code == 0:
            raise ResultNotJson(
                f"$RANKVOL_RESULT is not JSON ({exc}); found {output_text[:200]!r}, expected one JSON value. "
                "Write it with json.dump or jq",
                report,
            ) from exc
        output = None
    return replace(report, output=output)


def _report(data: dict[str, Any]) -> Report:
    return Report(
        exit_code=int(data["exit_code"]),
        phase=data.get("phase", ""),
        log_tail=_text(data, "log_tail_b64"),
        error=_text(data, "error_b64"),
        attached_at=data.get("attached_at", ""),
        started_at=data.get("started_at", ""),
        finished_at=data.get("finished_at", ""),
        reused=bool(data.get("reused", False)),
        collected=tuple(data.get("collected", ())),
        missing=tuple(data.get("missing", ())),
        copied=int(data.get("copied", 0)),
    )


def result_of(work: Work, node: Node, observation: Observation, report: Report | None) -> RankResult:
    """Put a node's report and the observed times together into the rank's result."""
    first = observation.volume(work.volume_ids[0]) if work.volume_ids else None
    report = report or Report(exit_code=-1, phase="lost")
    events = {
        "create": to_iso(first.created_at) if first else "",
        "launch": to_iso(node.created_at),
        "attach": report.attached_at,
        "run": report.started_at,
        "finish": report.finished_at,
    }
    return RankResult(
        rank=work.rank,
        exit_code=report.exit_code if report.phase != "lost" else None,
        output=report.output,
        log_tail=report.log_tail,
        volumes=work.slots[0].volumes if work.rank >= 0 else (),
        node_id=node.id,
        attempt=work.attempt,
        started_at=report.started_at,
        finished_at=report.finished_at,
        reused=report.reused,
        events=events,
    )

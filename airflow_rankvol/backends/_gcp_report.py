"""What an instance reports: guest attributes, and serial port 1.

A node writes its report to both (engine/platform_gce.sh). Guest attributes stay when it has stopped; serial port output
can be had "only while the VM instance is running" (gce/troubleshooting/viewing-serial-port-output), so who follows a
node's log remembers the report that it saw there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_rankvol.backends._console import REPORT_MARK, log_of, report_of
from airflow_rankvol.backends._gcp_errors import code
from airflow_rankvol.errors import BackendError

if TYPE_CHECKING:
    from airflow_rankvol.backends._gcp_calls import Gce

#: The guest attributes' namespace.
NAMESPACE = "rankvol"
# What a node printed, on its console. The guest agent marks what a script prints, where there is no console.
_PRINTED = re.compile(r"RANKVOL-LOG (.*)")
# There is nothing, the instance has stopped, or an organisation has forbidden guest attributes.
_NOTHING = frozenset({"notFound", "resourceNotReady", "conditionNotMet"})


@dataclass(frozen=True, slots=True)
class Lines:
    """New lines of a node's log.

    Args:
        next: where to go on reading.
        report: the node's report, where it was among them.
    """

    lines: tuple[str, ...]
    next: int
    report: str | None = None


class Reports:
    """Reads what nodes report. A node's ``place`` is its path in the project: ``zones/ZONE/instances/NAME``."""

    def __init__(self, gce: Gce) -> None:
        self._gce = gce

    def report(self, place: str) -> str | None:
        """Return a node's JSON report, from its guest attributes or else from its serial port; None without one."""
        found = self._find(f"{place}/getGuestAttributes", place, queryPath=f"{NAMESPACE}/")
        items = (found.get("queryValue") or {}).get("items") or ()
        report = report_of("\n".join(str(item.get("value", "")) for item in items))
        return report or report_of(self.console(place))

    def console(self, place: str) -> str:
        """Return what serial port 1 still has of a node that runs, at most 1 MB; empty when there is none."""
        return str(self._serial(place, 0).get("contents", ""))

    def log(self, place: str) -> str:
        """Return what a node's job printed, as far as serial port 1 has it; before that, what the system did."""
        console = self.console(place)
        return "\n".join(_printed(console)) or log_of(console)

    def new_lines(self, place: str, start: int = 0) -> Lines:
        """Return the whole lines that a node's job printed since a position of serial port 1.

        Args:
            start: 0, or ``next`` of what was read last.
        """
        found = self._serial(place, start)
        text = str(found.get("contents", ""))
        begin, end = int(found.get("start", start)), int(found.get("next", start))
        rest = text.rpartition("\n")[2]
        # Bytes that are no UTF-8 count for more here; then a bit is read twice, and nothing is passed over.
        position = max(begin, end - len(rest.encode())) if text else end
        lines = _printed(text[: len(text) - len(rest)])
        if begin > start:
            lines.insert(0, f"rankvol: {begin - start} bytes were overwritten before they were read")
        # Its copies may lie on both sides of that position.
        report = report_of(text) or report_of(self.console(place)) if REPORT_MARK in text else None
        return Lines(tuple(lines), position, report)

    def _serial(self, place: str, start: int) -> dict[str, Any]:
        return self._find(f"{place}/serialPort", place, port=1, start=start)

    def _find(self, path: str, place: str, **query: Any) -> dict[str, Any]:
        try:
            return self._gce.call("GET", path, "read_report", place.rpartition("/")[2], **query)
        except BackendError as exc:
            if code(exc) not in _NOTHING:
                raise
            return {}


def _printed(console: str) -> list[str]:
    return [found[1].rstrip("\r") for found in _PRINTED.finditer(console)]

"""What ``rankvol ls``, ``rankvol reap`` and the reaper's operator share: where to look, verdicts, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_rankvol.backends.base import Backend, Selector
from airflow_rankvol.engine.reap import Finding, ReapRules, RunStateOf, reap, survey
from airflow_rankvol.errors import RankVolError
from airflow_rankvol.hooks import DEFAULT_CONN_ID, get_backend, get_owner
from airflow_rankvol.records import Volume
from airflow_rankvol.spec.sizes import format_size

#: The columns of what is reaped, as tables show it.
REAP_COLUMNS = ("kind", "name", "dag", "run", "group", "rank", "run_state", "action", "reason")


@dataclass(frozen=True)
class Place:
    """One connection: where to look, and for whose resources."""

    conn_id: str
    backend: Backend
    selector: Selector


@dataclass
class Survey:
    """What was found in one place; ``gone`` and ``problems`` are filled when it is reaped."""

    place: Place
    findings: list[Finding]
    reaped: bool = False
    problems: dict[str, str] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()

    @property
    def doomed(self) -> list[Finding]:
        """What goes."""
        return [finding for finding in self.findings if finding.remove]

    def reap(self, state_of: RunStateOf) -> None:
        """Remove what goes; what could not be removed is in ``problems``."""
        try:
            gone, self.problems = reap(self.place.backend, self.place.selector, self.findings, state_of)
        except (RankVolError, OSError) as exc:
            # How far it came is not known: nothing is claimed to be gone.
            self.problems = {finding.resource.label: f"{exc}" for finding in self.doomed}
            raise
        self.gone = frozenset(gone)
        self.reaped = True

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every finding as a plain row."""
        for finding in self.findings:
            yield {"conn_id": self.place.conn_id, **_row(finding), **self._verdict(finding)}

    def _verdict(self, finding: Finding) -> dict[str, str]:
        if not finding.remove:
            return {"action": "keep", "reason": finding.reason}
        problem = self.problems.get(finding.resource.label)
        if problem:
            return {"action": "failed", "reason": problem}
        if not self.reaped:
            return {"action": "remove", "reason": finding.reason}
        if finding.resource.name in self.gone or finding.resource.label in self.gone:
            return {"action": "removed", "reason": finding.reason}
        return {"action": "keep", "reason": "it has changed or its rank has finished meanwhile, or its run lives again"}


def configured_conn_ids() -> list[str]:
    """Return ``[rankvol] conn_ids`` of Airflow's configuration."""
    from airflow.configuration import conf

    configured = conf.get("rankvol", "conn_ids", fallback=DEFAULT_CONN_ID) or DEFAULT_CONN_ID
    return [part.strip() for part in configured.split(",") if part.strip()]


def place_of(conn_id: str, *, owner: str | None = None, dag: str | None = None, run: str | None = None) -> Place:
    """Return where a connection leads, and whose resources are looked for there.

    Raises:
        ConfigError: the connection does not exist or is wrong, or no owner is set.
    """
    backend = get_backend(conn_id)
    return Place(conn_id, backend, Selector(owner=owner or get_owner(conn_id, backend), dag=dag, run=run))


def look(
    places: Sequence[Place], state_of: RunStateOf, rules: ReapRules, complain: Callable[[str], None]
) -> tuple[list[Survey], bool]:
    """Survey every place; one that fails is named, the others are still looked through. Say whether one failed."""
    surveys, failed = [], False
    for place in places:
        try:
            surveys.append(Survey(place, survey(place.backend, place.selector, state_of, rules)))
        except (RankVolError, OSError) as exc:
            complain(f"{place.conn_id}: {exc}")
            failed = True
    return surveys, failed


def cells(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """Return a row as text for people, who read sizes better with a unit."""
    size = row["size_gib"]
    texts = {**row, "size": None if size is None else format_size(size)}
    return {name: "-" if texts[name] is None else str(texts[name]) for name in columns}


def table_columns(surveys: Sequence[Survey], columns: Sequence[str]) -> Sequence[str]:
    """Return the columns of a table; the connection is one where there are several."""
    return ("conn_id", *columns) if len(surveys) > 1 else columns


def _row(finding: Finding) -> dict[str, Any]:
    resource, tags = finding.resource, finding.tags
    return {
        "kind": finding.kind,
        "name": resource.name,
        "id": resource.id,
        "dag": tags.dag,
        "run": tags.run,
        "group": tags.group,
        "rank": tags.rank if tags.rank >= 0 else None,
        "state": str(resource.state),
        "size_gib": resource.size_gib if isinstance(resource, Volume) else None,
        "scope": tags.scope,
        "reclaim": tags.reclaim if isinstance(resource, Volume) else None,
        "expiry": tags.expiry or None,
        "run_state": str(finding.run_state),
    }

"""``rankvol ls`` and ``rankvol reap``: the verdict on every volume and node of ours, and its execution."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TextIO

from airflow_rankvol._cli_airflow import AirflowDatabase
from airflow_rankvol._cli_output import Exit, note, render
from airflow_rankvol.backends.base import Backend, Selector
from airflow_rankvol.engine.reap import Finding, ReapRules, RunState, RunStateOf, reap, survey
from airflow_rankvol.errors import ConfigError, RankVolError
from airflow_rankvol.hooks import DEFAULT_CONN_ID, get_backend, get_owner
from airflow_rankvol.records import Volume
from airflow_rankvol.spec.sizes import format_size

# The columns of the tables; JSON and YAML have every field.
_LS_COLUMNS = (
    "kind", "name", "id", "dag", "run", "group", "rank", "state", "size", "scope", "reclaim", "expiry",
    "run_state", "action", "reason",
)  # fmt: skip
_REAP_COLUMNS = ("kind", "name", "dag", "run", "group", "rank", "run_state", "action", "reason")


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
        gone, self.problems = reap(self.place.backend, self.place.selector, self.findings, state_of)
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
        return {"action": "keep", "reason": "its rank has finished meanwhile, or its run lives again"}


def list_resources(args: argparse.Namespace, out: TextIO) -> Exit:
    """Print every volume and node of ours."""
    airflow = AirflowDatabase()
    surveys, failed = _look(_places(args, airflow), airflow.run_state, ReapRules())
    _print(surveys, _LS_COLUMNS, args.output, out, whole=not failed)
    return Exit.FAILED if failed else Exit.OK


def reap_resources(args: argparse.Namespace, out: TextIO) -> Exit:
    """Print what would go and what stays; with ``--yes``, remove it."""
    airflow = AirflowDatabase()
    rules = ReapRules(names=frozenset(args.name), older_than=args.older_than or timedelta())
    surveys, failed = _look(_places(args, airflow), _with_word(airflow, args.run), rules)
    _only_named(surveys, args.name)
    if args.run and args.dag is None:
        _refuse_ambiguous(surveys, airflow, args.run)
    refused = args.yes and _refuse(surveys, args)
    if args.yes:
        outcomes = [_reap_one(found, _with_word(AirflowDatabase(), args.run)) for found in surveys]
        failed = failed or not all(outcomes)
    _print(surveys, _REAP_COLUMNS, args.output, out, whole=not failed)
    left = sum(len(found.doomed) for found in surveys)
    _sum_up(surveys, left, yes=args.yes)
    if failed or refused:
        return Exit.FAILED
    return Exit.TO_REMOVE if left and not args.yes else Exit.OK


def _places(args: argparse.Namespace, airflow: AirflowDatabase) -> list[Place]:
    from airflow.configuration import conf

    configured = conf.get("rankvol", "conn_ids", fallback=DEFAULT_CONN_ID) or DEFAULT_CONN_ID
    conn_ids = args.conn_id or [part.strip() for part in configured.split(",") if part.strip()]
    places = []
    with airflow.connections():
        for conn_id in dict.fromkeys(conn_ids):
            try:
                backend = get_backend(conn_id)
                owner = args.owner or get_owner(conn_id, backend)
            except ConfigError as exc:
                why = airflow.problem
                hint = f" (Airflow's database could not be asked for it: {why})" if why else ""
                raise ConfigError(f"{exc}{hint}") from exc
            places.append(Place(conn_id, backend, Selector(owner=owner, dag=args.dag, run=args.run)))
    return places


def _look(places: Sequence[Place], state_of: RunStateOf, rules: ReapRules) -> tuple[list[Survey], bool]:
    """Survey every place; one that fails is named, and the others are still looked through."""
    surveys, failed = [], False
    for place in places:
        try:
            surveys.append(Survey(place, survey(place.backend, place.selector, state_of, rules)))
        except (RankVolError, OSError) as exc:
            note(f"error: {place.conn_id}: {exc}")
            failed = True
    return surveys, failed


def _with_word(airflow: AirflowDatabase, run_id: str | None) -> RunStateOf:
    """Return how a run's state is told: the run that the user names, unknown to Airflow, counts as ended."""

    def state(dag: str, run: str) -> RunState:
        known = airflow.run_state(dag, run)
        return RunState.ENDED if known is RunState.UNKNOWN and run == run_id else known

    return state


def _refuse_ambiguous(surveys: Sequence[Survey], airflow: AirflowDatabase, run_id: str) -> None:
    """Raise where the user's word would cover several DAGs' runs: one schedule gives them all the same id."""
    dags = {
        finding.tags.dag
        for found in surveys
        for finding in found.findings
        if airflow.run_state(finding.tags.dag, finding.tags.run) is RunState.UNKNOWN
    }
    if len(dags) > 1:
        raise ConfigError(
            f"--run {run_id}: Airflow does not know it, and {', '.join(sorted(dags))} each have a run "
            "of that id; say with --dag which of them has ended. Nothing was removed"
        )


def _refuse(surveys: Sequence[Survey], args: argparse.Namespace) -> bool:
    """Say what the user asked for by name that stays all the same; True when there is any."""
    stay = [finding for found in surveys for finding in found.findings if not finding.remove]
    live = {finding.tags.dag for finding in stay if finding.run_state is RunState.LIVE} if args.run else set()
    named = stay if args.name else []
    for dag in sorted(live):
        note(f"error: run {args.run} of DAG {dag} lives; nothing of it is removed. Stop the run first")
    for finding in named:
        note(f"error: {finding.resource.label} stays: {finding.reason}")
    return bool(live or named)


def _only_named(surveys: Sequence[Survey], names: Sequence[str]) -> None:
    if not names:
        return
    for found in surveys:
        found.findings = [finding for finding in found.findings if finding.resource.name in names]
    present = {finding.resource.name for found in surveys for finding in found.findings}
    for name in names:
        if name not in present:
            note(f"nothing of ours is named {name!r}; --name takes exact names, as `rankvol ls` shows them")


def _reap_one(found: Survey, state_of: RunStateOf) -> bool:
    """Remove what goes in one place; False when something of it stayed."""
    try:
        found.reap(state_of)
    except (RankVolError, OSError) as exc:
        # How far it came is not known: nothing is claimed to be gone.
        found.problems = {finding.resource.label: f"{exc}" for finding in found.doomed}
        note(f"error: {found.place.conn_id}: {exc}")
        return False
    return not found.problems


def _print(surveys: Sequence[Survey], columns: Sequence[str], output: str, out: TextIO, *, whole: bool) -> None:
    """Print every finding; ``none`` only when the whole was seen and there is nothing."""
    rows = [row for found in surveys for row in found.rows()]
    if output != "table":
        out.write(render(rows, output) + "\n")
    elif rows:
        shown = ("conn_id", *columns) if len(surveys) > 1 else columns
        out.write(render([_cells(row, shown) for row in rows], output) + "\n")
    elif whole:
        out.write("none\n")


def _sum_up(surveys: Sequence[Survey], left: int, *, yes: bool) -> None:
    stay = sum(len(found.findings) for found in surveys) - left
    if not yes:
        note(f"{left} to remove, {stay} stay" + ("; add --yes to remove" if left else ""))
        return
    failed = sum(len(found.problems) for found in surveys)
    note(f"{left - failed} removed, {failed} could not be removed, {stay} stay")


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


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """Return a row as text for people, who read sizes better with a unit."""
    size = row["size_gib"]
    texts = {**row, "size": None if size is None else format_size(size)}
    return {name: "-" if texts[name] is None else str(texts[name]) for name in columns}

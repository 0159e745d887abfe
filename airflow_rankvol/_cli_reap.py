"""``rankvol ls`` and ``rankvol reap``: the verdict on every volume and node of ours, and its execution."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TextIO

from airflow_rankvol._cli_airflow import AirflowDatabase
from airflow_rankvol._cli_output import Exit, note, render
from airflow_rankvol._reaping import (
    REAP_COLUMNS,
    Place,
    Survey,
    cells,
    configured_conn_ids,
    look,
    place_of,
    table_columns,
)
from airflow_rankvol.engine.reap import ReapRules, RunState, RunStateOf
from airflow_rankvol.errors import ConfigError, RankVolError
from airflow_rankvol.hooks import DEFAULT_CONN_ID, LOCAL_TYPE, is_defined

# The columns of the table of `ls`; JSON and YAML have every field.
_LS_COLUMNS = (
    "kind", "name", "id", "dag", "run", "group", "rank", "state", "size", "scope", "reclaim", "expiry",
    "run_state", "action", "reason",
)  # fmt: skip


def list_resources(args: argparse.Namespace, out: TextIO) -> Exit:
    """Print every volume and node of ours."""
    airflow = AirflowDatabase()
    surveys, failed = look(places(args, airflow), airflow.run_state, ReapRules(), _complain)
    _print(surveys, _LS_COLUMNS, args.output, out, whole=not failed)
    return Exit.FAILED if failed else Exit.OK


def reap_resources(args: argparse.Namespace, out: TextIO) -> Exit:
    """Print what would go and what stays; with ``--yes``, remove it."""
    airflow = AirflowDatabase(needed=not args.without_airflow)
    airflow.demand()
    rules = ReapRules(names=frozenset(args.name), older_than=args.older_than or timedelta())
    state_of = _with_word(airflow, airflow.run_state, args.run)
    surveys, failed = look(places(args, airflow), state_of, rules, _complain)
    airflow.demand()  # it may have failed meanwhile
    _only_named(surveys, args.name)
    if args.run and args.dag is None and not airflow.failure:
        _refuse_ambiguous(surveys, airflow, args.run)
    refused = args.yes and _refuse(surveys, args)
    if args.yes:
        # Whoever has answered has to answer again: only what was condemned without an answer goes without one.
        again = AirflowDatabase(needed=not airflow.failure)
        state_of = _with_word(again, again.ask, args.run)
        outcomes = [_reap_one(found, state_of) for found in surveys]
        failed = failed or not all(outcomes)
    _print(surveys, REAP_COLUMNS, args.output, out, whole=not failed)
    left = sum(len(found.doomed) for found in surveys)
    _sum_up(surveys, left, yes=args.yes)
    if failed or refused:
        return Exit.FAILED
    return Exit.TO_REMOVE if left and not args.yes else Exit.OK


def places(args: argparse.Namespace, airflow: AirflowDatabase) -> list[Place]:
    """Return where the arguments say to look.

    Raises:
        ConfigError: a connection does not exist or is wrong, or no owner is set.
    """
    conn_ids = args.conn_id or configured_conn_ids()
    found = []
    with airflow.connections():
        for conn_id in dict.fromkeys(conn_ids):
            try:
                _check_known(conn_id, airflow)
                found.append(place_of(conn_id, owner=args.owner, dag=args.dag, run=args.run))
            except ConfigError as exc:
                why = airflow.problem
                hint = f" (Airflow's database could not be asked for it: {why})" if why else ""
                raise ConfigError(f"{exc}{hint}") from exc
    return found


def _check_known(conn_id: str, airflow: AirflowDatabase) -> None:
    """Raise ConfigError where the default connection may be defined in a database that does not answer."""
    if airflow.failure and conn_id == DEFAULT_CONN_ID and not is_defined(conn_id):
        raise ConfigError(
            f"connection {conn_id!r} is not defined here, and may be in Airflow's database. To look at this machine's "
            f'own volumes, define it as AIRFLOW_CONN_{conn_id.upper()}=\'{{"conn_type": "{LOCAL_TYPE}"}}\''
        )


def _complain(what: str) -> None:
    note(f"error: {what}")


def _with_word(airflow: AirflowDatabase, ask: RunStateOf, run_id: str | None) -> RunStateOf:
    """Return how a run's state is told: the run that the user names, unknown to Airflow, counts as ended.

    A database that does not answer has not said that it does not know the run.
    """

    def state(dag: str, run: str) -> RunState:
        known = ask(dag, run)
        taken = known is RunState.UNKNOWN and run == run_id and not airflow.failure
        return RunState.ENDED if taken else known

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
        _complain(f"{found.place.conn_id}: {exc}")
        return False
    return not found.problems


def _print(surveys: Sequence[Survey], columns: Sequence[str], output: str, out: TextIO, *, whole: bool) -> None:
    """Print every finding; ``none`` only when the whole was seen and there is nothing."""
    rows = [row for found in surveys for row in found.rows()]
    if output != "table":
        out.write(render(rows, output) + "\n")
    elif rows:
        shown = table_columns(surveys, columns)
        out.write(render([cells(row, shown) for row in rows], output) + "\n")
    elif whole:
        out.write("none\n")


def _sum_up(surveys: Sequence[Survey], left: int, *, yes: bool) -> None:
    actions = Counter(row["action"] for found in surveys for row in found.rows())
    if not yes:
        note(f"{left} to remove, {actions['keep']} stay" + ("; add --yes to remove" if left else ""))
        return
    note(f"{actions['removed']} removed, {actions['failed']} could not be removed, {actions['keep']} stay")

"""The ``rankvol`` command: plan a job, list what is there, remove what runs left behind."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, TextIO

from airflow_rankvol import __version__
from airflow_rankvol.errors import ConfigError, RankVolError


class Exit(IntEnum):
    """What the command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    TO_REMOVE = 3


_EPILOG = """exit codes: 0 done, or nothing left to remove; 1 something could not be removed, or a backend
failed; 2 wrong usage, configuration or job; 3 there is something to remove (reap without --yes)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    out = sys.stdout
    # Airflow, plugins and DAG files write to stdout as they like; the answer alone belongs there.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            _quiet_airflow()
            return int(_COMMANDS[args.command](args, out))
        except ConfigError as exc:
            return _complain(exc, Exit.USAGE)
        except (RankVolError, OSError) as exc:
            return _complain(exc, Exit.FAILED)


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
    print(f"rankvol: {message}", file=sys.stderr)


def _plan(args: argparse.Namespace, out: TextIO) -> Exit:
    from airflow_rankvol._cli_plan import plan_rows, plans_of

    plans = plans_of(args)
    if args.output == "table":
        print("\n\n".join(plan.describe() for plan in plans), file=out)
    else:
        print(render([plan_rows(plan) for plan in plans], args.output), file=out)
    return Exit.OK


def _list(args: argparse.Namespace, out: TextIO) -> Exit:
    from airflow_rankvol._cli_reap import list_resources

    return list_resources(args, out)


def _reap(args: argparse.Namespace, out: TextIO) -> Exit:
    from airflow_rankvol._cli_reap import reap_resources

    return reap_resources(args, out)


_COMMANDS = {"plan": _plan, "ls": _list, "reap": _reap}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rankvol", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"rankvol {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_plan(commands.add_parser("plan", help="print the plan of a job; touches nothing"))
    listing = commands.add_parser("ls", help="list every volume and node of ours")
    _add_selection(listing)
    text = "list what runs left behind and what stays; remove it with --yes"
    reaping = commands.add_parser("reap", help=text, description=text, epilog=_EPILOG)
    _add_selection(reaping)
    reaping.add_argument("--yes", action="store_true", help="remove it; without this, reap only lists")
    reaping.add_argument(
        "--name", action="append", default=[], metavar="NAME",
        help="only this, by its exact name, whatever its scope and policy; repeatable",
    )  # fmt: skip
    reaping.add_argument(
        "--older-than", type=_duration, metavar="DURATION", help="leave what is younger, such as 2h or 1d12h"
    )
    return parser


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="DAG_FILE|JOB_YAML", help="a DAG file, or a RankJob as YAML"
    )
    parser.add_argument("--dag-id", help="of a DAG file: only this DAG; of a YAML file: the DAG's name")
    parser.add_argument("--group", help="of a DAG file: only this group; of a YAML file: the group's name")
    parser.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="value of a DAG's Param; repeatable"
    )
    parser.add_argument("--nodes", help="number of ranks, instead of what the job says")
    parser.add_argument(
        "--run-id", default="sample_run", help="the run; names depend on it (default: %(default)s)"
    )
    _add_output(parser)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--conn-id", action="append", default=[], metavar="ID",
        help="where to look; repeatable (default: [rankvol] conn_ids of Airflow's configuration)",
    )  # fmt: skip
    parser.add_argument("--dag", metavar="DAG_ID", help="only what belongs to this DAG")
    parser.add_argument("--run", metavar="RUN_ID", help="only what belongs to this run")
    parser.add_argument("--owner", help="look for this owner's resources instead of our own")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")


def _duration(text: str) -> Any:
    from airflow_rankvol.spec.sizes import parse_duration

    try:
        return parse_duration(text)
    except ConfigError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _quiet_airflow() -> None:
    """Import Airflow here, where a broken configuration can be explained, and keep its chatter down."""
    import logging

    try:
        import airflow.settings  # noqa: F401 - its import is what reads the configuration
    except Exception as exc:
        what = f"{type(exc).__name__}: {exc}"
        raise ConfigError(f"Airflow does not start here ({what}); check its configuration") from exc
    for name in ("airflow", "alembic", "airflow_rankvol"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _complain(exc: Exception, code: Exit) -> int:
    note(f"error: {exc}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

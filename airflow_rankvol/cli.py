"""The ``rankvol`` command: plan a job, list what is there, remove what runs left behind."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from airflow_rankvol import __version__
from airflow_rankvol._cli_output import Exit, note, render
from airflow_rankvol.errors import ConfigError, RankVolError

_EPILOG = """exit codes: 0 done, or nothing left to remove; 1 something could not be removed, or a backend
failed; 2 wrong usage, configuration or job; 3 there is something to remove (reap without --yes)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    out = sys.stdout
    # Airflow, plugins and DAG files write to stdout as they like; the answer alone belongs there.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            with _quiet_airflow():
                return int(_COMMANDS[args.command](args, out))
        except ConfigError as exc:
            return _complain(exc, Exit.USAGE)
        except (RankVolError, OSError) as exc:
            return _complain(exc, Exit.FAILED)


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
    parser.add_argument("file", type=Path, metavar="DAG_FILE|JOB_YAML", help="a DAG file, or a RankJob as YAML")
    parser.add_argument("--dag-id", help="of a DAG file: only this DAG; of a YAML file: the DAG's name")
    parser.add_argument("--group", help="of a DAG file: only this group; of a YAML file: the group's name")
    parser.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="value of a DAG's Param; repeatable"
    )
    parser.add_argument("--nodes", help="number of ranks, instead of what the job says")
    parser.add_argument("--run-id", default="sample_run", help="the run; names depend on it (default: %(default)s)")
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


@contextlib.contextmanager
def _quiet_airflow() -> Iterator[None]:
    """Import Airflow where a broken configuration can be explained, and keep its chatter down meanwhile."""
    import logging

    try:
        import airflow.settings  # noqa: F401 - its import is what reads the configuration
    except Exception as exc:
        what = f"{type(exc).__name__}: {exc}"
        raise ConfigError(f"Airflow does not start here ({what}); check its configuration") from exc
    levels = {
        "airflow": logging.ERROR,
        # Why a DAG file cannot be imported is said once, by the command itself.
        "airflow.dag_processing.importers": logging.CRITICAL,
        "airflow_rankvol": logging.ERROR,
        "alembic": logging.ERROR,
    }
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    try:
        for logger, level in loggers.items():
            logger.setLevel(level)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def _complain(exc: Exception, code: Exit) -> int:
    note(f"error: {exc}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

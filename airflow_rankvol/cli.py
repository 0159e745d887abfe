"""What the commands of ``rankvol`` and ``airflow rankvol`` do; ``_cli_commands`` says which there are."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from airflow_rankvol import __version__
from airflow_rankvol._cli_commands import DESCRIPTION, EPILOG, add_commands
from airflow_rankvol._cli_output import Exit, note, render
from airflow_rankvol.errors import ConfigError, RankVolError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    return run(args.command, args)


def run(name: str, args: argparse.Namespace) -> int:
    """Run a command whose arguments have been read; return its exit code."""
    out = sys.stdout
    # Airflow, plugins and DAG files write to stdout as they like; the answer alone belongs there.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            with _quiet_airflow():
                return int(_FUNCTIONS[name](args, out))
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


def _cost(args: argparse.Namespace, out: TextIO) -> Exit:
    from airflow_rankvol._cli_cost import show_cost

    return show_cost(args, out)


_FUNCTIONS = {"plan": _plan, "ls": _list, "reap": _reap, "cost": _cost}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rankvol", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"rankvol {__version__}")
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    return parser


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

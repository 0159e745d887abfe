"""The commands of ``rankvol`` and ``airflow rankvol`` with their arguments: one definition for both.

Airflow imports this for every ``airflow …`` command, so nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_rankvol.errors import ConfigError

if TYPE_CHECKING:
    from airflow.cli.cli_config import ActionCommand, GroupCommand

DESCRIPTION = "Plan rank jobs, list their volumes and nodes, say what they cost, remove what runs left behind."
EPILOG = """exit codes: 0 done, or nothing left to remove; 1 something could not be removed, or a backend or
Airflow's database failed; 2 wrong usage, configuration or job; 3 there is something to remove (reap without --yes)"""


@dataclass(frozen=True)
class Argument:
    """One argument: its flags, and the keywords of argparse's ``add_argument`` (Airflow's ``Arg`` takes the same)."""

    flags: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Command:
    """One command; ``name`` is also the key of the function that runs it."""

    name: str
    help: str
    arguments: tuple[Argument, ...]


def _duration(text: str) -> Any:
    from airflow_rankvol.spec.sizes import parse_duration

    try:
        return parse_duration(text)
    except ConfigError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _argument(*flags: str, **options: Any) -> Argument:
    return Argument(flags, options)


_OUTPUT = _argument(
    "-o", "--output", choices=("table", "json", "yaml"), default="table", help="form of the answer (default: table)"
)

_SELECTION = (
    _argument(
        "--conn-id", action="append", default=[], metavar="ID",
        # No brackets: `airflow … --help` takes them for markup.
        help="where to look; repeatable (default: conn_ids in section rankvol of Airflow's configuration)",
    ),
    _argument("--dag", metavar="DAG_ID", help="only what belongs to this DAG"),
    _argument("--run", metavar="RUN_ID", help="only what belongs to this run"),
    _argument("--owner", help="look for this owner's resources instead of our own"),
    _OUTPUT,
)  # fmt: skip

COMMANDS = (
    Command(
        "plan",
        "print the plan of a job; touches nothing",
        (
            _argument("file", type=Path, metavar="DAG_FILE|JOB_YAML", help="a DAG file, or a RankJob as YAML"),
            _argument("--dag-id", help="of a DAG file: only this DAG; of a YAML file: the DAG's name"),
            _argument("--group", help="of a DAG file: only this group; of a YAML file: the group's name"),
            _argument(
                "--param", action="append", default=[], metavar="KEY=VALUE",
                help="value of a DAG's Param; repeatable",
            ),
            _argument("--nodes", help="number of ranks, instead of what the job says"),
            _argument(
                "--run-id", default="sample_run", help="the run; names depend on it (default: %(default)s)"
            ),
            _OUTPUT,
        ),
    ),
    Command("ls", "list every volume and node of ours", _SELECTION),
    Command(
        "cost",
        "say what the volumes that are there have cost so far: GiB-hours, and USD where the price is known",
        (
            *_SELECTION,
            _argument(
                "--by", choices=("volume", "group", "run", "dag"), default="group",
                help="one row for each of these (default: %(default)s)",
            ),
        ),
    ),
    Command(
        "reap",
        "list what runs left behind and what stays; remove it with --yes",
        (
            *_SELECTION,
            _argument("--yes", action="store_true", help="remove it; without this, reap only lists"),
            _argument(
                "--name", action="append", default=[], metavar="NAME",
                help="only this, by its exact name, whatever its scope and policy; repeatable",
            ),
            _argument(
                "--older-than", type=_duration, metavar="DURATION", help="leave what is younger, such as 2h or 1d12h"
            ),
            _argument(
                "--without-airflow", action="store_true",
                help="go on where Airflow's database does not answer: runs count as unknown, their expiry alone counts",
            ),
        ),
    ),
)  # fmt: skip


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add every command to the parser of ``rankvol``."""
    for command in COMMANDS:
        text = command.help
        parser = commands.add_parser(command.name, help=text, description=text, epilog=EPILOG)
        for argument in command.arguments:
            parser.add_argument(*argument.flags, **argument.options)


def get_cli_commands() -> list[ActionCommand | GroupCommand]:
    """Return ``airflow rankvol …``, as the provider's ``cli`` key promises to Airflow."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    actions = [
        ActionCommand(
            name=command.name,
            help=command.help,
            func=partial(_run_in_airflow, command.name),
            args=[Arg(argument.flags, **argument.options) for argument in command.arguments],
            epilog=EPILOG,
        )
        for command in COMMANDS
    ]
    return [
        GroupCommand(
            name="rankvol", help="Rank volumes: plan, list, cost, reap", description=DESCRIPTION, subcommands=actions
        )
    ]


def _run_in_airflow(name: str, args: argparse.Namespace) -> None:
    """Run a command; ``airflow`` itself ends with 0 whatever a command returns, so the code is raised."""
    from airflow_rankvol.cli import run

    sys.exit(run(name, args))

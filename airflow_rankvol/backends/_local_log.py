"""What a node on this machine printed: its console is a file."""

from __future__ import annotations

from pathlib import Path

from airflow_rankvol.backends.base import LogPart

#: As much is read at a time, in bytes.
READ_MAX = 65_536


def read_part(folder: Path, position: int) -> LogPart:
    """Return lines of a node's console from a position in bytes on; nothing where there is no such node.

    Args:
        folder: the node's.
    """
    # Asked first: the console of a node that has reported grows no more.
    ended = (folder / "report.json").exists()
    try:
        with (folder / "console.log").open("rb") as console:
            console.seek(position)
            found = console.read(READ_MAX)
    except FileNotFoundError:
        return LogPart(next=position)
    full = len(found) == READ_MAX
    whole = found.rfind(b"\n") + 1
    # What is longer than all that is read at a time is cut; so is the last line, which nobody goes on with.
    taken = found if (ended and not full) or (full and not whole) else found[:whole]
    lines = taken.decode(errors="replace").splitlines()
    return LogPart(tuple(lines), position + len(taken), more=full)

"""``python -m tests.clouds.aws.crash.nursery URL [--real]``: does ways in child processes, one after the other.

Each line that it reads is the path of a journal; it answers with the pid of the child that goes on from there, and with
the child's wait status once that has ended. What takes long, the imports and the clients, is done before the fork.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.clouds.aws.client import Double
from tests.clouds.aws.crash.way import Journal, OnlyClock, Way, clients_of


def main() -> None:
    """Serve until the input ends."""
    double = Double(Path("unused"))
    double.url = sys.argv[1]
    clients = clients_of(double, OnlyClock(double))
    clients.get("ec2"), clients.get("ssm")
    made = clients._clients  # no connection is open yet, so the children may have them
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            _child(double, Path(line.strip()), made)
        _say(pid)
        _say(os.waitpid(pid, 0)[1])


def _child(double: Double, journal: Path, made: dict[str, Any]) -> None:
    status = 1
    try:
        Way(double, Journal(journal), made, "--real" in sys.argv).go()
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the child ends here, and the test sees it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _say(number: int) -> None:
    sys.stdout.write(f"RANKVOL {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

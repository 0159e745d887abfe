"""``python -m tests.clouds.common.crash.nursery GROUND URL [--real]``: does ways in child processes, one by one.

Each line that it reads is the path of a journal; it answers with the pid of the child that goes on from there, and with
the child's wait status once that has ended. What takes long, the imports and the clients, is done before the fork.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from tests.clouds.common.client import Process
from tests.clouds.common.crash.ground import Ground
from tests.clouds.common.crash.way import Journal, Way


def main() -> None:
    """Serve until the input ends."""
    ground: Ground = importlib.import_module(sys.argv[1]).GROUND
    double = ground.double(Path("unused"))
    double.url = sys.argv[2]
    ground.warm(double)
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            _child(ground, double, Path(line.strip()))
        _say(pid)
        _say(os.waitpid(pid, 0)[1])


def _child(ground: Ground, double: Process, journal: Path) -> None:
    status = 1
    try:
        Way(ground, double, Journal(journal), "--real" in sys.argv).go()
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

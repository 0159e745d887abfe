"""The process of a double: serve until SIGTERM, then leave nothing behind."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.clouds.common.clock import Agenda
from tests.clouds.common.http import Server, WsgiApp


def arguments(package: str) -> argparse.Namespace:
    """Return what the process was started with."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}")
    parser.add_argument("--state-dir", type=Path, required=True, help="a directory that the double may fill and empty")
    parser.add_argument("--host", default="127.0.0.1", help="in a container of its own, 0.0.0.0")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--nodes", action="store_true", help="let instances really run")
    return parser.parse_args()


def stop_signal() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def serve(
    app: WsgiApp,
    agenda: Agenda,
    stop: threading.Event,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    listening: Callable[[int], None],
    ending: Callable[[], None],
) -> None:
    """Serve, and print the endpoint as this machine reaches it, until the event is set.

    Args:
        listening: is told the port before the first request.
        ending: ends what hangs and what runs, when no new request is taken any more.
    """
    server = Server((host, port), app)
    port = server.server_address[1]
    listening(port)
    try:
        threading.Thread(target=agenda.run, daemon=True, name="agenda").start()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="http").start()
        sys.stdout.write(f"http://127.0.0.1:{port}\n")
        sys.stdout.flush()
        stop.wait()
    finally:
        server.shutdown()
        server.server_close()
        ending()
        agenda.close()

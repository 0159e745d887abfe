"""``python -m tests.clouds.aws``: serve until SIGTERM, then leave nothing behind."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path


def _environment() -> None:
    """Set what moto reads when it is imported."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "testing")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.clouds.aws")
    parser.add_argument("--state-dir", type=Path, required=True, help="a directory that the double may fill and empty")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--nodes", action="store_true", help="let instances really run")
    return parser.parse_args()


def main() -> None:
    """Serve."""
    args = _arguments()
    _environment()

    from tests.clouds.aws.app import App
    from tests.clouds.aws.ec2 import Ec2
    from tests.clouds.aws.http import Server
    from tests.clouds.aws.nodes import Nodes
    from tests.clouds.aws.world import World

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    world = World()
    if args.nodes:
        from tests.clouds.aws.real import RealNodes

        nodes: Nodes = RealNodes(world, args.state_dir)
    else:
        nodes = Nodes(world)
    app = App(Ec2(world, nodes))
    app.ec2.catalog.zones()  # moto loads its images now, and not within somebody's first call
    server = Server(("127.0.0.1", args.port), app)
    nodes.port = server.server_address[1]
    try:
        threading.Thread(target=world.agenda.run, daemon=True, name="agenda").start()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="http").start()
        sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
        sys.stdout.flush()
        stop.wait()
    finally:
        server.shutdown()
        server.server_close()
        app.faults.clear()
        nodes.close()
        world.agenda.close()


if __name__ == "__main__":
    main()

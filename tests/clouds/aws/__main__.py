"""``python -m tests.clouds.aws``: serve until SIGTERM, then leave nothing behind."""

from __future__ import annotations

import os

from tests.clouds.common.serve import arguments, serve, stop_signal


def _environment() -> None:
    """Set what moto reads when it is imported."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "testing")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")


def main() -> None:
    """Serve."""
    args = arguments("tests.clouds.aws")
    _environment()

    from tests.clouds.aws.app import App
    from tests.clouds.aws.ec2 import Ec2
    from tests.clouds.aws.nodes import Nodes
    from tests.clouds.aws.world import World

    stop = stop_signal()
    world = World()
    if args.nodes:
        from tests.clouds.aws.real import RealNodes

        nodes: Nodes = RealNodes(world, args.state_dir)
    else:
        nodes = Nodes(world)
    app = App(Ec2(world, nodes))
    app.ec2.catalog.zones()  # moto loads its images now, and not within somebody's first call

    def listening(port: int) -> None:
        nodes.port = port

    def ending() -> None:
        app.faults.clear()
        nodes.close()

    serve(app, world.agenda, stop, host=args.host, port=args.port, listening=listening, ending=ending)


if __name__ == "__main__":
    main()

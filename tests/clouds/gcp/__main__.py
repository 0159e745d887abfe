"""``python -m tests.clouds.gcp``: serve until SIGTERM, then leave nothing behind."""

from __future__ import annotations

from tests.clouds.common.serve import arguments, serve, stop_signal


def main() -> None:
    """Serve."""
    args = arguments("tests.clouds.gcp")

    from tests.clouds.gcp.app import App
    from tests.clouds.gcp.gce import Gce
    from tests.clouds.gcp.nodes import Nodes
    from tests.clouds.gcp.world import World

    stop = stop_signal()
    world = World()
    if args.nodes:
        from tests.clouds.gcp.real import RealNodes

        nodes: Nodes = RealNodes(world, args.state_dir)
    else:
        nodes = Nodes(world)
    app = App(Gce(world, nodes))

    def listening(port: int) -> None:
        nodes.port = port

    def ending() -> None:
        app.faults.clear()
        nodes.close()

    serve(app, world.agenda, stop, host=args.host, port=args.port, listening=listening, ending=ending)


if __name__ == "__main__":
    main()

"""Serve the double of AWS with the account that ``flights_on_aws`` asks for, as docker-compose.yaml does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo.on_double import cannot, running_double
from demo.run_demo_aws import Aws
from tests.clouds.common.serve import stop_signal

BUCKET = "my-bucket"  # as the DAG's own params say
READY = "ready"


def main() -> int:
    """Serve; the file ``ready`` in the state directory says that the account is there."""
    parser = argparse.ArgumentParser(prog="serve-aws", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, required=True, help="on a file system that overlays can lie on")
    args = parser.parse_args()
    cloud = Aws(BUCKET, ["--host", args.host, "--port", str(args.port)])
    if reason := cannot(cloud):
        sys.stderr.write(f"The double of AWS cannot run here: {reason}\n")
        return 1
    stop = stop_signal()
    with running_double(cloud, args.state_dir / "double") as double:
        cloud.make_account(double)
        ready = args.state_dir / READY
        ready.touch()
        try:
            sys.stdout.write(f"EC2, EBS, S3, IAM, STS and SSM answer at {double.url}; DAG flights_on_aws can run\n")
            sys.stdout.flush()
            stop.wait()
        finally:
            ready.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())

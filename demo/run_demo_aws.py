"""Run the example DAG ``flights_on_aws`` once, on EBS volumes and EC2 instances of a double: ``make demo-aws``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from demo.on_double import FILES
from demo.on_double import main as run_on
from demo.run_demo import environment
from tests.clouds.aws.client import Double
from tests.clouds.nodes.packages import flights, why_no_aws_cli, why_no_flights

PREFIX = "2013"


class Aws:
    """EC2, EBS and S3.

    Args:
        bucket: where the result goes.
        options: further arguments of the double's process.
    """

    name, title = "aws", "AWS"
    dag, conn_id = "flights_on_aws", "aws_default"
    most_nodes = 26  # the gather node, of type m6i.large or larger, takes so many volumes besides its root's

    def __init__(self, bucket: str = "flights-demo", options: Sequence[str] = ()) -> None:
        self.bucket = bucket
        self.options = options

    def why_not(self) -> str:
        """Return what is missing on this machine, or nothing."""
        return why_no_aws_cli() or why_no_flights()

    def double(self, state: Path) -> AbstractContextManager[Double]:
        """Return the cloud's double, whose nodes really run."""
        return Double(state, nodes=True, options=self.options)

    def make_account(self, double: Double) -> dict[str, Any]:
        """Make a bucket, a profile and an image."""
        double.boto3("s3").create_bucket(Bucket=self.bucket)
        iam = double.boto3("iam")
        trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        iam.create_role(RoleName="flights", AssumeRolePolicyDocument=document)
        iam.create_instance_profile(InstanceProfileName="flights")
        iam.add_role_to_instance_profile(InstanceProfileName="flights", RoleName="flights")
        image = double.boto3("ec2").register_image(Name="flights")["ImageId"]
        double("layers", image=image, layers={place: str(folder) for place, folder in flights().items()})
        double.boto3("ssm").put_parameter(Name="/flights/image", Value=image, Type="String")
        result = f"s3://{self.bucket}/{PREFIX}"
        return {"result": result, "image": "ssm:/flights/image", "instance_profile": "flights"}

    def settings(self, home: Path, double: Double) -> dict[str, str]:
        """Return the settings of an Airflow whose cloud is the double."""
        connection = json.loads(double.env()["AIRFLOW_CONN_AWS_DEFAULT"])
        connection["extra"]["poll_interval"] = 0.5
        return {
            **environment(home, ""),
            **double.env(),
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
            "AIRFLOW__RANKVOL__OWNER": "demo",
        }

    def fetch(self, double: Double, folder: Path) -> None:
        """Download the result."""
        for name in FILES:
            double.boto3("s3").download_file(self.bucket, f"{PREFIX}/{name}", str(folder / name))


def main() -> int:
    """Run the demo."""
    return run_on(Aws())


if __name__ == "__main__":
    sys.exit(main())

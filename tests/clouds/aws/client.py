"""Starting, stopping and steering the double from tests."""

from __future__ import annotations

import json
from typing import Any

from tests.clouds.aws.policy import allowed, needed
from tests.clouds.aws.world import REGION
from tests.clouds.common.client import Process

# What an instance with a profile signs its calls with.
NODE_KEY = "ASIATESTINGTESTING00"
# What the connections of Airflow sign theirs with; tests that call AWS themselves have another key.
AIRFLOW_KEY = "AKIATESTINGAIRFLOW00"


class Double(Process):
    """One process of the double of AWS; control.py lists the verbs that have no method here."""

    package = "tests.clouds.aws"

    def stop(self) -> None:
        """End the process; whatever Airflow's identity has called has to be in the policy that users get.

        Raises:
            AssertionError: docs/aws-policy.json lacks an action.
        """
        called = self.actions(AIRFLOW_KEY) if self.is_up else []
        super().stop()
        lacking = sorted(needed(called) - allowed())
        assert not lacking, f"docs/aws-policy.json lacks {', '.join(lacking)}"

    def actions(self, access_key: str = "testing") -> list[str]:
        """Return every ``service:Action`` that a key has called since the start: a test's, NODE_KEY or AIRFLOW_KEY."""
        found: list[str] = self("actions", access_key=access_key)
        return found

    def connection_extra(self) -> dict[str, Any]:
        """Return the extra of an Airflow connection of type ``aws`` that leads here."""
        return {"region_name": REGION, "endpoint_url": self.url}

    def env(self) -> dict[str, str]:
        """Return the environment of a process whose AWS calls lead here."""
        extra = json.dumps(
            {"conn_type": "aws", "login": AIRFLOW_KEY, "password": "testing", "extra": self.connection_extra()}
        )
        return {
            "AIRFLOW_CONN_AWS_DEFAULT": extra,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def boto3(self, service: str, **config: Any) -> Any:
        """Return a client of boto3's for a service of the double; it does not retry unless told to."""
        import boto3
        from botocore.config import Config

        options = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 64, "read_timeout": 60, **config}
        return boto3.session.Session("testing", "testing", region_name=REGION).client(
            service, endpoint_url=self.url, config=Config(**options)
        )

"""AWS for the crash test of a job with a list of machine types, of which the first is refused once for want of room."""

from __future__ import annotations

from typing import Any

from tests.clouds.aws.crash.ground import AwsGround


class TwoTypesGround(AwsGround):
    """EC2's double, where rank 0 begins with the second type of the list, and the others with the first."""

    machine_type = "m7i.large, m6i.large"

    def strangers(self, double: Any) -> None:
        super().strangers(double)  # they are on the first type
        double("no_capacity", type="m7i.large", times=1)


GROUND = TwoTypesGround()

"""The double's rules about an instance's console (API:GetConsoleOutput)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.clouds.aws.conftest import SETTLED_S

Make = Callable[..., str]


def test_only_the_latest_console_is_that_of_an_instance_that_runs(ec2: Any, double: Any, make_instance: Make) -> None:
    """API:GetConsoleOutput: else it is what was buffered around the last transition."""
    instance_id = make_instance(InstanceInitiatedShutdownBehavior="terminate")
    double("power_off", instance=instance_id, console="so far", keep=True)
    assert "Output" not in ec2.get_console_output(InstanceId=instance_id)
    assert ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"] == "so far"
    double("power_off", instance=instance_id)
    double.advance(SETTLED_S)
    assert ec2.get_console_output(InstanceId=instance_id)["Output"] == "so far"


def test_the_console_is_the_newest_64_kib_and_outlives_the_instance(
    ec2: Any, double: Any, make_instance: Make, refuses: Any
) -> None:
    instance_id = make_instance(InstanceInitiatedShutdownBehavior="terminate")
    assert "Output" not in ec2.get_console_output(InstanceId=instance_id, Latest=True)
    text = "".join(f"line {n}\n" for n in range(10_000))
    double("power_off", instance=instance_id, console=text)
    double.advance(1800)
    assert ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"] == text[-65_536:]
    double.advance(1900)
    with refuses("InvalidInstanceID.NotFound"):
        ec2.get_console_output(InstanceId=instance_id, Latest=True)


def test_the_console_of_a_running_instance_is_read_with_latest_on_nitro_types(
    ec2: Any, double: Any, make_instance: Make, refuses: Any
) -> None:
    double("end_nodes", after_s=3600, console="never")
    instance_id = make_instance()
    double("lose_console", instance=instance_id)
    assert "Output" not in ec2.get_console_output(InstanceId=instance_id, Latest=True)
    with refuses("UnsupportedOperation"):
        ec2.get_console_output(InstanceId=make_instance(InstanceType="m4.large"), Latest=True)

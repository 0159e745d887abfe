"""What tests can turn: how long things take, what the project may, what is throttled."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.clouds.common.knobs import Knobs

#: Of a region, by the metric's name in regions.get; what is not named is not limited.
QUOTAS = {
    "INSTANCES": 10_000.0,
    "CPUS": 100_000.0,
    "DISKS_TOTAL_GB": 1_000_000.0,
    "SSD_TOTAL_GB": 1_000_000.0,
    "HDB_TOTAL_GB": 1_000_000.0,
}
#: Requests a minute for a project and region (quota: 1,500 by default for each group).
RATES = {"mutations": 1500, "reads": 1500, "lists": 1500, "operations": 1500}


@dataclass
class Settings(Knobs):
    """The knobs of the double; all times in seconds of its clock.

    ``operation_start_s`` is how long an operation is PENDING. The other times are those of what it does, from then on.
    ``kill_s`` is what STOPPING takes when the power is cut from outside.
    ``quota_late`` says whether a quota that is used up shows in the operation (seen:GoogleCloudPlatform/ai-on-gke#849)
    or in the answer to the call (seen:openshift-evangelists/openshifter#15): both have been observed.
    ``rate_scale`` multiplies the request quotas; 0 switches them off.
    ``serial_when_stopped``: serial port output can be had "only while the VM instance is running"
    (gce/troubleshooting/viewing-serial-port-output).
    ``attributes_when_stopped``: whether guest attributes can be read then [U].
    ``listed_s``: so long lists lack what was made; none that anybody has seen do, but nobody says that they never will.
    ``operations_kept_s`` is how long operations, and so requestIds, are known [U: some days].
    ``held_wait_s``: so far each zoneOperations.wait moves a clock that a test holds; it answers at once by default.
    """

    operation_start_s: float = 0.01
    create_disk_s: float = 0.03
    delete_disk_s: float = 0.03
    provision_s: float = 0.03
    stage_s: float = 0.03
    stop_s: float = 0.05
    kill_s: float = 0.05
    delete_instance_s: float = 0.02
    attach_s: float = 0.03
    detach_s: float = 0.03
    update_s: float = 0.02
    listed_s: float = 0.0
    spot_notice_s: float = 30.0
    operations_kept_s: float = 14 * 24 * 3600.0
    held_wait_s: float = 0.0
    minute_s: float = 60.0
    node_environment: dict[str, str] = field(default_factory=dict)
    latency_s: dict[str, float] = field(default_factory=dict)
    rate_scale: float = 1.0
    rates: dict[str, int] = field(default_factory=lambda: dict(RATES))
    quotas: dict[str, float] = field(default_factory=lambda: dict(QUOTAS))
    quota_late: bool = True
    serial_when_stopped: bool = False
    attributes_when_stopped: bool = True

"""What tests can turn: how long things take, what the account may, what is throttled."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.clouds.common.knobs import Knobs


@dataclass
class Settings(Knobs):
    """The knobs of the double; all times in seconds of its clock.

    ``visible_s`` is how long a fresh id is unknown to other calls, and for how long after a change Describe shows the
    tags, the state and the attachments of before: EC2 is eventually consistent. Calls that decide go by what is.
    ``terminated_listed_s`` and ``console_kept_s`` are about an hour on EC2; a terminated instance loses its tags
    some time before that (ec2ug/terminating-instances: "tags and volumes are gradually disassociated").
    ``status_check_s`` is how long status checks are initializing once an instance runs; some minutes on EC2.
    ``minute_s`` is how long a minute of ``shutdown -h +MINUTES`` lasts on nodes that really run.
    ``node_environment`` is set for the user data of nodes that really run, so that tests can shorten their pauses.
    ``ssm_agents`` says whether the SSM agents of instances with a profile manage to register.
    ``bucket_scale`` multiplies both capacity and refill of the request buckets; 0 switches them off.
    """

    visible_s: float = 0.02
    create_volume_s: float = 0.03
    delete_volume_s: float = 0.03
    snapshot_s: float = 0.03
    attach_s: float = 0.03
    detach_s: float = 0.03
    launch_s: float = 0.06
    status_check_s: float = 0.1
    stop_s: float = 0.05
    shut_down_s: float = 0.05
    terminated_listed_s: float = 3600.0
    terminated_tags_s: float = 600.0
    token_kept_s: float = 12 * 3600.0
    spot_notice_s: float = 120.0
    minute_s: float = 60.0
    node_environment: dict[str, str] = field(default_factory=dict)
    ssm_agents: bool = True
    bucket_scale: float = 1.0
    latency_s: dict[str, float] = field(default_factory=dict)
    volume_quota: int = 5000
    storage_quota_gib: int = 50 * 1024
    vcpu_quota: int = 100_000
    spot_price_usd: float = 0.05

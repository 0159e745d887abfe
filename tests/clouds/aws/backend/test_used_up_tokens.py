"""Tokens that are used up: EC2 refuses one for half a day once its volume is gone. The next is made all the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends._aws_memory import UNSEEN_S, Memory
from airflow_rankvol.backends._aws_rate import Limiter
from airflow_rankvol.backends._aws_used_up import AGAIN_S
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.base import VolumeRequest
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.creation import request_of
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.teardown import teardown
from airflow_rankvol.engine.work import group_of
from airflow_rankvol.errors import NotReady, RetryableError
from airflow_rankvol.plan import Plan
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import ZONE, DoubleClock, Lab, settings
from tests.unit.engine.engine_kit import a_plan

DELETED = {"size": "1GB", "reclaim": "delete"}


def plan_of(lab: Lab, run: str, ranks: int = 1, **job: Any) -> Plan:
    template = {**DELETED, "scope": "dag", **job.pop("volume_template", {})}
    node = NodeTemplate(machine_type="m7i.large", zones=(ZONE,))
    return a_plan(ranks, owner=lab.owner, run=run, **{"node": node, "gather": [], "volume_template": template, **job})


def request_for(lab: Lab, run: str, generation: int = 1) -> VolumeRequest:
    plan = plan_of(lab, run)
    return request_of(group_of(plan), next(plan.volumes()), ZONE, generation, lab.backend, planned=ZONE)


def wait_until_in_period(lab: Lab, seconds: float) -> None:
    """Let time pass until so long after the beginning of a token's time."""
    lab.settle((seconds - lab.backend.clock.now().timestamp()) % AGAIN_S)


def use_up(lab: Lab) -> None:
    """Do what a run has done whose volume is gone."""
    process = lab.process()
    made = process.create_volume(request_for(lab, "earlier"))
    lab.settle()
    lab.double.boto3("ec2").delete_volume(VolumeId=made.id)
    lab.settle()


def refused(lab: Lab, run: str) -> Any:
    """Return a process that has been told that the token is used up."""
    process = lab.process()
    with pytest.raises(NotReady, match="token was used before"):
        process.create_volume(request_for(lab, run))
    return process


def volumes(lab: Lab) -> set[str]:
    return set(lab.double.state()["volumes"])


@pytest.mark.parametrize("run", ["run-1", "run-2"], ids=["a retry", "another run"])
@pytest.mark.parametrize("unlisted_s", [5, 55])
def test_what_was_made_after_the_token_was_used_up_is_never_made_twice(lab: Lab, run: str, unlisted_s: int) -> None:
    """At no moment of the time in which a token is taken, nor around its end."""
    for into_s in (UNSEEN_S, UNSEEN_S + 30, AGAIN_S - 1):
        lab.double.reset()
        lab.double.freeze()
        use_up(lab)
        first, second = refused(lab, "run-1"), refused(lab, run)
        lab.settle(UNSEEN_S)
        wait_until_in_period(lab, into_s)
        lab.double.settings(visible_s=float(unlisted_s))
        made = first.create_volume(request_for(lab, "run-1"))
        for _ in range(int(AGAIN_S) // 5):
            try:
                found = second.create_volume(request_for(lab, run))
            except NotReady:
                lab.settle(5)
                continue
            assert found.id == made.id
            break
        assert volumes(lab) == {made.id}


def test_a_later_try_takes_no_token_of_its_own_for_what_outlives_runs(lab: Lab) -> None:
    """Another run may just have made the volume under the first: what EC2 refuses then is no volume that is gone."""
    lab.double.settings(visible_s=30.0)
    made = lab.process().create_volume(request_for(lab, "run-1"))
    process, request = lab.process(), request_for(lab, "run-2", generation=2)
    assert patiently(process, process.create_volume, request).id == made.id
    assert volumes(lab) == {made.id}


def test_a_token_that_stays_used_up_is_worth_another_try(lab: Lab) -> None:
    """Somebody made the volume under the next token, too, and deleted it at once."""
    use_up(lab)
    first, second = refused(lab, "run-1"), refused(lab, "run-2")
    lab.settle(UNSEEN_S)
    wait_until_in_period(lab, UNSEEN_S)
    made = first.create_volume(request_for(lab, "run-1"))
    lab.settle()
    lab.double.boto3("ec2").delete_volume(VolumeId=made.id)
    lab.settle()
    with pytest.raises(NotReady, match="token was used before"):
        second.create_volume(request_for(lab, "run-2"))
    wait_until_in_period(lab, UNSEEN_S)
    assert second.create_volume(request_for(lab, "run-2")).id != made.id


def test_who_wants_a_global_volume_at_another_mount_makes_no_second_one(lab: Lab) -> None:
    """The token is the name's, whatever else the jobs that share it look like."""
    lab.double.settings(visible_s=30.0)
    requests = []
    for before in ([], ["scratch-${NODE_RANK}:/scratch"]):
        job: dict[str, Any] = {"volumes": [*before, "data-${NODE_RANK}:/data"], "volume_template": {"scope": "global"}}
        plan = plan_of(lab, f"run-{len(before)}", **job)
        wanted = next(volume for volume in plan.volumes() if volume.name == "data-0")
        requests.append(request_of(group_of(plan), wanted, ZONE, 1, lab.backend, planned=ZONE))
    made = lab.process().create_volume(requests[0])
    with pytest.raises(NotReady):
        lab.process().create_volume(requests[1])
    assert volumes(lab) == {made.id}


@pytest.mark.parametrize("scope", ["dag", "global"])
def test_many_volumes_wait_at_the_same_time(lab: Lab, scope: str) -> None:
    """More than there are calls at once: each is asked for twice, and all are looked for together."""
    lab.double.settings(create_volume_s=2.0, visible_s=2.0)
    ranks = lab.backend.concurrency + 16
    template = {"scope": scope, "reclaim": "delete_always"}
    earlier, plan = (plan_of(lab, run, ranks, volume_template=template) for run in ("earlier", "run-1"))
    provision(lab.process(), earlier, generation=1)
    teardown(lab.process(), group_of(earlier), earlier, collected=None)
    lab.settle(UNSEEN_S)
    calls, process = len(lab.double.calls()), lab.process()
    begun = process.clock.now()
    provision(process, plan, generation=1)
    assert UNSEEN_S <= (process.clock.now() - begun).total_seconds() <= AGAIN_S + 30
    made = lab.double.calls()[calls:]
    asked = Counter(call["params"]["ClientToken"] for call in made if call["action"] == "CreateVolume")
    assert (len(asked), max(asked.values())) == (2 * ranks, 1)
    end = max(float(call["at"]) for call in made if call["action"] == "CreateVolume")
    looks = [float(call["at"]) for call in made if call["action"].startswith("Describe") and float(call["at"]) <= end]
    assert max(sum(at <= other < at + process.poll_interval_s for other in looks) for at in looks) <= 4


@pytest.mark.parametrize("waits_s", [10, 28])
def test_the_token_of_a_time_that_has_passed_is_not_sent(lab: Lab, waits_s: float) -> None:
    """As when many volumes are made, and a call waits for its turn: by then others take the next token."""
    use_up(lab)
    clock = DoubleClock(lab.double)

    class Queue(Limiter):
        """Many calls are in front of each CreateVolume."""

        def acquire(self, bucket: str) -> None:
            lab.settle(waits_s if bucket == "CreateVolume" else 0)

    clients = Clients(settings(lab.double), Queue())
    process = AwsBackend(clients, poll_interval_s=5.0, clock=clock, memory=Memory(clock.seconds))
    with pytest.raises(NotReady):
        process.create_volume(request_for(lab, "run-1"))
    lab.settle(UNSEEN_S)
    wait_until_in_period(lab, AGAIN_S - 5)
    with pytest.raises(NotReady, match="token was used before"):
        process.create_volume(request_for(lab, "run-1"))
    assert volumes(lab) == set()
    wait_until_in_period(lab, UNSEEN_S)
    made = process.create_volume(request_for(lab, "run-1"))
    assert volumes(lab) == {made.id}


def test_the_token_of_the_time_is_sent_once(lab: Lab) -> None:
    """The SDK would repeat it when others take the next one."""
    use_up(lab)
    clock = DoubleClock(lab.double)
    clients = Clients(
        settings(lab.double, config_kwargs={"retries": {"total_max_attempts": 3}}),
        Limiter(now=clock.seconds, sleep=clock.sleep),
    )
    process = AwsBackend(clients, poll_interval_s=5.0, clock=clock, memory=Memory(clock.seconds))
    with pytest.raises(NotReady):
        process.create_volume(request_for(lab, "run-1"))
    lab.settle(UNSEEN_S)
    wait_until_in_period(lab, UNSEEN_S)
    before = lab.count("CreateVolume")
    lab.double.fault("error", "CreateVolume", code="InternalError", status=500, times=2)
    with pytest.raises(RetryableError):
        process.create_volume(request_for(lab, "run-1"))
    assert lab.count("CreateVolume") == before + 1

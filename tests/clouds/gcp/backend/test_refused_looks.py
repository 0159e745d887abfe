"""What a job can do without is refused to its identity: nodes are seen and removed all the same."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import AuthDenied, CredentialsRefused
from airflow_rankvol.records import NodeState
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.gcp.backend.kit import ZONE, Lab, lines_of, report
from tests.unit.engine.engine_kit import Rig, all_launched

GCP = "airflow_rankvol.backends"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.name.startswith(GCP) and record.levelno == logging.WARNING]
    return [record.getMessage() for record in found]


def with_a_lost_spot_node(lab: Lab) -> Rig:
    """Return a run of two ranks; the node of one is being taken back, and nobody may ask why."""
    rig = lab.rig(2, node=NodeTemplate(machine_type="n2-standard-2", zones=(ZONE,), spot=True))
    rig.create()
    first, _ = all_launched(rig)
    lab.double.settings(delete_instance_s=300.0)
    lab.double("preempt", instance=first.node_name, notice_s=0.0)
    lab.double("deny", actions=["compute.zoneOperations.list"])
    return rig


def with_a_stopped_gang(lab: Lab) -> Rig:
    """Return a run of two ranks whose nodes were released and have stopped, and whose reports nobody may read."""
    rig = lab.rig(2, rendezvous=True)
    rig.create()
    works = all_launched(rig)
    nodes = rig.observe().nodes
    lab.backend.tell_nodes([node.id for node in nodes], {"NODES_IPS": "10.0.0.1"})
    for rank, work in enumerate(works):
        lab.double("write", instance=work.node_name, attributes={"rankvol/report-0": lines_of(report(rank))})
        lab.double("power_off", instance=work.node_name)
    lab.settle(60)
    lab.double("deny", actions=["compute.instances.getGuestAttributes"])
    return rig


def test_why_a_spot_node_ended_stays_unknown_where_nobody_may_ask(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    rig = with_a_lost_spot_node(lab)
    for _ in range(2):
        nodes = rig.observe().nodes
        assert sorted((node.state, node.reason) for node in nodes) == [(NodeState.ENDED, ""), (NodeState.RUNNING, "")]
    (warning,) = warnings(caplog)
    assert "compute.zoneOperations.list" in warning
    assert lab.count("zoneOperations.list") == 1


def test_the_report_of_a_peer_that_nobody_may_read_is_why_its_gang_has_failed(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    rig = with_a_stopped_gang(lab)
    for _ in range(2):
        for node in rig.observe().nodes:
            assert (node.state, node.exit_code) == (NodeState.ENDED, None)
            assert "its report cannot be read" in node.reason
            assert "getGuestAttributes" in node.reason
    assert len(warnings(caplog)) == 2  # one for each node


@pytest.mark.parametrize("make", [with_a_lost_spot_node, with_a_stopped_gang])
@pytest.mark.parametrize("how", ["teardown", "reap"])
def test_what_cannot_be_looked_up_keeps_nobody_from_removing_nodes(lab: Lab, make: Any, how: str) -> None:
    rig = make(lab)
    lab.double.settings(delete_instance_s=1.0)
    if how == "teardown":
        rig.teardown()
    else:
        _, problems = rig.reap(RunState.ENDED)
        assert problems == {}
    lab.settle(600)
    assert lab.double.state()["instances"] == {}


@pytest.mark.parametrize("make", [with_a_lost_spot_node, with_a_stopped_gang])
def test_credentials_that_are_refused_there_fail_the_look(lab: Lab, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be renewed in time; a rank must not count as lost because of them."""
    rig = make(lab)

    def refused(*_args: Any, **_named: Any) -> Any:
        raise CredentialsRefused("expired", backend="gcp")

    monkeypatch.setattr(lab.backend.gce, "listed", refused)
    monkeypatch.setattr(lab.backend.nodes.reports, "report", refused)
    with pytest.raises(CredentialsRefused):
        rig.observe()
    with pytest.raises(CredentialsRefused):
        lab.backend.list_owned(Selector("lab"))


def test_a_rank_whose_own_report_nobody_may_read_says_which_right_is_missing(lab: Lab) -> None:
    rig = with_a_stopped_gang(lab)
    with pytest.raises(AuthDenied, match="getGuestAttributes"):
        rig.step(rig.begin(0))

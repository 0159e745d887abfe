"""Why a node's work failed, as errors that say what, where, found, expected and the next step."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from airflow_rankvol.backends.base import BY_A_CALL, BY_ITSELF
from airflow_rankvol.engine.decide import Action
from airflow_rankvol.engine.results import Report
from airflow_rankvol.engine.views import culprit, gang_nodes
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import (
    DeadlineExceeded,
    FinalError,
    GatherFailed,
    GatherIncomplete,
    NoCapacity,
    RankFailed,
    RankVolError,
    RetryableError,
    VolumeConflict,
)
from airflow_rankvol.records import Node, NodeState, Observation, Role, VolumeState, ranks_text


def report_error(work: Work, node: Node, report: Report | None, now: datetime) -> RankVolError | None:
    """Return why a node that has ended did not succeed, or None."""
    if report is None:
        # EC2 does not tell a node's own shutdown at the end of its lifetime from another; the time does.
        unknown = node.error is None and node.reason in ("", BY_ITSELF, BY_A_CALL)
        over = now >= node.created_at + timedelta(seconds=work.lifetime_s)
        return _lost(work, replace(node, reason="lifetime") if over and unknown else node)
    if work.role is Role.GATHER and report.phase == "incomplete":
        return GatherIncomplete(
            f"no completion record of rank {ranks_text(report.missing)} on its volume; expected one of each of "
            f"{work.nodes} ranks. Fix and clear those ranks, or set allow_missing=True",
            missing=report.missing,
        )
    if report.exit_code == 0:
        return None
    if report.error:
        message = f"{work.label} of {work.nodes}: {report.error}"
    else:
        message = f"{work.label} of {work.nodes} ended with exit code {report.exit_code} on {node.label}"
    return failed(work, message, report.exit_code, report.log_tail)


def failed(work: Work, message: str, exit_code: int | None, log_tail: str) -> RankVolError:
    """Return the error of a rank, or of gather."""
    if work.role is Role.GATHER:
        return GatherFailed(message, exit_code=exit_code, log_tail=log_tail)
    return RankFailed(message, rank=work.rank, exit_code=exit_code, log_tail=log_tail)


def not_launched(work: Work, refusal: RetryableError) -> RankVolError:
    """Return the error of a node that the cloud refused until its ``boot_timeout`` was over."""
    what = "the cloud had no capacity for its node" if isinstance(refusal, NoCapacity) else "its node was not launched"
    kind = NoCapacity if isinstance(refusal, NoCapacity) else DeadlineExceeded
    return kind(
        f"{work.label} of {work.nodes}: {what} within {work.boot_timeout_s:.0f} s, and its volumes are kept, in their "
        f"zone. The last answer: {refusal}"
    )


def not_attached(work: Work, node: Node, refusal: FinalError) -> RankVolError:
    """Return the error of a node that gets no volume, whatever it waits for: the cloud refused to attach one."""
    return type(refusal)(
        f"{work.label} of {work.nodes}: {node.label} was ended, because the cloud refused to attach a volume, which is "
        f"kept: {refusal}"
    )


def _lost(work: Work, node: Node) -> RankVolError:
    if node.reason == "lifetime":
        return DeadlineExceeded(
            f"{work.label} of {work.nodes}: {node.label} outlived its lifetime of {work.lifetime_s:.0f} s and was "
            "ended; its volume is kept. Raise NodeTemplate.lifetime, or clear the task to go on from its files"
        )
    why = f" ({node.reason})" if node.reason else ""
    step = f"{node.step}. " if node.step else ""
    message = (
        f"{work.label} of {work.nodes}: {node.label} ended without a report{why}; its volume is kept. {step}"
        "A retry starts a fresh node with the same volume"
    )
    return node.error(message) if node.error else failed(work, message, None, "")


def _superseded(work: Work, _observation: Observation, _node: Node | None) -> RankVolError:
    return failed(work, f"{work.label}: attempt {work.attempt} gave way to a newer attempt", None, "")


def _gang_failed(work: Work, observation: Observation, _node: Node | None) -> RankVolError:
    who = culprit(work, observation)
    return failed(
        work, f"{work.label}: the rendezvous of {work.nodes} nodes ended because {who}; retries restart it as one",
        None, "",
    )  # fmt: skip


def _boot_failed(work: Work, observation: Observation, node: Node | None) -> RankVolError:
    if work.rendezvous:
        ready = {peer.tags.rank for peer in gang_nodes(work, observation) if peer.ready and peer.tags}
        waiting = f"; not up: rank {ranks_text(set(range(work.nodes)) - ready)}"
    else:
        waiting = ""
    held = [
        f"{volume.name} is {volume.state}" + (f" to {volume.attached_to}" if volume.attached_to else "")
        for volume_id in work.volume_ids
        if (volume := observation.volume(volume_id)) and volume.state is not VolumeState.AVAILABLE
    ]
    where = node.label if node else f"node {work.node_name}"
    if node and node.trouble:
        return DeadlineExceeded(
            f"{work.label} of {work.nodes}: {where} runs, but its system did not come up within "
            f"{work.boot_timeout_s:.0f} s: {node.trouble}; its volume is kept. Look at the node's image and machine "
            "type; a retry starts a fresh node, NodeTemplate.boot_timeout gives it more time"
        )
    return DeadlineExceeded(
        f"{work.label} of {work.nodes}: {where} did not come up with its volumes within "
        f"{work.boot_timeout_s:.0f} s ({'; '.join(held) or 'volumes available'}{waiting}). "
        "Raise NodeTemplate.boot_timeout, or look at the node's console"
    )


def _lifetime(work: Work, _observation: Observation, node: Node | None) -> RankVolError:
    where = node or Node(id="gone", name=work.node_name, state=NodeState.ENDED, created_at=work.deadline)
    return _lost(work, Node(where.id, where.name, NodeState.ENDED, where.created_at, reason="lifetime"))


def _node_gone(work: Work, _observation: Observation, _node: Node | None) -> RankVolError:
    return failed(
        work,
        f"{work.label} of {work.nodes}: node {work.node_name} is gone before it reported; its volume is kept. "
        "A retry starts a fresh node with the same volume",
        None,
        "",
    )


def _volume_names(work: Work) -> str:
    return ", ".join(f"{volume.name} ({volume.id})" for slot in work.slots for volume in slot.volumes)


def _no_volume(work: Work, _observation: Observation, _node: Node | None) -> RankVolError:
    return failed(
        work,
        f"{work.label}: found no volume {_volume_names(work)}; expected the one that create_volumes made. "
        "Clear create_volumes and this rank",
        None,
        "",
    )


def _bad_volume(work: Work, _observation: Observation, _node: Node | None) -> RankVolError:
    return failed(
        work, f"{work.label}: volume {_volume_names(work)} is in an error state; look at it in the cloud's console",
        None, "",
    )  # fmt: skip


def _conflict(work: Work, observation: Observation, _node: Node | None) -> RankVolError:
    holders = {
        f"{volume.name} is attached to {volume.attached_to}"
        for volume_id in work.volume_ids
        if (volume := observation.volume(volume_id)) and volume.attached_to
    }
    return VolumeConflict(
        f"{work.label}: {'; '.join(sorted(holders))}, a node of another run; it was not touched. "
        "Wait for that run to end, or give the runs volumes of their own (scope='run')"
    )


FAILURES = {
    Action.FAIL_SUPERSEDED: _superseded,
    Action.FAIL_LIFETIME: _lifetime,
    Action.FAIL_GANG: _gang_failed,
    Action.FAIL_BOOT: _boot_failed,
    Action.FAIL_LOST: _node_gone,
    Action.FAIL_NO_VOLUME: _no_volume,
    Action.FAIL_VOLUME: _bad_volume,
    Action.FAIL_CONFLICT: _conflict,
}

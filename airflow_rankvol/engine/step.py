"""One step of one node's work: decide, act. ``engine.loop`` says when, for a task and for the trigger alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from airflow_rankvol.backends.base import Backend, Guard, NodeRequest, Selector
from airflow_rankvol.engine.calls import in_parallel, patiently, wait_until
from airflow_rankvol.engine.decide import Action, decide
from airflow_rankvol.engine.failures import FAILURES, failed, not_attached, report_error
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.results import (
    Report,
    ReportUnreadable,
    ResultNotJson,
    parse_report,
    result_of,
)
from airflow_rankvol.engine.twins import reported
from airflow_rankvol.engine.views import (
    attempt_nodes,
    culprit,
    failed_peer,
    free_mounts,
    gang_nodes,
    newest_attempt,
    older_nodes,
    own_node,
    own_nodes,
    situation_of,
    spare_nodes,
)
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import BackendError, CredentialsRefused, FinalError, RankVolError, RetryableError
from airflow_rankvol.records import Node, NodeState, Observation, RankResult, Tags, Volume

# EC2 shows new tags within seconds; one that is not shown by then only keeps its volume until it expires.
MARKED_TIMEOUT_S = 30.0
# A trigger's ``on_kill`` has as long. A task's has five seconds, whatever stands here: then Airflow 3.3's supervisor
# follows its SIGTERM with SIGKILL (``ActivitySubprocess.kill``), and what is not listed by then the teardown finds.
STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the work ended: with a result, with an error, or with both (a failed rank has a result too)."""

    result: RankResult
    report: Report | None = None
    error: RankVolError | None = None


def step(backend: Backend, work: Work, observation: Observation, launcher: Launcher | None = None) -> Outcome | None:
    """Do the one next thing for this work; None while it goes on.

    Args:
        launcher: needed to launch; without one an absent node counts as lost.
    """
    return advance(backend, work, observation, launcher).outcome


@dataclass(frozen=True, slots=True)
class Move:
    """What one step did; ``refusal`` is why it could not do what was due."""

    action: Action
    outcome: Outcome | None = None
    refusal: RetryableError | None = None


def advance(backend: Backend, work: Work, observation: Observation, launcher: Launcher | None) -> Move:
    """Do the one next thing for this work; what the cloud refuses for now is left to the next observation."""
    situation = situation_of(work, observation, backend.clock.now(), may_launch=launcher is not None)
    action = decide(situation)
    try:
        return Move(action, _act(backend, work, observation, launcher, action))
    except RetryableError as exc:
        if backend.clock.now() > work.deadline:
            raise
        return Move(Action.WAIT, refusal=exc)  # the next observation decides again


def stop_own(backend: Backend, work: Work, *, at_once: bool = False) -> Node | None:
    """End this attempt's node, if it runs, and return it; of several, end all, and return the one that counts.

    Volumes stay. A node that was launched a moment ago may not be listed yet: it is looked for a little longer, as far
    as a task that ends has time.

    Args:
        at_once: share no look with others and wait for no turn. A task's ``on_kill`` runs within a signal's handler, in
            the very thread whose look it might wait for, and it has five seconds.
    """
    group = work.group
    listing = Selector(owner=group.owner, dag=group.dag, run=group.run)
    seen = Observation()

    def listed() -> bool:
        nonlocal seen
        seen = (
            patiently(backend, backend.list_owned, listing) if at_once else patiently(backend, backend.observe, group)
        )
        return bool(own_nodes(work, seen))

    wait_until(backend, listed, timeout_s=min(backend.listing_lag_s, STOP_S))
    for node in own_nodes(work, seen):
        if node.state is not NodeState.ENDED:
            patiently(backend, backend.delete_node, node.id, _guard(work))
    return own_node(work, seen)


def choose_attempt(work: Work, observation: Observation, try_number: int) -> Work:
    """Return the work at the attempt it belongs to.

    Without a rendezvous that is the task's own try. A gang has one attempt for all: a rank joins the newest
    one, and starts the next only when that one is over and this task was tried more often.
    """
    if not work.rendezvous:
        return work.at_attempt(try_number)
    newest = newest_attempt(work, observation)
    if newest == 0:
        return work.at_attempt(try_number)
    current = work.at_attempt(newest)
    if culprit(current, observation) and newest < try_number:
        return work.at_attempt(try_number)
    return current


def _act(
    backend: Backend, work: Work, observation: Observation, launcher: Launcher | None, action: Action
) -> Outcome | None:
    node = own_node(work, observation)
    if action is Action.COLLECT and node is not None:
        return _collect(backend, work, observation, node)
    if action in FAILURES:
        return _fail(backend, work, observation, node, action)
    try:
        _go_on(backend, work, observation, launcher, action)
    except CredentialsRefused:
        raise  # those may be renewed in time
    except FinalError as exc:
        if action is not Action.ATTACH or node is None:
            raise
        return _end(backend, work, observation, node, not_attached(work, node, exc))
    return None


def _go_on(backend: Backend, work: Work, observation: Observation, launcher: Launcher | None, action: Action) -> None:
    if action is Action.LAUNCH and launcher is not None:
        forget_collected(backend, work, observation)

        def create(request: NodeRequest) -> None:
            backend.create_node(request)

        # Of a gang, all that are missing: a launch takes as long as the cloud needs to say whether there is room.
        in_parallel(backend, launcher.requests(work, observation), create)
    elif action is Action.REMOVE_OLDER:
        for old in older_nodes(work, observation, may_launch=launcher is not None):
            backend.delete_node(old.id, _guard(work))
    elif action is Action.ATTACH:
        for volume_id, target in free_mounts(work, observation):
            backend.attach(volume_id, target.id)
    elif action is Action.RELEASE:
        _release(backend, work, observation)


def _guard(work: Work) -> Guard:
    return Guard(owner=work.group.owner, key=work.group.key)


def _release(backend: Backend, work: Work, observation: Observation) -> None:
    nodes = sorted(gang_nodes(work, observation), key=lambda node: node.tags.rank if node.tags else 0)
    addresses = [node.address for node in nodes]
    message = {
        "NODES_IPS": "\n".join(addresses),
        "MASTER_NODE_IP": addresses[0],
        "MASTER_ADDR": addresses[0],
        # Spread over a range so that gangs of one machine rarely meet; the same for every node of the gang.
        "MASTER_PORT": str(20000 + (int(work.group.key, 16) + work.attempt) % 10000),
    }
    backend.tell_nodes([node.id for node in nodes], message)


def _collect(backend: Backend, work: Work, observation: Observation, node: Node) -> Outcome:
    """Read how the node ended. It stays until the teardown: whoever repeats this, after a crash, must find it."""
    node, raw = reported(backend, node, own_nodes(work, observation))
    error: RankVolError | None
    report: Report | None = None
    try:
        report = parse_report(raw) if raw else None
        error = report_error(work, node, report, backend.clock.now())
    except ResultNotJson as exc:
        report = replace(exc.report, exit_code=1)  # the commands' 0 would pass for a success
        error = failed(work, f"{work.label}: {exc}", report.exit_code, report.log_tail)
    except ReportUnreadable as exc:
        error = failed(work, f"{work.label}: {exc}", None, "")
    if report is None and work.rendezvous and failed_peer(work, observation) not in (None, node):
        error = FAILURES[Action.FAIL_GANG](work, observation, node)
    result = result_of(work, node, observation, report)
    if error is not None:
        _stop(backend, work, observation, node, error)
        return Outcome(result=result, report=report, error=error)
    for spare in spare_nodes(work, observation):
        if spare.state is not NodeState.ENDED:
            with suppress(BackendError):  # delete_volumes tries again
                backend.delete_node(spare.id, _guard(work))
    return Outcome(result=result, report=report)


def mark_collected(backend: Backend, work: Work, ranks: Collection[int]) -> None:
    """Tag the volumes of the ranks whose results this run's gather has stored; only then may they be deleted.

    Whoever dies between storing and this leaves volumes that stay until their expiry, never the other way round.
    """
    observation = patiently(backend, backend.observe, work.group)
    ids = [
        volume.id
        for slot in work.slots
        if slot.rank in ranks
        for volume in slot.volumes
        if not volume.adopted and _still_ours(work, observation.volume(volume.id))
    ]
    if ids:
        patiently(backend, backend.tag_volumes, ids, {"rankvol:collected": work.group.key})
        # The teardown is another process' and may come at once: it keeps what it does not see marked.
        wait_until(backend, lambda: _all_marked(backend, work, ids), timeout_s=MARKED_TIMEOUT_S)


def _all_marked(backend: Backend, work: Work, ids: Collection[str]) -> bool:
    seen = patiently(backend, backend.observe, work.group).volumes
    return all(volume.tags is None or volume.tags.collected for volume in seen if volume.id in ids)


def forget_collected(backend: Backend, work: Work, observation: Observation) -> None:
    """Take the mark of an earlier gather off: what is computed or gathered anew must be collected anew, too."""
    _tag_if(backend, work, observation, {"rankvol:collected": ""}, lambda tags: tags.collected == work.group.key)


def _tag_if(
    backend: Backend, work: Work, observation: Observation, change: Mapping[str, str], wanted: Callable[[Tags], bool]
) -> None:
    everyone = {*work.volume_ids, *(volume_id for ids in work.gang for volume_id in ids)}  # a gang runs again as one
    volumes = [observation.volume(volume_id) for volume_id in sorted(everyone)]
    ids = [v.id for v in volumes if v and v.tags and wanted(v.tags) and _still_ours(work, v)]
    if ids:
        backend.tag_volumes(ids, change)


def _still_ours(work: Work, volume: Volume | None) -> bool:
    """Say whether no later run has taken a volume that outlives runs; its results are not this gather's then."""
    return volume is not None and volume.tags is not None and volume.tags.free_for(work.group)


def _stop(backend: Backend, work: Work, observation: Observation, node: Node | None, error: RankVolError) -> None:
    """End what failed work leaves running; in a gang, the whole gang. What ended stays, to be read."""
    own = [node] if node else []
    peers = attempt_nodes(work, observation) if work.rendezvous else own_nodes(work, observation)
    doomed = [peer for peer in peers if peer.state is not NodeState.ENDED and peer != node]
    # Where no node shows that the gang failed, this one's absence has to.
    unseen = work.rendezvous and not failed_peer(work, observation)
    doomed += [peer for peer in own if peer.state is not NodeState.ENDED or unseen]
    for peer in doomed:
        try:
            backend.delete_node(peer.id, _guard(work))
        except FinalError as exc:
            error.add_note(f"{peer.label} could not be ended ({exc}); delete_volumes tries again")


def _fail(backend: Backend, work: Work, observation: Observation, node: Node | None, action: Action) -> Outcome:
    error = FAILURES[action](work, observation, node)
    if action is not Action.FAIL_SUPERSEDED:
        return _end(backend, work, observation, node, error)
    return _without_report(backend, work, observation, node, error)


def _end(backend: Backend, work: Work, observation: Observation, node: Node | None, error: RankVolError) -> Outcome:
    """End what runs of work that has failed, with the error that says why."""
    _stop(backend, work, observation, node, error)
    return _without_report(backend, work, observation, node, error)


def _without_report(
    backend: Backend, work: Work, observation: Observation, node: Node | None, error: RankVolError
) -> Outcome:
    known = node or Node(id="", name=work.node_name, state=NodeState.ENDED, created_at=backend.clock.now())
    return Outcome(result=result_of(work, known, observation, None), error=error)

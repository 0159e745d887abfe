"""From step to step: the launch of a task, and the wait for a node's end in a task or a trigger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from airflow_rankvol.backends.base import Backend
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.decide import Action, decide
from airflow_rankvol.engine.failures import FAILURES, not_launched
from airflow_rankvol.engine.follow import Follower, Screen
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.patience import Patience
from airflow_rankvol.engine.peers import Peers
from airflow_rankvol.engine.step import Move, Outcome, advance, step
from airflow_rankvol.engine.views import culprit, failed_peer, gang_nodes, own_node, situation_of
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import AuthDenied, BackendError, ConfigError, RetryableError
from airflow_rankvol.records import Node, NodeState, Observation

# Where a listing may lag behind, a new node is in it mostly by then: a look before would be for nothing.
LISTED_S = 2.0
# After these the node may be gone, and what it printed with it.
ENDINGS = frozenset({Action.COLLECT, *FAILURES})
# While looks fail, or all steps, they come more and more seldom, up to so many seconds apart (or the poll interval's).
MAX_PAUSE_S = 60.0


class Watch:
    """The steps of one work in one process, with what it takes several observations to know.

    Args:
        screen: where people follow the node's output; None where nobody does.
    """

    def __init__(self, backend: Backend, work: Work, screen: Screen | None = None) -> None:
        self.backend = backend
        self.work = work
        self._follower = Follower(backend, work, screen) if screen else None
        self._missing_since: datetime | None = None
        self._came_up = False

    def use(self, backend: Backend) -> None:
        """Go on with the same backend by other credentials."""
        self.backend = backend
        if self._follower:
            self._follower.backend = backend

    def now(self) -> datetime:
        """Return the backend's time."""
        return self.backend.clock.now()

    def wants(self, observation: Observation) -> bool:
        """Say whether there is something to do; quick, and calls nothing: most ranks only wait most of the time."""
        if self._may_exist(observation):
            return False
        node = own_node(self.work, observation)
        if self._late_since(node) or (self._follower and self._follower.is_due(node)):
            return True
        return self._action(observation) is not Action.WAIT

    def step(self, observation: Observation) -> Outcome | None:
        """Do the one next thing for the launched work; None while it goes on."""
        if self._may_exist(observation):
            return None
        observation = self._looked_into(observation)
        node = own_node(self.work, observation)
        if self._follower and node:
            if self._action(observation) in ENDINGS:
                self._follower.catch_up(node)
            elif self._follower.is_due(node):
                self._follower.follow(node)
        outcome = step(self.backend, self.work, observation)
        if self._follower and outcome:
            # The end of what failed is logged with the error.
            self._follower.finish(node, "" if outcome.error else outcome.result.log_tail)
        return outcome

    def _action(self, observation: Observation) -> Action:
        return decide(situation_of(self.work, observation, self.now(), may_launch=False))

    def _late_since(self, node: Node | None) -> datetime | None:
        """Return since when a node should have come up of which that is not known."""
        if node is None or node.state is not NodeState.RUNNING or self._came_up:
            return None
        late_since = node.created_at + timedelta(seconds=self.work.boot_timeout_s)
        return late_since if self.now() > late_since else None

    def _looked_into(self, observation: Observation) -> Observation:
        """Ask once of a node that runs whether it came up, when it should have: its state does not tell."""
        node = own_node(self.work, observation)
        late_since = self._late_since(node)
        if node is None or late_since is None:
            return observation
        try:
            trouble = self.backend.boot_trouble(node.id, late_since)
        except RetryableError:
            return observation  # the next look asks again
        self._came_up = not trouble
        nodes = tuple(replace(each, trouble=trouble) if each is node else each for each in observation.nodes)
        return replace(observation, nodes=nodes)

    def _may_exist(self, observation: Observation) -> bool:
        """Say whether a node that is not listed may only be missing from the listing for a moment."""
        if not self._lacks_a_node(observation):
            self._missing_since = None
            return False
        now = self.now()
        self._missing_since = self._missing_since or now
        return now - self._missing_since < timedelta(seconds=self.backend.listing_lag_s)

    def _lacks_a_node(self, observation: Observation) -> bool:
        """Say whether the next step would be to fail for want of a node: this work's, or one of its gang's."""
        work = self.work
        action = self._action(observation)
        if action is Action.FAIL_GANG:
            return failed_peer(work, observation) is None
        # Where its volumes are not of this run, it looks as if a stranger had them.
        if action in (Action.FAIL_CONFLICT, Action.FAIL_LIFETIME):
            return own_node(work, observation) is None
        return action is Action.FAIL_LOST


@dataclass(frozen=True, slots=True)
class Line:
    """A task's line to its backend and to people.

    Args:
        reopen: opens the backend again when credentials were refused: the connection may have new ones.
        warn: says why a node cannot be seen.
    """

    conn_id: str
    reopen: Callable[[], Backend | None]
    warn: Callable[[str], object]


OFFLINE = Line("", lambda: None, bool)


def run(backend: Backend, work: Work, launcher: Launcher, screen: Screen | None = None) -> Outcome:
    """Launch, then step until the work has ended: the synchronous loop.

    Args:
        screen: where people follow the node's output; None where nobody does.
    """
    return launch(backend, work, launcher) or wait(backend, [work], lambda _work: screen)[0]


def wait(
    backend: Backend,
    works: Sequence[Work],
    screen_of: Callable[[Work], Screen | None],
    line: Line = OFFLINE,
) -> list[Outcome]:
    """Step side by side until each of a task's launched works has ended, by one look for all of them.

    What a trigger waits out is waited out here, too.
    """
    waits = [_Wait(Watch(backend, work, screen_of(work)), Patience(work, line.conn_id), line) for work in works]
    failures = 0
    while open_ := [each for each in waits if each.outcome is None]:
        seen = _look(backend, open_[0].watch.work)
        errors = [each.go_on(seen, backend) for each in open_]
        if any(isinstance(error, AuthDenied) for error in errors):
            with suppress(BackendError, ConfigError):  # then it goes on with what it has
                backend = line.reopen() or backend
            for each in open_:
                each.watch.use(backend)
        failures = failures + 1 if all(errors) else 0
        if any(each.outcome is None for each in open_):
            interval_s = backend.poll_interval_s
            backend.clock.sleep(min(interval_s * 2.0 ** min(failures, 16), max(MAX_PAUSE_S, interval_s)))
    return [each.outcome for each in waits if each.outcome]


def _look(backend: Backend, work: Work) -> Observation | RetryableError | AuthDenied:
    try:
        return backend.observe(work.group)
    except (RetryableError, AuthDenied) as exc:
        return exc


@dataclass(slots=True)
class _Wait:
    """The wait for one work."""

    watch: Watch
    patience: Patience
    line: Line
    outcome: Outcome | None = None

    def go_on(self, seen: Observation | RetryableError | AuthDenied, backend: Backend) -> BackendError | None:
        """Step once; return the error that kept it from that."""
        try:
            if not isinstance(seen, Observation):
                raise seen
            self.outcome = self.watch.step(seen)
        except (RetryableError, AuthDenied) as exc:
            self.outcome = self.patience.lost_by(exc, backend.clock.now())
            if word := self.patience.word():
                self.line.warn(word)
            return exc
        self.patience.recover()
        return None


def launch(
    backend: Backend,
    work: Work,
    launcher: Launcher,
    seen: Observation | None = None,
    found: Callable[[Node], object] = bool,
) -> Outcome | None:
    """Step until the work's node (in a gang, every node) is listed; what follows needs no launcher any more.

    Not only until it is launched: whoever kills the task or tears the run down next has to find it.

    Args:
        seen: what the caller has just observed, so that it need not be observed again.
        found: is told the work's node, once that is listed; by default nobody is.
    """
    peers = Peers(backend, work)
    before = Action.WAIT
    launched = False
    refusal: RetryableError | None = None
    while True:
        observation, seen = seen or patiently(backend, backend.observe, work.group), None
        node = own_node(work, observation)
        if node and _gang_launched(work, observation):
            found(node)
            return None
        if peers.come_first(observation):
            backend.clock.sleep(backend.poll_interval_s)
            continue
        move = advance(backend, work, observation, launcher)
        action = move.action
        # A volume may show its new node before the node itself is listed.
        unseen = launched and action is Action.FAIL_CONFLICT and backend.clock.now() <= work.deadline
        if move.outcome and not unseen:
            return _explained(work, move, refusal)
        launched = launched or action is Action.LAUNCH
        refusal = move.refusal or (None if action is Action.LAUNCH else refusal)
        # What was just done is looked at without delay, but not asked for again and again.
        if action is Action.WAIT or action is before:
            backend.clock.sleep(backend.poll_interval_s)
        elif action is Action.LAUNCH and backend.listing_lag_s:
            backend.clock.sleep(min(backend.poll_interval_s, LISTED_S))
        before = action


def _gang_launched(work: Work, observation: Observation) -> bool:
    return not work.rendezvous or len(gang_nodes(work, observation)) >= work.nodes or bool(culprit(work, observation))


def _explained(work: Work, move: Move, refusal: RetryableError | None) -> Outcome | None:
    """Let a node that was never had say what the cloud answered all the time."""
    outcome = move.outcome
    if outcome is None or outcome.error is None or refusal is None or move.action is not Action.FAIL_BOOT:
        return outcome
    return replace(outcome, error=not_launched(work, refusal))

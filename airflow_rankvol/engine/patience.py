"""For how long a wait goes on although nothing can be seen of its node."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow_rankvol.engine.calls import PATIENCE_S
from airflow_rankvol.engine.results import result_of
from airflow_rankvol.engine.step import Outcome
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import AuthDenied, BackendError, DeadlineExceeded, RankVolError
from airflow_rankvol.records import Node, NodeState, Observation, to_iso

#: As long somebody has time to give a connection new credentials, in seconds: the node goes on meanwhile.
DENIED_S = 1800.0
#: As often it is said again why nothing can be seen, in seconds.
SAID_AGAIN_S = 300.0


class Patience:
    """What one work does about errors in a row.

    A node runs, and ends, whether or not anybody can look at it. So errors that may pass are waited out until the
    work's deadline, and refused credentials for DENIED_S at most; in any case for as long as a single call is repeated.
    """

    def __init__(self, work: Work, conn_id: str) -> None:
        self._work = work
        self._conn_id = conn_id
        self._since: datetime | None = None
        self._said_at: datetime | None = None
        self._word = ""

    def recover(self) -> None:
        """Forget what was: the node could be looked at."""
        self._since = self._said_at = None

    def lost_by(self, error: BackendError, now: datetime) -> Outcome | None:
        """Return the end of the work where nobody should wait any more; else None."""
        self._since = self._since or now
        blind_s = (now - self._since).total_seconds()
        denied = isinstance(error, AuthDenied)
        over = now > self._work.deadline and blind_s >= PATIENCE_S
        if over or (denied and blind_s >= DENIED_S):
            return self._lost(error, denied=denied)
        self._take_note(error, now, denied=denied)
        return None

    def word(self) -> str:
        """Return what is to be told people now; seldom something."""
        word, self._word = self._word, ""
        return word

    def _take_note(self, error: BackendError, now: datetime, *, denied: bool) -> None:
        if self._said_at and now - self._said_at < timedelta(seconds=SAID_AGAIN_S):
            return
        self._said_at = now
        assert self._since is not None  # noqa: S101 - set by the caller; for mypy
        until = to_iso(min(self._since + timedelta(seconds=DENIED_S), self._work.deadline))
        advice = (
            f"Give connection {self._conn_id} valid credentials by {until}: until then it is tried again, and the node "
            "runs on"
            if denied
            else "It is tried again, and the node runs on"
        )
        self._word = f"Could not look at {self._work.node_name}: {error}. {advice}"

    def _lost(self, error: BackendError, *, denied: bool) -> Outcome:
        work = self._work
        unseen = Node(id="", name=work.node_name, state=NodeState.ENDED, created_at=self._since or work.deadline)
        next_step = (
            f"Give connection {self._conn_id} valid credentials, then clear the task" if denied else "Clear the task"
        )
        message = (
            f"{work.label} of {work.nodes}: since {to_iso(unseen.created_at)} nothing could be seen of node "
            f"{work.node_name}; the last answer: {error}. If the node runs, it does so until its lifetime is over, and "
            f"its result stays on its volume. {next_step}: a result that is there is taken as it is"
        )
        failure: RankVolError = DeadlineExceeded(message)
        return Outcome(result=result_of(work, unseen, Observation(), None), error=failure)

"""What to do next about one node, as one total table over what was observed.

Every combination of the five views has exactly one action; a test enumerates them all. The first rule that
matches wins, so read the table from the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache


class VolumeView(Enum):
    """The volumes of one node taken together; the worst of them counts, in this order."""

    ABSENT = "absent"
    BROKEN = "broken"
    FOREIGN = "foreign"  # held by a live node of another run
    STALE = "stale"  # held by another node of this group
    PENDING = "pending"  # creating, attaching, detaching
    FREE = "free"
    HERE = "here"  # attached to this node


class NodeView(Enum):
    """The node of this attempt."""

    ABSENT = "absent"
    PENDING = "pending"
    RUNNING = "running"
    STUCK = "stuck"  # runs by the cloud's word, but did not come up in time
    ENDED = "ended"


class Others(Enum):
    """Nodes of other attempts of the same rank (or, in a gang, of the whole group) that are in the way."""

    NONE = "none"
    OLDER = "older"
    NEWER = "newer"


class Overdue(Enum):
    """Which limit has passed."""

    NO = "no"
    BOOT = "boot"
    LIFETIME = "lifetime"


class Gang(Enum):
    """The other nodes of a rendezvous; NONE without one, and once all were released."""

    NONE = "none"
    PARTIAL = "partial"  # some were not launched yet
    WAITING = "waiting"  # all launched, not all ready
    READY = "ready"  # all ready, not all told to go
    BROKEN = "broken"  # one failed or is gone


class Action(Enum):
    """What the engine does in one step."""

    WAIT = "wait"
    REMOVE_OLDER = "remove_older"
    LAUNCH = "launch"
    ATTACH = "attach"
    RELEASE = "release"
    COLLECT = "collect"
    FAIL_SUPERSEDED = "fail_superseded"
    FAIL_LIFETIME = "fail_lifetime"
    FAIL_GANG = "fail_gang"
    FAIL_BOOT = "fail_boot"
    FAIL_LOST = "fail_lost"
    FAIL_NO_VOLUME = "fail_no_volume"
    FAIL_VOLUME = "fail_volume"
    FAIL_CONFLICT = "fail_conflict"


@dataclass(frozen=True, slots=True)
class Situation:
    """What was observed about one node, reduced to what the decision needs."""

    node: NodeView
    volume: VolumeView
    others: Others = Others.NONE
    overdue: Overdue = Overdue.NO
    gang: Gang = Gang.NONE
    may_launch: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: a situation matches when every given set holds its value; None matches all."""

    action: Action
    node: frozenset[NodeView] | None = None
    volume: frozenset[VolumeView] | None = None
    others: frozenset[Others] | None = None
    overdue: frozenset[Overdue] | None = None
    gang: frozenset[Gang] | None = None
    may_launch: bool | None = None

    def matches(self, situation: Situation) -> bool:
        """Say whether this row speaks of that situation."""
        pairs = (
            (self.node, situation.node),
            (self.volume, situation.volume),
            (self.others, situation.others),
            (self.overdue, situation.overdue),
            (self.gang, situation.gang),
        )
        if any(allowed is not None and value not in allowed for allowed, value in pairs):
            return False
        return self.may_launch is None or self.may_launch == situation.may_launch


N, V, D, G = NodeView, VolumeView, Overdue, Gang
_UP = frozenset({N.PENDING, N.RUNNING})
_LATE = frozenset({D.BOOT, D.LIFETIME})

TABLE: tuple[Rule, ...] = (
    # A later attempt owns the volume now: touch nothing.
    Rule(Action.FAIL_SUPERSEDED, others=frozenset({Others.NEWER})),
    # What has ended is read before anything else, even late: a result is never thrown away.
    Rule(Action.COLLECT, node=frozenset({N.ENDED})),
    Rule(Action.FAIL_LIFETIME, node=_UP | {N.STUCK}, overdue=frozenset({D.LIFETIME})),
    Rule(Action.FAIL_GANG, gang=frozenset({G.BROKEN})),
    # One attempt at a time may hold the volume.
    Rule(Action.REMOVE_OLDER, others=frozenset({Others.OLDER})),
    # The volume's own trouble ends the rank whatever the node does.
    Rule(Action.FAIL_NO_VOLUME, volume=frozenset({V.ABSENT})),
    Rule(Action.FAIL_VOLUME, volume=frozenset({V.BROKEN})),
    Rule(Action.FAIL_CONFLICT, volume=frozenset({V.FOREIGN})),
    Rule(Action.FAIL_BOOT, node=frozenset({N.STUCK})),
    # No node yet (or no more).
    # A cloud may have deleted it at the end of its time.
    Rule(Action.FAIL_LIFETIME, node=frozenset({N.ABSENT}), overdue=frozenset({D.LIFETIME}), may_launch=False),
    Rule(Action.FAIL_LOST, node=frozenset({N.ABSENT}), may_launch=False),
    Rule(Action.FAIL_BOOT, node=frozenset({N.ABSENT}), overdue=_LATE),
    Rule(Action.LAUNCH, node=frozenset({N.ABSENT}), volume=frozenset({V.FREE})),
    Rule(Action.WAIT, node=frozenset({N.ABSENT})),
    # The node comes up.
    Rule(Action.FAIL_BOOT, node=frozenset({N.PENDING}), overdue=frozenset({D.BOOT})),
    Rule(Action.LAUNCH, node=_UP, gang=frozenset({G.PARTIAL}), overdue=frozenset({D.NO}), may_launch=True),
    Rule(Action.WAIT, node=frozenset({N.PENDING})),
    # It runs: give it its volume, then its peers.
    Rule(Action.WAIT, volume=frozenset({V.HERE}), gang=frozenset({G.NONE})),
    # Even late: all of them did come up, only nobody looked.
    Rule(Action.RELEASE, volume=frozenset({V.HERE}), gang=frozenset({G.READY})),
    Rule(Action.FAIL_BOOT, overdue=frozenset({D.BOOT})),
    Rule(Action.ATTACH, volume=frozenset({V.FREE})),
    Rule(Action.WAIT),
)


@cache
def decide(situation: Situation) -> Action:
    """Return the one next action for a situation."""
    return next(rule.action for rule in TABLE if rule.matches(situation))

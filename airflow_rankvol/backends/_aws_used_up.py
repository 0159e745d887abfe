"""Tokens that EC2 refuses: each stands for a volume that EC2 does not list yet, or for one that is gone.

Under the first kind nothing may be made again. The second is used up for half a day, and another token has to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.backends._aws_creation import hashed
from airflow_rankvol.backends._aws_memory import MAX_KEPT, UNSEEN_S, Memory

#: How long the time is that a token stands for once another is used up, in seconds. It is taken in the second half:
#: what was made under the one before is listed by then.
AGAIN_S = 2 * UNSEEN_S
#: How long a refusal counts, in seconds; then the token is asked for again. It is certain after AGAIN_S, about, that
#: nothing stands behind it; the time of a token may be too short for many volumes, or others may have been quicker.
REFUSED_S = 3 * AGAIN_S


@dataclass(frozen=True, slots=True)
class _Refusal:
    name: str
    at: float


class UsedUp:
    """What EC2 has refused lately, of all volumes that this process wants; all wait for the same looks.

    Args:
        now: the time, which other processes have, too.
        poll_interval_s: how long it is between two looks at least.
    """

    def __init__(self, ec2: Ec2, memory: Memory, now: Callable[[], datetime], poll_interval_s: float) -> None:
        self._ec2 = ec2
        self._memory = memory
        self._now = now
        self._poll_interval_s = poll_interval_s
        self._lock = threading.RLock()  # a signal's handler may call while its thread is in here
        self._refused: dict[str, _Refusal] = {}
        self._looked_at = float("-inf")

    def refuse(self, token: str, name: str) -> None:
        """Take note that EC2 has refused a token for a volume of that name."""
        with self._lock:
            self._refused.pop(token, None)
            while len(self._refused) >= MAX_KEPT:
                del self._refused[next(iter(self._refused))]
            self._refused[token] = _Refusal(name, self._memory.now())

    def is_refused(self, token: str) -> bool:
        """Say whether EC2 has refused a token lately, so that there is no use in asking again."""
        refusal = self._refused.get(token)
        return refusal is not None and self._memory.now() - refusal.at <= REFUSED_S

    def look(self) -> None:
        """Look for all volumes whose tokens were refused, unless that was done within a poll interval."""
        with self._lock:  # who comes while somebody looks gets that look
            began = self._memory.now()
            if began - self._looked_at < self._poll_interval_s:
                return
            names = {refusal.name for token, refusal in self._refused.items() if self.is_refused(token)}
            self._looked_at = began
            self._memory.saw_volumes(self._ec2.volumes_named(names, "create_volume", f"{len(names)} volumes"))
            self._memory.looked_up((f"name:{name}" for name in names), began)

    def next_token(self, token: str) -> str | None:
        """Return the token to take instead, once it is certain that the refused one stands for no volume; else None.

        It may stand for one that EC2 does not show yet, made by another run in dag and global scope; or for one that is
        gone. Time tells: what is made is listed within UNSEEN_S. So a look has to show none which began so long after
        the refusal, and after the beginning of the time whose token is taken: what was made under the one before is
        listed by then. The token of the time is the same for all who want the volume, so never two are made; and it is
        another one every AGAIN_S, since it is burned in its turn when that volume goes.
        """
        period, begun_s = divmod(self._now().timestamp(), AGAIN_S)
        refusal = self._refused.get(token)
        if refusal is None:
            return None
        looked_s = self._memory.looked_up_s_ago(f"name:{refusal.name}")
        if min(self._memory.now() - refusal.at, begun_s) - looked_s < UNSEEN_S:
            return None
        again = hashed(f"{token}/again/{period:.0f}")
        return None if self.is_refused(again) else again

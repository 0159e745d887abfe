"""Whether a node that EC2 calls running has really come up; asked of all of them at once, and only when one is late."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.errors import FinalError, NotReady

log = logging.getLogger(__name__)

#: What DescribeInstanceStatus says of an instance whose system does not answer, or does not answer yet (EC2 User Guide,
#: "Status checks for Amazon EC2 instances"). Only these are listed, so one page holds those of a whole region.
_NOT_UP = ("impaired", "initializing", "insufficient-data")
#: On the console: our bootstrap's lines, and cloud-init's from when it runs user data.
_LIFE = re.compile(r"RANKVOL-|cloud-init\[\d+\]|running 'modules:final'")


@dataclass(frozen=True, slots=True)
class _Look:
    at: datetime
    states: dict[str, str]


class Boots:
    """The status checks of one account and region.

    Args:
        now: the backend's clock.
        console: returns the text of a node's serial console.
    """

    def __init__(self, ec2: Ec2, now: Callable[[], datetime], console: Callable[[str], str]) -> None:
        self._ec2 = ec2
        self._now = now
        self._console = console
        self._lock = threading.Lock()
        self._last: _Look | None = None

    def trouble(self, node_id: str, late_since: datetime) -> str:
        """Say why a node has not come up; empty when it has, or where this may not be asked.

        A node whose status is not ok may be one that computes so hard that it does not answer: its console tells.

        Raises:
            NotReady: EC2 cannot tell now.
        """
        try:
            state = self._states(late_since).get(node_id, "ok")
            if state == "ok" or _LIFE.search(self._console(node_id)):
                return ""
        except FinalError as exc:
            log.warning("Whether node %s has booted cannot be asked: %s", node_id, exc)
            return ""
        if state == "insufficient-data":
            self._last = None
            text = "EC2 has no data yet on whether it has booted; it is asked again"
            raise NotReady(text, backend="aws", verb="boot_trouble", resource=node_id)
        return f"EC2's status check of the instance says {state!r}, and its console shows nothing of cloud-init"

    def _states(self, since: datetime) -> dict[str, str]:
        """Return the nodes that are not up, as a look that began after that moment shows them."""
        with self._lock:  # whoever comes meanwhile takes what is found
            if self._last is None or self._last.at < since:
                self._last = _Look(self._now(), self._ask())
            return self._last.states

    def _ask(self) -> dict[str, str]:
        wanted = [{"Name": "instance-status.status", "Values": list(_NOT_UP)}]
        found = self._ec2.pages(
            "DescribeInstanceStatus", "InstanceStatuses", "boot_trouble", "status checks",
            Filters=wanted, MaxResults=1000,
        )  # fmt: skip
        return {raw["InstanceId"]: raw["InstanceStatus"]["Status"] for raw in found}

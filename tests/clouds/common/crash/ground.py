"""What a crash test has to know of a cloud."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from airflow_rankvol.backends.base import Backend
from airflow_rankvol.records import Tags
from tests.clouds.common.client import Process
from tests.clouds.common.clocks import AnyClock
from tests.clouds.common.crash.lives import Life

#: Whose the run is that dies.
OWNER = "lab"


class Ground(ABC):
    """A cloud's double, and how a backend comes to it."""

    #: The double's class, which starts one.
    double: ClassVar[type[Process]]
    zone: ClassVar[str]
    machine_type: ClassVar[str]
    #: What nodes end by that do not really run: ``module:function``, called in the double.
    ending: ClassVar[str]
    #: The kinds of volumes and of nodes in the double's state.
    kinds: ClassVar[tuple[str, str]]
    #: A volume for nodes that really run.
    size: ClassVar[str]
    #: So long after a death who comes next looks at the cloud, in seconds.
    noticed_s: ClassVar[float]
    #: The calls that make a volume, and a node.
    makers: ClassVar[tuple[str, str]]
    #: The double's settings where no listing shows yet what was just made when somebody comes next.
    unseen: ClassVar[Mapping[str, float]]

    @property
    def module(self) -> str:
        """The module that has this ground as ``GROUND``."""
        return type(self).__module__

    @abstractmethod
    def warm(self, double: Process) -> None:
        """Do what takes long of ``connect``, without opening a connection: children that are forked have it then."""

    @abstractmethod
    def connect(self, double: Process, clock: AnyClock) -> Any:
        """Return what a backend does its calls with; they hang as long as the test wants."""

    @abstractmethod
    def backend(self, connection: Any, clock: AnyClock, poll_s: float) -> Backend:
        """Return a backend that has seen nothing, and does one thing after the other."""

    @abstractmethod
    def prepare(self, double: Process) -> None:
        """Turn the double's knobs, once it is as new."""

    @abstractmethod
    def strangers(self, double: Process) -> None:
        """Create volumes and an instance that are not ours, though they look like it."""

    @abstractmethod
    def is_left(self, node: dict[str, Any]) -> bool:
        """Say whether a node of the double's state counts as left behind."""

    @abstractmethod
    def made(self, double: Process) -> Iterable[tuple[str, str]]:
        """Return the name and what never comes again of every volume and instance that was made."""

    @abstractmethod
    def lives(self, double: Process) -> Iterable[Life]:
        """Return every instance that was launched, with its tags."""

    @abstractmethod
    def tags(self, volume: dict[str, Any]) -> Tags | None:
        """Return the tags of ours of a volume in the double's state."""

    @abstractmethod
    def changed(self, call: dict[str, Any]) -> set[str]:
        """Return the ids of the volumes and instances that a recorded call was to change; none for one that looks."""

    def doubtful(self, _state: dict[str, Any]) -> set[str]:
        """Return the volumes whose tags a call that was accepted has yet to change."""
        return set()

    def bugs(self, double: Process) -> list[str]:
        """Return what the double did wrong itself."""
        return double.bugs()

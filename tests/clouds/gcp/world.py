"""The state of the double: what exists, the clock, and what is about to happen."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import TypeVar

from tests.clouds.common.clock import Agenda, Clock
from tests.clouds.gcp.errors import not_found
from tests.clouds.gcp.model import PROJECT, Disk, Instance, Operation, Resource
from tests.clouds.gcp.settings import Settings

R = TypeVar("R", bound=Resource)


class Shelf(dict[tuple[str, str], R]):
    """The resources of one kind, by zone and name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, resource: R) -> R:
        """Put a new one on the shelf."""
        self[resource.zone, resource.name] = resource
        return resource

    def discard(self, resource: R) -> None:
        """Take one off; a later one of the same name stays."""
        if self.get((resource.zone, resource.name)) is resource:
            del self[resource.zone, resource.name]

    def find(self, zone: str, name: str) -> R:
        """Return one by name, or by its number as the API allows.

        Raises:
            GceError: It is not there.
        """
        found = self.get((zone, name))
        if found is None and name.isdigit():
            found = next((r for r in self.values() if r.zone == zone and r.id == int(name)), None)
        if found is None:
            raise not_found(f"projects/{PROJECT}/zones/{zone}/{self.kind}/{name}")
        return found

    def sorted(self) -> Iterator[R]:
        """Return them in the order of lists: by name (disc: orderBy)."""
        return (self[key] for key in sorted(self, key=lambda key: (key[1], key[0])))


class World:
    """All of one project."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = Clock()
        self.agenda = Agenda(self.clock, self.lock)
        self.settings = Settings()
        self.disks: Shelf[Disk] = Shelf("disks")
        self.instances: Shelf[Instance] = Shelf("instances")
        self.operations: dict[tuple[str, str], Operation] = {}
        self._numbers = itertools.count(1)

    def now(self) -> float:
        """Return the double's time in seconds since the epoch."""
        return self.clock.now()

    def listed(self, shelf: Shelf[R]) -> Iterator[R]:
        """Return what lists show of a shelf."""
        return (found for found in shelf.sorted() if self.now() >= found.created_at + self.settings.listed_s)

    def new_id(self) -> int:
        """Return a number that was never used, of 19 digits as the API's are."""
        # The factor spreads the numbers, so that no test can rely on ids growing; it is odd, so none comes twice.
        return 10**18 + next(self._numbers) * 0x9E3779B97F4A7C15 % 8 * 10**18 + next(self._numbers)

    def clear(self) -> None:
        """Forget everything that exists and everything that was to come; settings go back to their defaults."""
        self.agenda.clear()
        self.disks.clear()
        self.instances.clear()
        self.operations.clear()
        self.settings = Settings()
        self.clock.reset()

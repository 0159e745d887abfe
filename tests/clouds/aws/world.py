"""The state of the double: what exists, an index of it by tag, the clock, and what is about to happen."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

from tests.clouds.aws.errors import malformed, not_found
from tests.clouds.aws.model import Instance, Resource, Snapshot, TagSet, Volume
from tests.clouds.aws.settings import Settings
from tests.clouds.common.clock import Agenda, Clock

R = TypeVar("R", bound=Resource)

REGION = "us-east-1"
ACCOUNT = "123456789012"  # moto's


class Shelf(dict[str, R]):
    """The resources of one kind by id, with an index by tag.

    The index holds every tag that a resource has ever had, because a changed tag is shown for a moment longer; what
    it finds is looked at again. Without it, finding thousands of volumes by tag is quadratic.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix
        self._by_tag: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)

    def index(self, resource: R) -> None:
        """Take the resource's current tags into the index."""
        for tag in resource.tags.current.items():
            self._by_tag[tag][resource.id] = None

    def with_tag(self, key: str, values: Iterable[str]) -> list[R]:
        """Return what has, or had, one of the values under that key."""
        ids = {i: None for value in values for i in self._by_tag.get((key, value), ())}
        return [self[i] for i in ids if i in self]

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._by_tag.clear()


class World:
    """All of one account in one region."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = Clock()
        self.agenda = Agenda(self.clock, self.lock)
        self.settings = Settings()
        self.volumes: Shelf[Volume] = Shelf("vol")
        self.instances: Shelf[Instance] = Shelf("i")
        self.snapshots: Shelf[Snapshot] = Shelf("snap")
        self.unlisted_until: dict[str, float] = {}
        self._numbers = itertools.count(1)

    def now(self) -> float:
        """Return the double's time in seconds since the epoch."""
        return self.clock.now()

    def new_id(self, prefix: str) -> str:
        """Return an id that was never used, in EC2's form of 17 hexadecimal digits."""
        # The factor spreads the numbers, so that no test can rely on ids growing; it is odd, so none comes twice.
        return f"{prefix}-{next(self._numbers) * 0x9E3779B97F4A7C15 % 2**64:017x}"

    def new_tags(self, tags: dict[str, str]) -> TagSet:
        """Return the tags of a new resource: seen as soon as the resource is."""
        return TagSet(tags, tags, self.now())

    def add(self, shelf: Shelf[R], resource: R) -> R:
        """Put a new resource on its shelf."""
        resource.begin(self.now)
        shelf[resource.id] = resource
        shelf.index(resource)
        return resource

    def tag(self, shelf: Shelf[R], resource: R, tags: dict[str, str]) -> None:
        """Replace a resource's tags."""
        resource.tags.change(tags, self.now())
        shelf.index(resource)

    def seen(self, resource: Resource) -> bool:
        """Return whether other calls know the resource already."""
        known_from = max(resource.created_at + self.settings.visible_s, self.unlisted_until.get(resource.id, 0.0))
        return self.now() >= known_from

    def shown(self, resource: R) -> R:
        """Return a resource as a Describe shows it now."""
        return resource.seen(self.now(), self.settings.visible_s)

    def tags_of(self, resource: Resource) -> dict[str, str]:
        """Return the tags as they are seen now."""
        return resource.tags.seen(self.now(), self.settings.visible_s)

    def find(self, shelf: Shelf[R], resource_id: str) -> R:
        """Return a resource by id, as a call sees it.

        Raises:
            Ec2Error: Malformed or NotFound; also for one that was created a moment ago.
        """
        digits = resource_id.removeprefix(f"{shelf.prefix}-")
        if digits == resource_id or not digits or not all(c in "0123456789abcdef" for c in digits):
            raise malformed(resource_id, shelf.prefix)
        resource = shelf.get(resource_id)
        if resource is None or not self.seen(resource):
            raise not_found(resource_id)
        return resource

    def tag_list(self, resource: Resource) -> list[dict[str, Any]] | None:
        """Return the tags as an answer holds them; None, and so no element at all, when there are none."""
        return [{"Key": k, "Value": v} for k, v in self.tags_of(resource).items()] or None

    def clear(self) -> None:
        """Forget everything that exists and everything that was to come; settings go back to their defaults."""
        self.agenda.clear()
        for shelf in (self.volumes, self.instances, self.snapshots):
            shelf.clear()
        self.unlisted_until.clear()
        self.settings = Settings()
        self.clock.freeze(False)

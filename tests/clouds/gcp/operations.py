"""What takes time: PENDING, RUNNING, DONE, and the same request twice is one operation."""

from __future__ import annotations

import fnmatch
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.clouds.gcp.errors import Failure, invalid, not_found
from tests.clouds.gcp.listing import Lister
from tests.clouds.gcp.model import PROJECT, Operation, Resource
from tests.clouds.gcp.world import World

Act = Callable[[Callable[[], None]], None]
_WAIT_S, _POLL_S = 120.0, 0.005


@dataclass
class Late:
    """A scripted failure of operations that were accepted; ``resource`` is a text that the target's name must hold."""

    action: str = "*"
    resource: str = ""
    nth: int = 1
    times: int = 1
    code: str = "INTERNAL_ERROR"
    message: str = "Internal error. Please try again or contact Google Support."
    status: int = 503
    text: str = "SERVICE UNAVAILABLE"
    seen: int = 0

    def strikes(self, action: str, target: str) -> bool:
        """Return whether this operation is to fail; counts it."""
        if not fnmatch.fnmatchcase(action, self.action) or self.resource not in target:
            return False
        self.seen += 1
        return self.seen >= self.nth and (self.times < 0 or self.seen < self.nth + self.times)


def checked_request_id(params: dict[str, Any]) -> str:
    """Return the requestId of a call, if any (disc: "must be a valid UUID … zero UUID is not supported")."""
    text: str = params.get("requestId", "")
    if not text:
        return ""
    try:
        found = uuid.UUID(text)
    except ValueError:
        found = uuid.UUID(int=0)
    # Python takes braces and bare digits as well; [U] whether Google does.
    if found.int == 0 or str(found) != text.lower():
        raise invalid("requestId", text, "The request ID must be a valid UUID, and not the zero UUID.")
    return text


class Operations:
    """All operations of the project."""

    def __init__(self, world: World, lost: Mapping[str, str]) -> None:
        self._world = world
        self._lost = lost
        self._lister: Lister[Operation] = Lister("zones", "operations", "operation")
        self._by_request: dict[str, Operation] = {}
        self._asked: dict[str, tuple[str, str, Any]] = {}  # requestId → what it was asked with last
        self.late: list[Late] = []

    def clear(self) -> None:
        """Forget all, and what was scripted."""
        self._by_request.clear()
        self._asked.clear()
        self.late.clear()

    def recall(self, action: str, target: str, request_id: str, body: Any = None) -> dict[str, Any] | None:
        """Return the operation of an earlier, equal request; a failed one as well, so that a retry needs a new id.

        disc: "the server can check if original operation with the same request ID was received, and if so, will
        ignore the second request". "Specify a unique request ID": the same one for another method, resource or body is
        refused here, as whoever sends that has a bug; [U] what Compute Engine does with it.

        Raises:
            GceError: the id stands for another request.
        """
        if not request_id:
            return None
        found, asked = self._by_request.get(request_id), (action, target, body)
        if found is None:
            self._asked[request_id] = asked  # a refused request leaves it free
            return None
        if self._asked[request_id] != asked:
            raise invalid("requestId", request_id, "It was used for another request already.")
        return found.view()

    def start(
        self,
        action: str,
        target: Resource,
        act: Act,
        *,
        after_s: float,
        request_id: str = "",
        undo: Callable[[], None] = lambda: None,
        failure: Failure | None = None,
        alone: bool = True,
    ) -> Operation:
        """Begin something: it is RUNNING a little later, and after that does what it is for.

        Args:
            action: such as ``disks.insert``; what several requests may be about at once is behind a colon.
            act: does it, and calls what it gets when that is done.
            undo: takes back what was there from the call on, when the operation fails.
            failure: with which it is known to end.
            alone: keeps others away from the resource until it is done.
        """
        name, _, part = action.partition(":")
        operation = self._new(name.partition(".")[2], target, request_id)
        failure = self._scripted(name, f"{target.link} {part}") or failure
        if request_id:
            self._by_request[request_id] = operation
        if alone:
            target.busy = operation.name

        def finish(why: Failure | None = None) -> None:
            if operation.status != "DONE":
                self._finish(operation, target, why)

        def work() -> None:
            if failure:
                undo()
                finish(failure)
            else:
                act(finish)

        def run() -> None:
            operation.status, operation.started_at = "RUNNING", self._world.now()
            self._world.agenda.after(after_s, work)

        self._world.agenda.after(self._world.settings.operation_start_s, run)
        return operation

    def _scripted(self, action: str, target: str) -> Failure | None:
        struck = [rule for rule in self.late if rule.strikes(action, target)]
        return Failure(struck[0].code, struck[0].message, struck[0].status, struck[0].text) if struck else None

    def event(self, kind: str, target: Resource, text: str) -> None:
        """Note what happened to a resource without a call, as an operation of the system's."""
        operation = self._new(kind, target, "")
        operation.user, operation.text, operation.started_at = "system", text, self._world.now()
        self._finish(operation, target, None)

    def _new(self, kind: str, target: Resource, request_id: str) -> Operation:
        number = self._world.new_id()
        milliseconds = int(self._world.now() * 1000)
        name = f"operation-{milliseconds}-{number:016x}-{uuid.uuid4().hex[:8]}-{uuid.uuid4().hex[:8]}"
        operation = Operation(
            name=name,
            id=number,
            zone=target.zone,
            type=kind,
            target=target.link,
            target_id=target.id,
            user=f"tester@{PROJECT}.iam.gserviceaccount.com",
            inserted_at=self._world.now(),
            request_id=request_id,
        )
        self._world.operations[operation.zone, name] = operation
        return operation

    def _finish(self, operation: Operation, target: Resource, why: Failure | None) -> None:
        operation.status, operation.ended_at, operation.failure = "DONE", self._world.now(), why
        if target.busy == operation.name:
            target.busy = ""
        self._world.agenda.after(self._world.settings.operations_kept_s, lambda: self._forget(operation))

    def _forget(self, operation: Operation) -> None:
        self._world.operations.pop((operation.zone, operation.name), None)
        for key in [key for key, found in self._by_request.items() if found is operation]:
            del self._by_request[key], self._asked[key]

    # -- the calls

    def _find(self, params: dict[str, Any]) -> Operation:
        zone, name = params["zone"], params["operation"]
        found = self._world.operations.get((zone, name))
        if found is None and name.isdigit():
            found = next((o for o in self._world.operations.values() if o.id == int(name) and o.zone == zone), None)
        if found is None:
            raise not_found(f"projects/{PROJECT}/zones/{zone}/operations/{name}")
        return found

    def get(self, params: dict[str, Any]) -> dict[str, Any]:
        """zoneOperations.get."""
        return self._find(params).view()

    def wait(self, params: dict[str, Any]) -> dict[str, Any]:
        """zoneOperations.wait, without the world's lock.

        disc: it waits for two minutes at most, "or might return after zero seconds": so it does while a test holds the
        clock, unless it is to move that.
        """
        with self._world.lock:
            operation = self._find(params)
            until = self._world.now() + _WAIT_S
            if self._world.clock.frozen and operation.status != "DONE":
                self._world.clock.advance(self._world.settings.held_wait_s)
        while True:
            with self._world.lock:
                self._world.agenda.settle()
                if operation.status == "DONE" or self._world.clock.frozen or self._world.now() >= until:
                    return operation.view()
            time.sleep(_POLL_S)

    def list(self, params: dict[str, Any]) -> dict[str, Any]:
        """zoneOperations.list: by name (disc: orderBy), and so the newest last."""
        found = [o for (zone, _), o in sorted(self._world.operations.items()) if zone == params["zone"]]
        return self._lister.answer(params, found, lambda o: o.view(), self._lost)

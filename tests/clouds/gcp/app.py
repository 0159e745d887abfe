"""The WSGI application: records, faults and rights around Compute Engine, Cloud Storage and Secret Manager."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from tests.clouds.common.control import CONTROL
from tests.clouds.common.faults import Dropped, Faults, Rule
from tests.clouds.common.recorder import Call, Recorder
from tests.clouds.gcp.calls import Reader, Request
from tests.clouds.gcp.control import Control, GceRule
from tests.clouds.gcp.errors import GceError, Interposed
from tests.clouds.gcp.gce import Gce
from tests.clouds.gcp.promises import broken
from tests.clouds.gcp.rights import Rights
from tests.clouds.gcp.services import Services

Answer = tuple[int, list[tuple[str, str]], bytes]
_JSON = [("Content-Type", "application/json; charset=UTF-8")]


class App:
    """The double as a WSGI application."""

    def __init__(self, gce: Gce) -> None:
        self.gce = gce
        self.recorder = Recorder()
        self.faults = Faults()
        self.rights = Rights()
        self._reader = Reader()
        self._services = Services(gce.world, self.rights)
        self._control = Control(gce, self.recorder, self.faults, self.rights, self._services)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"]
        if path.startswith(CONTROL):
            status, headers, body = self._control.answer(path.removeprefix(CONTROL), environ["double.body"])
        else:
            status, headers, body = self._recorded(self._reader.read(environ))
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    def _recorded(self, request: Request) -> Answer:
        self._services.claim(request)
        call = request.call()
        call.at = self.gce.world.clock.shown()
        started = time.monotonic()
        self.recorder.add(call)
        self.recorder.note(broken(call.agent, call.action, request.body))
        try:
            status, headers, body = self._answer(request, call)
        except GceError as error:
            call.code = error.reason
            status, headers, body = error.status, _JSON, error.body()
        except Dropped:
            call.code = "(no answer)"
            raise
        except Exception:  # noqa: BLE001 -- a client that is told of it is better than one that hangs up
            bug = self._bug(call, traceback.format_exc())
            status, headers, body = bug.status, _JSON, bug.body()
        finally:
            call.took_s = round(time.monotonic() - started, 6)
        call.status = status
        return status, headers, body

    def _bug(self, call: Call, text: str) -> GceError:
        """Note a bug of the double's own: the test at whose end it is found fails, whatever its client made of it."""
        self.recorder.note([f"{call.service}:{call.action}: {text}"])
        traceback.print_exc()
        call.code = "doubleHasABug"
        return GceError(500, call.code, text)

    def _answer(self, request: Request, call: Call) -> Answer:
        self._dawdle(call)
        rule = self.faults.pick(call)
        if rule and rule.when == "before":
            self._strike(rule, call)
        self.rights.check_credentials()
        if request.problem:
            raise request.problem
        if request.service == "compute":
            with self.gce.world.lock:
                self.gce.quotas.take(request.action, request.params)
        self.rights.check(request.service, request.action, request.params, request.body)
        try:
            answer: Answer | GceError = self._served(request, call)
        except GceError as refusal:
            answer = refusal
        if rule and rule.when == "after":
            self._strike(rule, call)  # what refuses can get lost as well
        if isinstance(answer, GceError):
            raise answer
        return answer

    def _served(self, request: Request, call: Call) -> Answer:
        if request.service != "compute" or request.method is None:
            return self._services.answer(request, self._checked)
        found = self.gce.answer(request.action, request.params, request.body)
        if request.action == "instances.testIamPermissions":
            found = {"permissions": [p for p in found["permissions"] if not self.rights.lacks(p)]}
        call.made = [found["targetLink"]] if request.action.endswith(".insert") else []
        return self._checked(request, found)

    def _checked(self, request: Request, found: dict[str, Any]) -> Answer:
        """Return an answer that is as the discovery document has it; a wrong one is a bug of the double."""
        assert request.method is not None
        wrong = self._reader.apis[request.service].bad_answer(request.method, found)
        if wrong:
            raise AssertionError(f"the double's answer is wrong at {wrong.where}: {wrong.why}; found {wrong.value!r}")
        return 200, _JSON, json.dumps(request.mask.applied(found)).encode()

    def _dawdle(self, call: Call) -> None:
        """Take the time that tests want a call to take: the network's, outside of any lock."""
        latency_s = self.gce.world.settings.latency_s
        if seconds := latency_s.get(call.action, latency_s.get("*", 0.0)):
            time.sleep(seconds)

    def _strike(self, rule: Rule, call: Call) -> None:
        call.fault = f"{rule.kind} {rule.when}"
        if rule.kind == "lose":
            raise Dropped
        if rule.kind == "hang":
            self.faults.hold(call, rule.when)
            return
        if rule.kind == "throttle" and call.service != "compute":
            raise GceError(429, "rateLimitExceeded", "The rate of requests is too high; try again later.")
        if isinstance(rule, GceRule) and rule.plain:
            raise Interposed(rule.status, rule.message)
        raise GceError(rule.status, rule.code, rule.message)

"""The WSGI application: records, faults and rights around EC2 of our own and moto's everything else."""

from __future__ import annotations

import io
import json
import time
import traceback
import uuid
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from tests.clouds.aws.calls import Request, error_answer, read
from tests.clouds.aws.control import Control
from tests.clouds.aws.ec2 import Ec2
from tests.clouds.aws.errors import Ec2Error
from tests.clouds.aws.rights import Rights, decode
from tests.clouds.aws.wire import Wire
from tests.clouds.aws.world import REGION
from tests.clouds.common.control import CONTROL
from tests.clouds.common.faults import Dropped, Faults, Rule
from tests.clouds.common.recorder import Call, Recorder

Answer = tuple[int, list[tuple[str, str]], bytes]


class App:
    """The double as a WSGI application."""

    def __init__(self, ec2: Ec2) -> None:
        self.ec2 = ec2
        self.recorder = Recorder()
        self.faults = Faults()
        self.rights = Rights()
        self._wire = Wire()
        self._moto: Any = DomainDispatcherApplication(create_backend_app)
        self._control = Control(ec2, self.recorder, self.faults, self.rights)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"]
        if path.startswith(CONTROL):
            status, headers, body = self._control.answer(path.removeprefix(CONTROL), environ["double.body"])
        else:
            status, headers, body = self._recorded(environ)
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    def _recorded(self, environ: dict[str, Any]) -> Answer:
        request = read(environ)
        call = request.call()
        call.at = self.ec2.world.clock.shown()
        started = time.monotonic()
        request_id = str(uuid.uuid4())
        parse_error = self._parse(request, call)
        self.recorder.add(call)
        try:
            status, headers, body = self._answer(environ, request, call, request_id, parse_error)
        except Ec2Error as error:
            call.code = error.code
            kind, body = error_answer(request, error, request_id)
            status, headers = error.status, [("Content-Type", kind)]
        except Dropped:
            call.code = "(no answer)"
            raise
        except Exception as error:  # noqa: BLE001 -- a client that is told of it is better than one that hangs up
            bug = self._bug(call, error)
            status, headers, body = bug.status, [("Content-Type", "text/xml")], bug.xml(request_id)
        finally:
            call.took_s = round(time.monotonic() - started, 6)
        call.status = status
        return status, [*headers, ("x-amzn-RequestId", request_id)], body

    def _bug(self, call: Call, error: Exception) -> Ec2Error:
        """Note a bug of the double's own: the test at whose end it is found fails, whatever its client made of it."""
        self.recorder.note([f"{call.service}:{call.action}: {''.join(traceback.format_exception(error))}"])
        traceback.print_exception(error)
        call.code = "DoubleHasABug"
        return Ec2Error(call.code, repr(error), 500)

    def _parse(self, request: Request, call: Call) -> Ec2Error | None:
        """Fill in the parameters of a call of EC2's; what is wrong with them is told when it is its turn."""
        call.token = str(call.params.get("ClientToken", ""))
        if request.service != "ec2":
            return None
        try:
            call.params = self._wire.parse(request.action, request.form)
        except Ec2Error as error:
            return error
        return None

    def _answer(
        self, environ: dict[str, Any], request: Request, call: Call, request_id: str, parse_error: Ec2Error | None
    ) -> Answer:
        self._dawdle(call)
        rule = self.faults.pick(call)
        if rule and rule.when == "before":
            self._strike(rule, call)
        self.rights.check(call)
        if parse_error:
            raise parse_error
        if request.service == "ec2":
            answer = self._ec2(environ, request, call, request_id)
        elif request.service == "ssm" and self.ec2.run_command.answers(call.action):
            answer = _json(self.ec2.run_command.answer(call.action, json.loads(request.body or b"{}")))
        elif call.action == "DecodeAuthorizationMessage":
            answer = _decoded(request.form.get("EncodedMessage", ""), request_id)
        else:
            answer = self._from_moto(environ, call)
        if rule and rule.when == "after":
            self._strike(rule, call)
        return answer

    def _dawdle(self, call: Call) -> None:
        """Take the time that tests want a call to take: the network's, outside of any lock."""
        latency_s = self.ec2.world.settings.latency_s
        if seconds := latency_s.get(call.action, latency_s.get("*", 0.0)):
            time.sleep(seconds)

    def _strike(self, rule: Rule, call: Call) -> None:
        call.fault = f"{rule.kind} {rule.when}"
        if rule.kind == "lose":
            raise Dropped
        if rule.kind == "hang":
            self.faults.hold(call, rule.when)
            return
        code = rule.code
        if rule.kind == "throttle" and call.service != "ec2":
            code = {"s3": "SlowDown", "sts": "Throttling", "iam": "Throttling"}.get(call.service, "ThrottlingException")
        raise Ec2Error(code, rule.message, rule.status)

    def _ec2(self, environ: dict[str, Any], request: Request, call: Call, request_id: str) -> Answer:
        if request.region != REGION:
            raise Ec2Error("AuthFailure", f"This double serves {REGION}, the request is signed for {request.region!r}")
        with self.ec2.world.lock:
            self.ec2.buckets.take(call.action, call.params)
        if self.ec2.is_motos(call.action):
            self.ec2.check_moto(call.action, call.params)
            with self.ec2.catalog.moto_lock:
                answer = self._from_moto(environ, call)
                if answer[0] < 400:
                    self.ec2.after_moto(call.action, call.params)
            return answer
        result = self.ec2.answer(call.action, call.params)
        call.made = _made(call.action, result)
        return 200, [("Content-Type", "text/xml;charset=UTF-8")], self._wire.render(call.action, result, request_id)

    def _from_moto(self, environ: dict[str, Any], call: Call) -> Answer:
        if not call.action.startswith(("Describe", "Get", "Head", "List")):
            self.ec2.catalog.changed = True
        environ["wsgi.input"] = io.BytesIO(environ["double.body"])
        status, headers = 500, list[tuple[str, str]]()

        def start_response(line: str, fields: list[tuple[str, str]], exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = int(line.split(maxsplit=1)[0]), fields

        chunks = self._moto(environ, start_response)
        body = b"".join(chunks)
        if close := getattr(chunks, "close", None):
            close()
        if status >= 400:
            call.code = f"HTTP {status}"
        return status, headers, body


def _made(action: str, result: dict[str, Any]) -> list[str]:
    """Return the ids of what a call has created."""
    if action == "RunInstances":
        return [i["InstanceId"] for i in result["Instances"]]
    made = {"CreateVolume": "VolumeId", "CreateSnapshot": "SnapshotId"}.get(action)
    return [result[made]] if made else []


def _json(found: dict[str, Any]) -> Answer:
    return 200, [("Content-Type", "application/x-amz-json-1.1")], json.dumps(found).encode()


def _decoded(encoded: str, request_id: str) -> Answer:
    body = (
        '<DecodeAuthorizationMessageResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<DecodeAuthorizationMessageResult><DecodedMessage>{escape(decode(encoded))}</DecodedMessage>"
        f"</DecodeAuthorizationMessageResult><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
        "</DecodeAuthorizationMessageResponse>"
    )
    return 200, [("Content-Type", "text/xml")], body.encode()

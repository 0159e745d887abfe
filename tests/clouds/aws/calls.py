"""What an HTTP request asks for: service, action and parameters; and errors in each service's form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from tests.clouds.aws.errors import Ec2Error
from tests.clouds.common.recorder import Call

_SCOPE = re.compile(r"Credential=([^/,\s]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
# Beyond this the parameters of other services' calls are not kept.
_KEPT = 4096


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    service: str
    region: str
    action: str
    form: dict[str, str]
    body: bytes
    agent: str
    access_key: str

    def call(self) -> Call:
        """Return the request as the recorder keeps it; EC2's parameters are filled in when they are parsed."""
        return Call(self.service, self.action, _params(self), self.agent, self.access_key)


def read(environ: dict[str, Any]) -> Request:
    """Return what a request is about."""
    body: bytes = environ["double.body"]
    auth = environ.get("HTTP_AUTHORIZATION", "")
    scope = _SCOPE.search(auth)
    form: dict[str, str] = {}
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    elif environ["QUERY_STRING"]:
        form = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    service = scope[3].lower() if scope else "ec2" if form.get("Version") == "2016-11-15" else "s3"
    return Request(
        service=service,
        region=scope[2] if scope else "",
        action=_action(environ, form, service),
        form=form,
        body=body,
        agent=environ.get("HTTP_USER_AGENT", ""),
        access_key=scope[1] if scope else "",
    )


def _action(environ: dict[str, Any], form: dict[str, str], service: str) -> str:
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return str(target).rpartition(".")[2]
    if service == "s3":
        return _s3_action(environ, form)
    return form.get("Action") or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"


def _s3_action(environ: dict[str, Any], query: dict[str, str]) -> str:
    """Return the name of an S3 operation, for those that copying files needs."""
    method = str(environ["REQUEST_METHOD"])
    bucket, _, key = environ["PATH_INFO"].strip("/").partition("/")
    if method == "POST":
        return next((name for part, name in _S3_POSTS.items() if part in query), "PostObject")
    if "uploadId" in query:
        return {"PUT": "UploadPart", "GET": "ListParts", "DELETE": "AbortMultipartUpload"}.get(method, method)
    if key:
        if method == "PUT" and environ.get("HTTP_X_AMZ_COPY_SOURCE"):
            return "CopyObject"
        return f"{method.capitalize()}Object"
    if not bucket:
        return "ListBuckets"
    return _S3_BUCKETS.get(method, method)


_S3_BUCKETS = {"GET": "ListObjectsV2", "PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}
_S3_POSTS = {"uploads": "CreateMultipartUpload", "uploadId": "CompleteMultipartUpload", "delete": "DeleteObjects"}


def _params(request: Request) -> dict[str, Any]:
    if request.service == "ec2" or not request.body:
        return dict(request.form)
    try:
        found = json.loads(request.body[:_KEPT])
    except ValueError:
        return dict(request.form)
    return found if isinstance(found, dict) else {}


def error_answer(request: Request, error: Ec2Error, request_id: str) -> tuple[str, bytes]:
    """Return content type and body of an error, as the request's service writes it."""
    if request.service == "ec2":
        return "text/xml;charset=UTF-8", error.xml(request_id)
    code, message = escape(error.code), escape(error.message)
    if request.service == "s3":
        body = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
        return "application/xml", body.encode()
    if request.service in ("sts", "iam"):
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return "text/xml", body.encode()
    return "application/x-amz-json-1.1", json.dumps({"__type": error.code, "message": error.message}).encode()

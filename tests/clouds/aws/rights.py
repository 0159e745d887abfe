"""Who may what: denied actions, their encoded messages, and credentials that are no longer good."""

from __future__ import annotations

import base64
import fnmatch
import json
import zlib

from tests.clouds.aws.errors import Ec2Error
from tests.clouds.aws.world import ACCOUNT
from tests.clouds.common.recorder import Call

# How each state of the credentials shows, by service ("" for the others): errors; STS' and S3's own error lists.
_EXPIRED = {
    "ec2": ("RequestExpired", "Request has expired.", 400),
    "sts": ("ExpiredToken", "The security token included in the request is expired", 403),
    "s3": ("ExpiredToken", "The provided token has expired.", 400),
    "": ("ExpiredTokenException", "The security token included in the request is expired", 400),
}
_INVALID = {
    "ec2": ("AuthFailure", "AWS was not able to validate the provided access credentials", 401),
    "sts": ("InvalidClientTokenId", "The security token included in the request is invalid.", 403),
    "s3": ("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.", 403),
    "": ("UnrecognizedClientException", "The security token included in the request is invalid.", 400),
}
STATES = {"ok": {}, "expired": _EXPIRED, "invalid": _INVALID}


class Rights:
    """What the account's caller lacks."""

    def __init__(self) -> None:
        self.denied: list[str] = []  # globs over "service:Action"
        self.credentials = "ok"

    def check(self, call: Call) -> None:
        """Refuse a call.

        Raises:
            Ec2Error: With the code that the call's service has for it.
        """
        if table := STATES[self.credentials]:
            raise Ec2Error(*table.get(call.service, table[""]))
        name = f"{call.service}:{call.action}"
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.denied):
            raise _refusal(call, name)

    def clear(self) -> None:
        """Allow everything."""
        self.denied.clear()
        self.credentials = "ok"


def _refusal(call: Call, name: str) -> Ec2Error:
    who = f"arn:aws:iam::{ACCOUNT}:user/tester"
    text = f"User: {who} is not authorized to perform: {name}"
    if call.service == "ec2":
        message = {
            "allowed": False,
            "explicitDeny": False,
            "matchedStatements": {"items": []},
            "context": {"principal": {"arn": who}, "action": name, "resource": "*", "conditions": {"items": []}},
        }
        # EC2 alone encodes the reason; sts:DecodeAuthorizationMessage opens it.
        encoded = base64.urlsafe_b64encode(zlib.compress(json.dumps(message).encode())).decode()
        return Ec2Error(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. {text} on resource: * because no identity-based policy "
            f"allows the {name} action. Encoded authorization failure message: {encoded}",
            403,
        )
    if call.service in ("s3", "sts", "iam"):
        return Ec2Error("AccessDenied", text, 403)
    return Ec2Error("AccessDeniedException", text, 400)


def decode(encoded: str) -> str:
    """Return what an encoded message of ours says.

    Raises:
        Ec2Error: It is none of ours (STS' error list: InvalidAuthorizationMessageException).
    """
    try:
        return zlib.decompress(base64.urlsafe_b64decode(encoded)).decode()
    except (ValueError, zlib.error):
        raise Ec2Error("InvalidAuthorizationMessageException", "The message could not be decoded") from None

"""EC2's calls with our errors: every answer of AWS becomes one of our tree here, and lists are read to their end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends._aws_errors import code_of, sign_in_error, translate
from airflow_rankvol.backends._aws_view import filters, name_of
from airflow_rankvol.errors import AuthDenied, BackendError, RankVolError

#: A page of DescribeVolumes and DescribeInstances holds at most as many, and CreateTags takes as many resources.
PAGE = 1000
#: As many values one filter takes (EC2 API Reference, Filter).
FILTER_VALUES = 200

Raw = dict[str, Any]

_DIGIT = re.compile(r"[0-9]")


class Ec2:
    """Calls in one account and region, for all threads of this process."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients

    def call(self, action: str, verb: str, resource: str, **parameters: Any) -> Raw:
        """Call an action once.

        Raises:
            BackendError: what AWS answered; ``code`` tells its code.
        """
        with self.mapped(verb, resource):
            return self.clients.call(action, **parameters)

    def call_once(self, action: str, verb: str, resource: str, parameters: Callable[[], Raw]) -> Raw:
        """Call an action once, with parameters of the moment at which it is sent."""
        with self.mapped(verb, resource):
            return self.clients.call_once(action, parameters)

    @contextmanager
    def mapped(self, verb: str, resource: str) -> Iterator[None]:
        """Turn the SDK's errors into ours."""
        try:
            yield
        except Exception as exc:
            error = self._translated(exc, verb, resource)
            if error is None:
                raise
            if isinstance(error, AuthDenied):
                self.clients.sign_anew()
            raise error from exc

    def _translated(self, exc: Exception, verb: str, resource: str) -> RankVolError | None:
        if isinstance(exc, ClientError):
            return translate(exc, verb, resource, self._decoded(exc))
        if isinstance(exc, BotoCoreError):
            return translate(exc, verb, resource)
        # The hook fetches credentials at the first call, by files, HTTP or other SDKs.
        return sign_in_error(exc, self.clients.conn_id, verb, resource)

    def pages(self, action: str, key: str, verb: str, resource: str, **parameters: Any) -> Iterator[Raw]:
        """Return all items of a list that comes in pages."""
        token: dict[str, str] = {}
        while True:
            answer = self.call(action, verb, resource, **parameters, **token)
            yield from answer.get(key) or ()
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def volumes(self, verb: str, resource: str, wanted: Sequence[Raw]) -> list[Raw]:
        """Return the volumes that pass the filters."""
        found = self.pages("DescribeVolumes", "Volumes", verb, resource, Filters=list(wanted), MaxResults=PAGE)
        return [raw for raw in found if raw.get("State") != "deleted"]

    def volumes_by(self, filter_name: str, values: Sequence[str], verb: str, resource: str) -> list[Raw]:
        """Return the volumes whose filter has one of the values, however many; none for what does not exist."""
        found = []
        for start in range(0, len(values), FILTER_VALUES):
            wanted = [{"Name": filter_name, "Values": list(values[start : start + FILTER_VALUES])}]
            found += self.volumes(verb, resource, wanted)
        return found

    def volumes_named(self, names: Collection[str], verb: str, resource: str) -> list[Raw]:
        """Return the volumes that have one of the names; with more than a filter takes, all that may differ by digits.

        "A question mark (?) matches zero or one character" (EC2 User Guide, "Filter resources"): the names of many
        ranks are a few patterns, and what these find besides is left out.
        """
        wanted = sorted(names)
        if len(wanted) > FILTER_VALUES:
            wanted = sorted({_DIGIT.sub("?", name) for name in wanted})
        found = self.volumes_by("tag:Name", wanted, verb, resource)
        return [raw for raw in found if name_of(raw) in names]

    def volume(self, volume_id: str, verb: str) -> Raw | None:
        """Return one volume. By a filter: a missing id is an error where ids are asked for."""
        return next(iter(self.volumes(verb, volume_id, filters(volume_id=volume_id))), None)

    def nodes(self, verb: str, resource: str, wanted: Sequence[Raw]) -> list[Raw]:
        """Return the instances that pass the filters."""
        found = self.pages("DescribeInstances", "Reservations", verb, resource, Filters=list(wanted), MaxResults=PAGE)
        return [raw for reservation in found for raw in reservation.get("Instances") or ()]

    def node(self, node_id: str, verb: str) -> Raw | None:
        """Return one instance, also one that has ended within the last hour."""
        return next(iter(self.nodes(verb, node_id, filters(instance_id=node_id))), None)

    def _decoded(self, exc: ClientError) -> str:
        """Return what a refusal is about, where STS may tell it."""
        message = str(exc.response.get("Error", {}).get("Message", ""))
        _, marked, encoded = message.partition("Encoded authorization failure message: ")
        if code_of(exc) != "UnauthorizedOperation" or not marked:
            return ""
        try:
            sts = self.clients.get("sts")
            text = sts.decode_authorization_message(EncodedMessage=encoded.split()[0])["DecodedMessage"]
            return _told(json.loads(text))
        except (BotoCoreError, ClientError, ValueError, KeyError, IndexError):
            # Mostly the right sts:DecodeAuthorizationMessage is missing, too; the refusal itself is what counts.
            return ""


def _told(decoded: Raw) -> str:
    context = decoded.get("context") or {}
    who = (context.get("principal") or {}).get("arn", "the connection's identity")
    how = "an explicit deny forbids" if decoded.get("explicitDeny") else "no policy allows"
    return f"{how} {context.get('action', 'the action')} on {context.get('resource', 'the resource')} for {who}"


def code(error: BaseException) -> str:
    """Return AWS' code behind an error of ours, empty where AWS did not answer."""
    cause = error.__cause__ if isinstance(error, BackendError) else error
    return code_of(cause) if isinstance(cause, ClientError) else ""

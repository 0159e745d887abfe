"""What SSM's Run Command keeps of a node's job: the report on its stderr, and how its output begins.

The node has sent itself the command (engine/report_ssm.sh), with its own name as the comment.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_rankvol.backends._aws_calls import Ec2, code
from airflow_rankvol.backends._console import report_of
from airflow_rankvol.errors import BackendError, ConfigError
from airflow_rankvol.spec.templates import NodeTemplate, ReportChannel

DOCUMENT = "AWS-RunShellScript"
#: As long as that document lets a script run, in seconds: its parameter ``executionTimeout``.
MAX_EXECUTION_S = 172_800
#: SendCommand: OutputS3KeyPrefix has at most 500 characters; ours ends with the node's name (at most 63).
MAX_PREFIX = 430
#: More than any node of ours writes to its stderr, in bytes.
MAX_STDERR = 1 << 18
# S3 User Guide, "Bucket naming rules"; CloudWatch Logs API Reference, CreateLogGroup.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/=+@:-]*")
_LOG_GROUP = re.compile(r"[A-Za-z0-9._/#-]{1,512}")
# A status that is none of these is followed by another one.
_ENDED = frozenset({"Success", "Failed", "TimedOut", "Cancelled"})

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunCommand:
    """Reads what became of the commands that nodes have sent to themselves."""

    ec2: Ec2

    def report(self, node_id: str, name: str) -> str | None:
        """Return a node's report, of whichever of its commands has it.

        GetCommandInvocation shows 8,000 characters of stderr; the rest of a longer report is in the bucket.
        """
        for found in self._invocations(node_id, name):
            report = report_of(str(found.get("StandardErrorContent") or ""))
            url = str(found.get("StandardErrorUrl") or "")
            if report is None and url and found.get("Status") in _ENDED and found.get("StandardErrorContent"):
                report = report_of(self._stored(url))
            if report is not None:
                return report
        return None

    def output(self, node_id: str, name: str) -> str:
        """Return how the output of a node's job begins: the first 24,000 characters, once it has ended."""
        shown = (str(found.get("StandardOutputContent") or "") for found in self._invocations(node_id, name))
        return next(filter(None, shown), "")

    def _invocations(self, node_id: str, name: str) -> Iterator[Raw]:
        """Return what is known of each command that a node has sent to itself; a repeated call makes several."""
        try:
            with self.ec2.mapped("read_report", node_id):
                ssm = self.ec2.clients.get("ssm")
                listed = ssm.list_command_invocations(InstanceId=node_id, MaxResults=50)["CommandInvocations"]
        except BackendError as exc:
            if code(exc) == "InvalidInstanceId":  # it has ended, or its agent never registered
                return
            raise
        for item in listed:
            if item.get("Comment") == name and item.get("DocumentName") == DOCUMENT:
                with self.ec2.mapped("read_report", node_id):
                    yield ssm.get_command_invocation(CommandId=item["CommandId"], InstanceId=node_id)

    def _stored(self, url: str) -> str:
        bucket, key = stored_at(url)
        with self.ec2.mapped("read_report", f"s3://{bucket}/{key}"):
            answer = self.ec2.clients.get("s3").get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{MAX_STDERR - 1}")
            return str(answer["Body"].read().decode("utf-8", "replace"))

    def check(self, template: NodeTemplate, where: str) -> None:
        """Refuse a template whose reports could not come through Run Command, before anything is created.

        Raises:
            ConfigError: a field is missing or wrong.
            AuthDenied: the connection's identity may not read what became of commands.
        """
        if template.report is not ReportChannel.SSM:
            return
        check_fields(template, where)
        self._try_rights(where)
        if template.report_output:
            self._check_bucket(template.report_output, where)

    def _try_rights(self, where: str) -> None:
        nowhere = "i-00000000000000000"
        for method, wanted in (
            ("list_command_invocations", {"InstanceId": nowhere}),
            ("get_command_invocation", {"InstanceId": nowhere, "CommandId": str(uuid.UUID(int=0))}),
        ):
            try:
                with self.ec2.mapped("check", f"{where}.report"):
                    getattr(self.ec2.clients.get("ssm"), method)(**wanted)
            except BackendError as exc:
                if code(exc) not in ("InvocationDoesNotExist", "InvalidInstanceId", "InvalidCommandId"):
                    raise

    def _check_bucket(self, place: str, where: str) -> None:
        bucket, _ = split(place)
        try:
            with self.ec2.mapped("check", place):
                self.ec2.clients.get("s3").head_bucket(Bucket=bucket)
        except BackendError as exc:
            if code(exc) in ("404", "NoSuchBucket"):
                raise ConfigError(
                    f"{where}.report_output: {place!r}: there is no bucket {bucket!r}. Create it, or correct it"
                ) from exc
            # The node writes there, and this identity need not be allowed to look into the bucket, wherever it lies.
            if code(exc) not in ("403", "301", "400"):
                raise


def check_fields(template: NodeTemplate, where: str) -> None:
    """Refuse what Run Command does not take.

    Raises:
        ConfigError: names the field, what was found and what is possible.
    """
    if not template.instance_profile:
        raise ConfigError(
            f"{where}.instance_profile is not set; with report='ssm' the node's SSM agent works by it. Name a profile "
            "with the rights that docs/aws.md lists for it"
        )
    lifetime_s = template.lifetime.total_seconds()
    if lifetime_s > MAX_EXECUTION_S:
        raise ConfigError(
            f"{where}.lifetime: {lifetime_s / 3600:g} hours; with report='ssm' at most {MAX_EXECUTION_S // 3600}: "
            "then Run Command ends a script. Set a shorter one, or report='console'"
        )
    if template.report_output is not None:
        bucket, prefix = split(template.report_output)
        fits = _BUCKET.fullmatch(bucket) and _PREFIX.fullmatch(prefix) and len(prefix) <= MAX_PREFIX
        if not template.report_output.startswith("s3://") or not fits:
            raise ConfigError(
                f"{where}.report_output: {template.report_output!r} was found; expected 's3://bucket/prefix' with a "
                f"prefix of at most {MAX_PREFIX} letters, digits and !_.*'()/=+@:-"
            )
    group = template.report_log_group
    if group is not None and not _LOG_GROUP.fullmatch(group):
        raise ConfigError(
            f"{where}.report_log_group: {group!r} was found; expected the name of a CloudWatch log group: at most 512 "
            "letters, digits and ._/#-"
        )


def split(place: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/prefix``."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    return bucket, prefix


def stored_at(url: str) -> tuple[str, str]:
    """Return bucket and key of an address of S3, which has the bucket in its path or in its host's name."""
    parts = urlsplit(url)
    path = unquote(parts.path).lstrip("/")
    host = parts.hostname or ""
    if re.match(r"s3[.-]", host):
        bucket, _, key = path.partition("/")
        return bucket, key
    return re.split(r"\.s3[.-]", host, maxsplit=1)[0], path

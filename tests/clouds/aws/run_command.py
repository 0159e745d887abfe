"""SSM's Run Command: commands for instances whose agent has registered, and what becomes of them.

Sources: the shapes of botocore's model of SSM with their texts, and the Systems Manager User Guide ("Understanding
command statuses"). There is no token: the same call twice is two commands.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

from tests.clouds.aws.errors import Ec2Error, not_modelled
from tests.clouds.aws.world import ACCOUNT, REGION, World
from tests.clouds.common.clock import as_datetime

DOCUMENT = "AWS-RunShellScript"
PLUGIN = "aws:runShellScript"
# GetCommandInvocation: "The first 24,000 characters written by the plugin to stdout", "the first 8,000 … to stderr".
STDOUT_SHOWN, STDERR_SHOWN = 24_000, 8_000
# The document's own patterns: aws ssm get-document --name AWS-RunShellScript.
_PARAMETERS = {
    "commands": None,
    "workingDirectory": None,
    "executionTimeout": re.compile(r"([1-9][0-9]{0,4})|(1[0-6][0-9]{4})|(17[0-1][0-9]{3})|(172[0-7][0-9]{2})|(172800)"),
}


@dataclass
class Invocation:
    """One command on one instance; SendCommand gives each of its instances one."""

    command_id: str
    instance_id: str
    comment: str
    commands: list[str]
    requested_at: float
    start_within_s: float
    execution_s: float
    bucket: str = ""
    prefix: str = ""
    log_group: str = ""
    status: str = "Pending"
    details: str = "Pending"
    code: int = -1  # "If the response code is -1, then the command hasn't started running on the managed node"
    stdout: str = ""
    stderr: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0

    def key(self, stream: str) -> str:
        """Return the object's name below the bucket that the agent uploads a stream to."""
        parts = (self.prefix, self.command_id, self.instance_id, "awsrunShellScript", "0.awsrunShellScript", stream)
        return "/".join(part for part in parts if part)

    def url(self, stream: str) -> str:
        """Return where SSM says that the whole stream is; nothing without a bucket."""
        return f"https://s3.{REGION}.amazonaws.com/{self.bucket}/{self.key(stream)}" if self.bucket else ""


class RunCommand:
    """The calls of Run Command, and the agents that carry commands out."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._agents: set[str] = set()
        self._invocations: list[Invocation] = []
        self._actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "SendCommand": self._send,
            "GetCommandInvocation": self._get,
            "ListCommandInvocations": self._list,
        }

    @cached_property
    def _model(self) -> Any:
        return botocore.session.Session().get_service_model("ssm")

    def answers(self, action: str) -> bool:
        """Return whether an action is one of Run Command's: moto "succeeds" at once, and runs nothing."""
        return action in self._actions or "Command" in action

    def answer(self, action: str, params: dict[str, Any]) -> dict[str, Any]:
        """Do what a call asks for.

        Raises:
            Ec2Error: with SSM's code.
        """
        if action not in self._actions:
            raise not_modelled(f"the action ssm:{action}")
        self._check(action, params)
        with self._world.lock:
            self._world.agenda.settle()
            self._expire()
            return self._actions[action](params)

    def clear(self) -> None:
        """Forget all agents and commands."""
        self._agents.clear()
        self._invocations.clear()

    # -- what callers ask for

    def _check(self, action: str, params: dict[str, Any]) -> None:
        shape = self._model.operation_model(action).input_shape
        wrong = ParamValidator().validate(params, shape).generate_report()
        for name, value in params.items():
            if wrong:
                break
            limits = shape.members[name].metadata
            size = value if isinstance(value, int) else len(value)
            if size > limits.get("max", size) or size < limits.get("min", size):
                wrong = f"{name}: {size} is out of bounds"
            elif isinstance(value, str) and not re.search(limits.get("pattern", ""), value):
                wrong = f"{name}: {value!r} does not match {limits['pattern']}"
        if wrong:
            raise Ec2Error("ValidationException", f"1 validation error detected: {wrong}")

    def _send(self, params: dict[str, Any]) -> dict[str, Any]:
        if params.get("Targets") or not params.get("InstanceIds"):
            raise not_modelled("SendCommand to other targets than InstanceIds")
        ids = params["InstanceIds"]
        if len({*ids}) < len(ids):
            raise Ec2Error("DuplicateInstanceId", "")
        if params.get("DocumentName") != DOCUMENT:
            raise Ec2Error("InvalidDocument", f"document {params.get('DocumentName')} does not exist.")
        values = _parameters(params.get("Parameters") or {})
        if lost := [i for i in ids if not self._is_managed(i)]:
            text = f"Instances [[{', '.join(lost)}]] not in a valid state for account {ACCOUNT}"
            raise Ec2Error("InvalidInstanceId", text)
        command_id = str(uuid.uuid4())
        logs = params.get("CloudWatchOutputConfig") or {}
        for instance_id in ids:
            self._invocations.append(
                Invocation(
                    command_id=command_id,
                    instance_id=instance_id,
                    comment=params.get("Comment", ""),
                    commands=values["commands"],
                    requested_at=self._world.now(),
                    start_within_s=params.get("TimeoutSeconds", 3600),
                    execution_s=float(values.get("executionTimeout", ["3600"])[0]),
                    bucket=params.get("OutputS3BucketName", ""),
                    prefix=params.get("OutputS3KeyPrefix", ""),
                    log_group=_log_group(logs, command_id),
                )
            )
        shown = {"CommandId": command_id, "DocumentName": DOCUMENT, "InstanceIds": ids, "Status": "Pending"}
        return {"Command": {**shown, "Comment": params.get("Comment", ""), "StatusDetails": "Pending"}}

    def _is_managed(self, instance_id: str) -> bool:
        instance = self._world.instances.get(instance_id)
        return instance is not None and instance.state == "running" and instance_id in self._agents

    def _get(self, params: dict[str, Any]) -> dict[str, Any]:
        for name in ("CommandId", "InstanceId"):
            if name not in params:
                raise Ec2Error("ValidationException", f"{name} must not be null")
        if params.get("PluginName", PLUGIN) not in (PLUGIN, "aws:RunShellScript"):
            raise Ec2Error("InvalidPluginName", "")
        wanted = (params["CommandId"], params["InstanceId"])
        found = next((i for i in self._seen() if (i.command_id, i.instance_id) == wanted), None)
        if found is None:
            raise Ec2Error("InvocationDoesNotExist", "")
        return _details(found)

    def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        if params.get("Filters"):
            raise not_modelled("Filters of ListCommandInvocations")
        found = [
            _summary(i)
            for i in self._seen()
            if params.get("CommandId", i.command_id) == i.command_id
            and params.get("InstanceId", i.instance_id) == i.instance_id
        ][::-1]
        size = params.get("MaxResults", 50)
        start = int(params.get("NextToken") or 0)
        more = {"NextToken": str(start + size)} if len(found) > start + size else {}
        return {"CommandInvocations": found[start : start + size], **more}

    def _seen(self) -> list[Invocation]:
        """Return what other calls know already."""
        newest = self._world.now() - self._world.settings.visible_s
        return [i for i in self._invocations if i.requested_at <= newest]

    def _expire(self) -> None:
        now = self._world.now()
        for i in self._invocations:
            if i.status == "Pending" and now > i.requested_at + i.start_within_s:
                i.status, i.details = "TimedOut", "Delivery Timed Out"
            elif i.status == "InProgress" and now > i.started_at + i.execution_s:
                i.status, i.details, i.ended_at = "TimedOut", "Execution Timed Out", now

    # -- what agents do

    def register(self, instance_id: str) -> bool:
        """Let an instance's agent register; says whether it may."""
        with self._world.lock:
            instance = self._world.instances[instance_id]
            if not self._world.settings.ssm_agents or instance.facts["IamInstanceProfile"] is None:
                return False
            self._agents.add(instance_id)
            return True

    def messages(self, instance_id: str) -> list[dict[str, Any]]:
        """Hand an agent the commands that it is to start now."""
        with self._world.lock:
            self._expire()
            due = [i for i in self._invocations if i.instance_id == instance_id and i.status == "Pending"]
            for i in due:
                i.status = i.details = "InProgress"
                i.started_at = self._world.now()
            return [
                {
                    "command": i.command_id,
                    "commands": i.commands,
                    "execution_s": i.execution_s,
                    "uploads": {stream: f"s3://{i.bucket}/{i.key(stream)}" for stream in ("stdout", "stderr")}
                    if i.bucket
                    else {},
                    "log_group": i.log_group,
                }
                for i in due
            ]

    def reply(self, instance_id: str, command: str, code: int, stdout: str, stderr: str) -> None:
        """Take what an agent says of a command that has ended."""
        with self._world.lock:
            self._expire()
            for i in self._invocations:
                if (i.command_id, i.instance_id, i.status) == (command, instance_id, "InProgress"):
                    i.status = i.details = "Failed" if code else "Success"
                    i.code, i.stdout, i.stderr, i.ended_at = code, stdout, stderr, self._world.now()


def _parameters(given: dict[str, list[str]]) -> dict[str, list[str]]:
    for name, values in given.items():
        if name not in _PARAMETERS:
            raise Ec2Error("InvalidParameters", f"{name} is not a parameter of {DOCUMENT}")
        pattern = _PARAMETERS[name]
        if pattern and not (len(values) == 1 and pattern.fullmatch(values[0])):
            raise Ec2Error("InvalidParameters", f"{name}: {values} does not match {pattern.pattern}")
    if not any(given.get("commands") or ()):
        raise Ec2Error("InvalidParameters", "commands: a value is required")
    return given


def _log_group(config: dict[str, Any], command_id: str) -> str:
    if not config.get("CloudWatchOutputEnabled"):
        return ""
    name = str(config.get("CloudWatchLogGroupName") or f"/aws/ssm/{DOCUMENT}")
    if not re.fullmatch(r"[\.\-_/#A-Za-z0-9]{1,512}", name):
        raise Ec2Error("ValidationException", f"{name!r} of {command_id} is no name of a log group")
    return name


def _summary(i: Invocation) -> dict[str, Any]:
    return {
        "CommandId": i.command_id,
        "InstanceId": i.instance_id,
        "Comment": i.comment,
        "DocumentName": DOCUMENT,
        "RequestedDateTime": i.requested_at,
        "Status": i.status,
        "StatusDetails": i.details,
        "StandardOutputUrl": i.url("stdout"),
        "StandardErrorUrl": i.url("stderr"),
        "CommandPlugins": [],
    }


def _details(i: Invocation) -> dict[str, Any]:
    """Return GetCommandInvocation's answer: no output before the end, and none of one that was cut off."""
    times = zip(("ExecutionStartDateTime", "ExecutionEndDateTime"), (i.started_at, i.ended_at), strict=True)
    whole = i.status in ("Success", "Failed")
    return {
        **{name: value for name, value in _summary(i).items() if name not in ("RequestedDateTime", "CommandPlugins")},
        "PluginName": PLUGIN,
        "ResponseCode": i.code,
        "StandardOutputContent": i.stdout[:STDOUT_SHOWN] if whole else "",
        "StandardErrorContent": i.stderr[:STDERR_SHOWN] if whole else "",
        **{name: as_datetime(at).isoformat() if at else "" for name, at in times},
        "CloudWatchOutputConfig": {
            "CloudWatchLogGroupName": i.log_group,
            "CloudWatchOutputEnabled": bool(i.log_group),
        },
    }

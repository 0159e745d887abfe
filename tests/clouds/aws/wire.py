"""EC2's protocol, read from botocore's own model: form fields to typed parameters, and results to XML.

Nothing is guessed: a field that the model does not have is an error, in a request as in an answer of ours.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape

import botocore.session

from tests.clouds.aws.errors import Ec2Error

XMLNS = "http://ec2.amazonaws.com/doc/2016-11-15/"
_INTEGERS = ("integer", "long")
_FLOATS = ("float", "double")


class Wire:
    """Reads requests and writes answers of the EC2 API."""

    def __init__(self) -> None:
        self._model: Any = botocore.session.Session().get_service_model("ec2")
        self._actions = frozenset(self._model.operation_names)

    def parse(self, action: str, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the parameters of a request, as a client gave them to boto3.

        Raises:
            Ec2Error: For an unknown action, an unknown parameter, or a value of the wrong type.
        """
        if action not in self._actions:
            raise Ec2Error("InvalidAction", f"The action {action} is not valid for this web service.")
        shape = self._model.operation_model(action).input_shape
        tree: dict[str, Any] = {}
        for key, value in form.items():
            if key not in ("Action", "Version"):
                _plant(tree, key, value)
        found: dict[str, Any] = _structure(tree, shape, "") if shape is not None else {}
        return found

    def render(self, action: str, result: Mapping[str, Any], request_id: str) -> bytes:
        """Return the answer as EC2 writes it."""
        out = [f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{XMLNS}">']
        out.append(f"<requestId>{request_id}</requestId>")
        shape = self._model.operation_model(action).output_shape
        if shape is not None:
            _write_members(out, shape, result)
        elif result:
            raise AssertionError(f"{action} has no output, found {sorted(result)}")
        out.append(f"</{action}Response>")
        return "".join(out).encode()


def _plant(tree: dict[str, Any], key: str, value: str) -> None:
    """Put ``Filter.1.Value.2=x`` into a tree of dicts."""
    *path, leaf = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise Ec2Error("InvalidParameterCombination", f"The parameter {key} is both a value and a structure")
    tree[leaf] = value


def _request_name(member: Any, default: str) -> str:
    """Return the name of a member in a request, as botocore's EC2Serializer makes it."""
    serialization = member.serialization
    if "queryName" in serialization:
        return str(serialization["queryName"])
    if "name" in serialization:
        name = str(serialization["name"])
        return name[0].upper() + name[1:]
    return default


def _structure(tree: Any, shape: Any, where: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise Ec2Error("InvalidParameterValue", f"The parameter {where} is not a structure")
    names = {_request_name(member, name): (name, member) for name, member in shape.members.items()}
    result = {}
    for key, value in tree.items():
        if key not in names:
            raise Ec2Error("UnknownParameter", f"The parameter {where}{key} is not recognized")
        name, member = names[key]
        result[name] = _value(value, member, f"{where}{key}")
    return result


def _value(raw: Any, shape: Any, where: str) -> Any:
    kind = shape.type_name
    if kind == "structure":
        return _structure(raw, shape, f"{where}.")
    if kind == "list":
        if not isinstance(raw, dict) or not all(key.isdigit() for key in raw):
            raise Ec2Error("InvalidParameterValue", f"The parameter {where} is not a list")
        return [_value(raw[key], shape.member, f"{where}.{key}") for key in sorted(raw, key=int)]
    if isinstance(raw, dict):
        raise Ec2Error("InvalidParameterValue", f"The parameter {where} is not a {kind}")
    return _scalar(raw, kind, where)


def _scalar(raw: str, kind: str, where: str) -> Any:
    try:
        if kind in _INTEGERS:
            return int(raw)
        if kind in _FLOATS:
            return float(raw)
        if kind == "boolean":
            return {"true": True, "false": False}[raw.lower()]
        if kind == "blob":
            return base64.b64decode(raw, validate=True)
    except (ValueError, KeyError):
        raise Ec2Error(
            "InvalidParameterValue", f"Invalid value '{raw}' for {where}. The value must be a {kind}."
        ) from None
    return raw


def _write_members(out: list[str], shape: Any, values: Mapping[str, Any]) -> None:
    members = shape.members
    for name, value in values.items():
        if value is None:
            continue
        member = members[name]
        _write(out, str(member.serialization.get("name", name)), member, value)


def _write(out: list[str], tag: str, shape: Any, value: Any) -> None:
    out.append(f"<{tag}>")
    kind = shape.type_name
    if kind == "structure":
        _write_members(out, shape, value)
    elif kind == "list":
        item = str(shape.member.serialization.get("name", "item"))
        for element in value:
            _write(out, item, shape.member, element)
    elif kind == "boolean":
        out.append("true" if value else "false")
    elif isinstance(value, datetime):
        out.append(value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z")
    else:
        out.append(escape(str(value)))
    out.append(f"</{tag}>")

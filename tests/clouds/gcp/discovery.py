"""The APIs as their discovery documents describe them: which calls there are, and what they take and give."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from jsonschema.validators import Draft202012Validator, extend

Json = dict[str, Any]

# An answer holds hundreds of resources of which few have changed since the last one: what was found right is not
# looked at again. Beyond so many, all is forgotten.
_REMEMBERED = 200_000


@dataclass(frozen=True)
class Method:
    """One call of an API."""

    service: str
    id: str  # such as "disks.insert"
    http: str
    path: tuple[str, ...]  # its parts: a word, or a name in braces with what comes after it
    query: Mapping[str, Json]
    patterns: Mapping[str, str]
    request: str
    response: str
    upload: bool = False

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """Return the values in a path, or None when it is another method's."""
        found = {}
        for mine, part in zip(self.path, parts, strict=True):
            if not mine.startswith("{"):
                if mine != part:
                    return None
                continue
            name, _, suffix = mine[1:].partition("}")
            if not part.endswith(suffix) or len(part) == len(suffix):
                return None
            found[name] = unquote(part.removesuffix(suffix))
        return found


@dataclass
class Wrong:
    """What is wrong with a value: where, and why."""

    where: str
    why: str
    value: Any = None


@dataclass
class Api:
    """One API of Google's: its methods by HTTP verb and length of path, its schemas."""

    service: str
    schemas: Json
    common: Mapping[str, Json]
    methods: dict[tuple[str, int], list[Method]] = field(default_factory=lambda: defaultdict(list))
    _right: set[int] = field(default_factory=set)
    _converted: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # References are names of the document's schemas; they are converted when first met.
        self._validator: Any = extend(Draft202012Validator, {"$ref": self._follow})({})  # type: ignore[no-untyped-call]

    @classmethod
    def load(cls, service: str, version: str) -> Api:
        """Read a document that google-api-python-client ships."""
        name = f"{service}.{version}.json"
        text = (files("googleapiclient.discovery_cache") / "documents" / name).read_text(encoding="utf-8")
        document = json.loads(text)
        api = cls(service, document["schemas"], document["parameters"])
        for found in _methods(document):
            for method in _variants(service, document["servicePath"], found):
                api.methods[method.http, len(method.path)].append(method)
        return api

    def find(self, http: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """Return the method that a request is for, with the values in its path.

        Args:
            path: as it came in: a name may hold a quoted slash.
        """
        parts = path.split("/")
        for method in self.methods.get((http, len(parts)), ()):
            found = method.match(parts)
            if found is not None:
                return method, found
        return None

    def bad_path(self, method: Method, path: Mapping[str, str]) -> Wrong | None:
        """Return what is wrong with a name in a path."""
        for name, value in path.items():
            if not re.fullmatch(method.patterns.get(name, ".+"), value):
                return Wrong(name, f"Must be a match of regex '{method.patterns[name]}'", value)
        return None

    def parse_query(self, method: Method, pairs: list[tuple[str, str]]) -> Json | Wrong:
        """Return the parameters of a query with their types, or what is wrong with one."""
        found: Json = {}
        for name, text in pairs:
            about = method.query.get(name) or self.common.get(name)
            if about is None:
                return Wrong(name, "Unknown parameter: no such field in the API's discovery document", text)
            value = _typed(about, text)
            if isinstance(value, Wrong):
                return Wrong(name, value.why, text)
            if about.get("repeated"):
                found.setdefault(name, []).append(value)
            else:
                found[name] = value
        for name, about in method.query.items():
            if about.get("required") and name not in found:
                return Wrong(name, "Required field", "")
        return found

    def bad_request(self, method: Method, body: Any) -> Wrong | None:
        """Return what is wrong with a request's body."""
        if not method.request:
            return Wrong("resource", "This method takes no body", body) if body is not None else None
        if body is None:
            return Wrong("resource", "Required field", "")
        return next(self._wrongs(f"{method.id} {method.request}", body), None)

    def bad_answer(self, method: Method, body: Any) -> Wrong | None:
        """Return what is wrong with an answer of the double's own."""
        return next(self._wrongs(method.response, body), None)

    def _wrongs(self, schema: str, body: Any) -> Iterator[Wrong]:
        for error in self._validator.evolve(schema={"$ref": schema}).iter_errors(body):
            yield Wrong("".join(_step(step) for step in error.absolute_path), error.message, error.instance)

    def _follow(self, validator: Any, ref: str, instance: Any, _schema: Json) -> Iterator[Any]:
        """Hold a value against a named schema; one that is for a request is ``method schema``."""
        key = hash((ref, json.dumps(instance, sort_keys=True, default=repr)))
        if key in self._right:
            return
        method, _, name = ref.rpartition(" ")
        if ref not in self._converted:
            self._converted[ref] = _converted(self.schemas[name], method)
        wrong = False
        for error in validator.descend(instance, self._converted[ref]):
            wrong = True
            yield error
        if not wrong:
            if len(self._right) > _REMEMBERED:
                self._right.clear()
            self._right.add(key)


def _step(step: Any) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step}"


def _methods(part: Json) -> Iterator[Json]:
    yield from part.get("methods", {}).values()
    for resource in part.get("resources", {}).values():
        yield from _methods(resource)


def _variants(service: str, base: str, found: Json) -> Iterator[Method]:
    """Return a method by its path and, when it takes files, by the path for these."""
    path = found["flatPath"] if "{+" in found["path"] else found["path"]
    yield _method(service, f"/{base}{path}", found)
    simple = found.get("mediaUpload", {}).get("protocols", {}).get("simple")
    if simple:
        yield _method(service, simple["path"], found, upload=True)


def _method(service: str, path: str, found: Json, *, upload: bool = False) -> Method:
    parameters: dict[str, Json] = found.get("parameters", {})
    return Method(
        service=service,
        id=found["id"].removeprefix(f"{service}."),
        http=found["httpMethod"],
        path=tuple(path.split("/")),
        query={name: about for name, about in parameters.items() if about["location"] == "query"},
        patterns={name: about["pattern"] for name, about in parameters.items() if "pattern" in about},
        request=found.get("request", {}).get("$ref", ""),
        response=found.get("response", {}).get("$ref", ""),
        upload=upload,
    )


def _typed(about: Json, text: str) -> Any:
    """Return a parameter's value with its type."""
    if about["type"] == "integer":
        if not re.fullmatch(r"-?\d+", text):
            return Wrong("", "Invalid value: expected an integer")
        return int(text)
    if about["type"] == "boolean":
        if text not in ("true", "false"):
            return Wrong("", "Invalid value: expected true or false")
        return text == "true"
    if about.get("format") in ("int64", "uint64") and not re.fullmatch(r"-?\d+", text):
        return Wrong("", "Invalid value: expected an integer")
    if "enum" in about and text not in about["enum"]:
        return Wrong("", f"Invalid value: expected one of {', '.join(about['enum'])}")
    if "pattern" in about and not re.fullmatch(about["pattern"], text):
        return Wrong("", f"Must be a match of regex '{about['pattern']}'")
    return text


def _converted(schema: Json, method: str) -> Json:
    """Return a discovery document's schema as JSON Schema: no unknown fields, 64-bit numbers as strings.

    Args:
        method: that takes it as a request, or nothing for an answer. What the server alone sets is refused in a
            request; the API itself ignores it [U], so only a mistaken client sends it. ``kind`` is what people send
            back with what they have read.
    """
    if "$ref" in schema:
        return {"$ref": f"{method} {schema['$ref']}".strip()}
    kind = schema.get("type")
    if kind == "any":
        return {}
    if kind == "array":
        return {"type": "array", "items": _converted(schema["items"], method)}
    if kind == "object":
        return _object(schema, method)
    made: Json = {"type": kind}
    if schema.get("format") in ("int64", "uint64"):
        made["pattern"] = r"^-?\d+\Z"
    elif "pattern" in schema:
        made["pattern"] = rf"^(?:{schema['pattern'].removeprefix('^').removesuffix('$')})\Z"
    if "enum" in schema:
        made["enum"] = schema["enum"]
    return made


def _object(schema: Json, method: str) -> Json:
    made: Json = {"type": "object", "additionalProperties": False}
    if "additionalProperties" in schema:
        made["additionalProperties"] = _converted(schema["additionalProperties"], method)
    properties = schema.get("properties", {})
    made["properties"] = {
        name: _converted(about, method)
        for name, about in properties.items()
        if not (method and about.get("readOnly") and name != "kind")
    }
    required = [n for n, about in properties.items() if method and _required(about, method)]
    return {**made, "required": required} if required else made


def _required(about: Json, method: str) -> bool:
    return any(name.endswith(f".{method}") for name in about.get("annotations", {}).get("required", ()))

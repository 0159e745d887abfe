"""The short (``name:path``) and the full (``{name: …, path: …, size: …}``) syntax of a mount."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, Field, ValidationError, model_serializer, model_validator

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.explain import error_text, located
from airflow_rankvol.spec.fields import Model, plain_text
from airflow_rankvol.spec.naming import Variable, pieces, variables
from airflow_rankvol.spec.templates import PARTIAL, VolumeTemplate

#: Where a gather node shows the volumes of all ranks.
RANKS_PATH = "/ranks"

_MAX_PATH_BYTES = 1024  # far below Linux's 4096, because gather mounts it below /ranks/<rank>
_MAX_COMPONENT_BYTES = 255
# Separators of the mount syntaxes and of what the node reads, quotes, and what a shell would expand.
_FORBIDDEN = frozenset(":,'\"`$\\")
# Mounting over one of these hides what the node itself needs.
_SYSTEM = frozenset({"/home", "/root", "/tmp", "/var", "/var/lib", "/var/log", "/var/tmp"})  # noqa: S108
_SYSTEM_TREES = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lock",
    "/var/run",
    RANKS_PATH,
)
_HELP = "expected 'name:path', as in 'data-volume-${NODE_RANK}:/data_volume'"


def check_name(value: str) -> str:
    """Refuse a name template whose variables cannot be read; what it renders to is checked with the job."""
    plain_text(value)
    variables(value)
    return value


def check_path(value: str) -> str:
    """Refuse a mount path that is not absolute and normalised, or that would hide the node's own files."""
    where = f"path {value!r}"
    bad = sorted({c for c in value if c in _FORBIDDEN or c.isspace() or not c.isprintable()})
    if bad:
        raise ConfigError(
            f"{where} has {', '.join(map(repr, bad))}; whitespace, control characters, quotes, colons,"
            " commas, dollars and backslashes are not allowed"
        )
    if not value.startswith("/"):
        raise ConfigError(f"{where} is not absolute; expected one that starts with '/', as in '/data_volume'")
    if ".." in value.split("/"):
        raise ConfigError(f"{where} has '..'; expected the path that it leads to")
    normal = "/" + posixpath.normpath(value).lstrip("/")
    if value != normal:
        raise ConfigError(f"{where} is not normalised; expected {normal!r}")
    if len(value.encode()) > _MAX_PATH_BYTES or max(len(c.encode()) for c in value.split("/")) > _MAX_COMPONENT_BYTES:
        raise ConfigError(
            f"path {value[:40]!r}… of {len(value)} characters is too long;"
            f" at most {_MAX_PATH_BYTES} bytes, and {_MAX_COMPONENT_BYTES} between two slashes, are allowed"
        )
    tree = next((tree for tree in _SYSTEM_TREES if value == tree or value.startswith(tree + "/")), None)
    if value == "/" or value in _SYSTEM or tree:
        relation = f"lies in {tree}," if tree and tree != value else "is"
        raise ConfigError(
            f"{where} {relation} a directory that the node itself needs; expected another, as in '/data_volume'"
        )
    return value


class Mount(Model):
    """A volume of every rank and where its node sees it.

    ``overrides`` holds what the full syntax says beyond the job's ``volume_template``, as plain values.
    """

    name: Annotated[str, AfterValidator(check_name)]
    path: Annotated[str, AfterValidator(check_path)]
    overrides: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if isinstance(value, str):
            return _split(value)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{value!r} was found; {_HELP}, or a mapping with name and path")
        given = dict(value)
        fields = {k: given.pop(k) for k in ("name", "path") if k in given}
        if isinstance(fields.get("path"), PurePosixPath):
            fields["path"] = str(fields["path"])
        nested = given.pop("overrides", {})
        if not isinstance(nested, Mapping):
            raise ConfigError(f"overrides: {nested!r} was found; a mapping is expected")
        given.update(nested)
        _check_keys(given)
        return fields | {"overrides": _canonical(given)}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, "path": self.path, **self.overrides}

    def __str__(self) -> str:
        return self.short()

    def short(self) -> str:
        """The short syntax; what ``overrides`` says does not show in it."""
        return f"{self.name}:{self.path}"

    def render(self) -> str | dict[str, Any]:
        """The mount as one would write it: short where that says it all, full otherwise."""
        return self.model_dump() if self.overrides else self.short()

    def template(self, base: VolumeTemplate) -> VolumeTemplate:
        """The job's volume template with this mount's overrides.

        Raises:
            pydantic.ValidationError: The two together make no sense.
        """
        if not self.overrides:
            return base
        return VolumeTemplate.model_validate(base.model_dump() | self.overrides)


def parse_mount(value: str | dict[str, Any]) -> Mount:
    """Read a mount in the short or the full syntax.

    Raises:
        ConfigError: It breaks a rule; one line per field says what was found and what is allowed.
    """
    try:
        return Mount.model_validate(value)
    except ValidationError as error:
        raise ConfigError(error_text(error)) from None


def _split(text: str) -> dict[str, str]:
    """Cut at the first colon outside a variable: a format (``${{ node_rank:03d }}``) has one inside."""
    try:
        for piece in pieces(text):
            colon = -1 if isinstance(piece.value, Variable) else text.find(":", piece.start, piece.end)
            if colon >= 0:
                return {"name": text[:colon], "path": text[colon + 1 :]}
    except ConfigError as error:
        raise ValidationError.from_exception_data("Mount", [located(str(error), "name", found=text)]) from None
    raise ConfigError(f"{text!r} has no path; {_HELP}")


def _canonical(given: dict[str, Any]) -> dict[str, Any]:
    """Check each overridden field by itself, and bring it into the one spelling that JSON can hold."""
    template = VolumeTemplate.model_validate(given, context=PARTIAL)
    return template.model_dump(mode="json", include=set(given))


def _check_keys(given: Mapping[object, object]) -> None:
    unknown = [key for key in given if key not in VolumeTemplate.model_fields]
    if unknown:
        _refuse_keys(unknown, given)


def _refuse_keys(unknown: list[object], given: Mapping[object, object]) -> NoReturn:
    hint = ""
    if len(given) == 1 and str(given[unknown[0]]).startswith("/"):
        hint = f" (did you mean {f'{unknown[0]}:{given[unknown[0]]}'!r}? YAML reads 'name: path' as a mapping)"
    known = ", ".join(["name", "path", *VolumeTemplate.model_fields])
    raise ConfigError(f"unknown field {', '.join(map(repr, unknown))}{hint}; known: {known}")

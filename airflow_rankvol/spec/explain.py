"""Validation errors in the words of whoever wrote the job."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from airflow_rankvol.spec.fields import Model

_SHOWN = 80  # characters of a wrong value


def error_text(exc: ValidationError) -> str:
    """One line per error: the field, what was found, what is allowed."""
    return "\n".join(_line(error, exc.title) for error in exc.errors(include_url=False))


def located(message: str, *loc: str | int, found: object = None) -> InitErrorDetails:
    """An error of ours at a place in the model, for `pydantic.ValidationError.from_exception_data`."""
    # The message goes in as a value, because the template's own braces would be taken for placeholders.
    return InitErrorDetails(
        type=PydanticCustomError("rankvol", "{message}", {"message": message}), loc=loc, input=found
    )


def _line(error: ErrorDetails, title: str) -> str:
    where = ".".join(map(str, error["loc"])) or title
    kind, found = error["type"], error["input"]
    if kind in ("value_error", "rankvol"):
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    if kind == "missing":
        return f"{where}: nothing was found; the field is required"
    if kind == "extra_forbidden":
        return f"{where}: unknown field{_guess(error['loc'], title)}"
    return f"{where}: {_short(found)} was found; {_allowed(error['msg'])}"


def _allowed(message: str) -> str:
    return message.replace("Input should", "it should", 1)


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _guess(loc: tuple[int | str, ...], title: str) -> str:
    """Say which field was meant, and which there are."""
    model = _model_at(loc[:-1], title)
    if model is None:
        return ""
    near = difflib.get_close_matches(str(loc[-1]), model.model_fields, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant}; known: {', '.join(model.model_fields)}"


def _model_at(loc: tuple[int | str, ...], title: str) -> type[Model] | None:
    """The model that holds the field at a place, followed through the fields' annotations."""
    model = next((m for m in Model.__subclasses__() if m.__name__ == title), None)
    for step in loc:
        field = model.model_fields.get(str(step)) if model else None
        candidates = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, Model)), None)
    return model

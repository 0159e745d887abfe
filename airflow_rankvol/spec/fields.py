"""Field types that the models share: what templates rendered by Jinja hand over counts as what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.sizes import format_duration, format_size, parse_duration, parse_size_gib

#: EC2's limits for a tag's key and value, in characters; Compute Engine's are its backend's business.
MAX_TAG_KEY, MAX_TAG_VALUE = 128, 256

_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0+)?")
_PRICE = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,10})?")


class Model(BaseModel):
    """A frozen value that knows its fields and refuses others."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def whole_number(value: object) -> int:
    """Read an integer, an integral float, or either of them as text (Jinja renders text); never a bool."""
    if not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and (found := _WHOLE.fullmatch(value.strip())):
            return int(found[1])
    raise ConfigError(f"{value!r} was found; a whole number is expected")


def one_or_many(value: object) -> object:
    """Take a lone text for a list of one."""
    return (value,) if isinstance(value, str) else value


def comma_separated(value: object) -> object:
    """Take a text for the list that its commas make."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def alternatives(value: object) -> object:
    """Write one name, or several in the order of preference, as one text: ``a, b``.

    Args:
        value: a text, which may have commas, or a list of texts.
    """
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(item, str) for item in given):
        raise ConfigError(f"{value!r} was found; a name is expected, or several as a list or comma-separated text")
    names = [plain_text(name.strip()) for item in given for name in item.split(",")]
    if not names:
        raise ConfigError(f"{value!r} was found; at least one name is expected")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name!r} is there twice; each name counts once")
    return ", ".join(names)


def price(value: object) -> str:
    """Write a price above zero as plain decimal text, whatever it came as."""
    text = value.strip() if isinstance(value, str) else ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = f"{Decimal(str(value)):f}"  # a float writes itself as 1e-05
    if not _PRICE.fullmatch(text) or not Decimal(text):
        raise ConfigError(f"{value!r} was found; a price above zero is expected, as in '0.05'")
    whole, _, rest = text.partition(".")
    return f"{int(whole)}.{rest}".rstrip("0").rstrip(".") if rest else str(int(whole))


def plain_text(value: str) -> str:
    """Refuse empty text, and text with control characters."""
    if not value.strip():
        raise ConfigError(f"{value!r} was found; text that is not empty is expected")
    if not value.isprintable():
        raise ConfigError(f"{value!r} was found; control characters are not allowed")
    return value


def scalar_text(value: object, what: str) -> str:
    """Write a scalar as text, as YAML and JSON would; anything else is refused."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise ConfigError(f"{what} is {value!r}; text, a number or a bool is expected")


def check_tags(value: object) -> dict[str, str]:
    """Check a user's tags, and leave the package's and the cloud's own names to them."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{value!r} was found; a mapping of tag names to values is expected")
    tags: dict[str, str] = {}
    for key, raw in value.items():
        if not isinstance(key, str) or not 0 < len(key) <= MAX_TAG_KEY:
            raise ConfigError(f"tag {key!r}: a name of 1 to {MAX_TAG_KEY} characters is expected")
        if key.lower().startswith(("rankvol", "aws:")):
            raise ConfigError(f"tag {key!r}: names that start with 'rankvol' or 'aws:' are reserved")
        tags[key] = scalar_text(raw, f"tag {key!r}")
        if len(tags[key]) > MAX_TAG_VALUE:
            raise ConfigError(f"tag {key!r} has {len(tags[key])} characters; at most {MAX_TAG_VALUE} are allowed")
    return tags


def _canonical_size(value: object) -> str:
    return format_size(parse_size_gib(value))


Size = Annotated[str, BeforeValidator(_canonical_size)]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
WholeNumber = Annotated[int, BeforeValidator(whole_number)]
Positive = Annotated[int, Field(ge=1), BeforeValidator(whole_number)]
NotNegative = Annotated[int, Field(ge=0), BeforeValidator(whole_number)]
Text = Annotated[str, AfterValidator(plain_text)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(comma_separated)]
Alternatives = Annotated[str, BeforeValidator(alternatives)]
Price = Annotated[str, BeforeValidator(price)]
Tags = Annotated[dict[str, str], BeforeValidator(check_tags)]

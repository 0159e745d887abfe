"""What people write for sizes and durations, read into numbers.

Sizes are binary, as in dstack: ``GB`` and ``GiB`` both mean 2**30 bytes, because that is what EBS and Compute
Engine sell as a "GB" of volume, and a bare number means GiB.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from fractions import Fraction

from airflow_rankvol.errors import ConfigError

_GIB_PER = {"M": Fraction(1, 1024), "G": Fraction(1), "T": Fraction(1024), "P": Fraction(1024**2)}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)")
_UNIT = re.compile(r"([MGTP])(?:I?B)?")
_SMALLEST_GIB = _GIB_PER["M"]
_LARGEST_GIB = Fraction(2**30)
_SIZE_HELP = "expected a number of GiB, or one with a unit MB, GB, TB or PB (binary, as MiB, GiB …), as in '100GB'"

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(
    rf"(?:({_NUMBER})\s*d)?\s*(?:({_NUMBER})\s*h)?\s*(?:({_NUMBER})\s*m)?\s*(?:({_NUMBER})\s*s)?",
    re.IGNORECASE,
)
_SECONDS_PER = (86400, 3600, 60, 1)
_DURATION_HELP = "expected seconds, or days, hours, minutes and seconds as in '24h', '90m' or '1d12h'"


def parse_size_gib(value: object) -> int | float:
    """Read a size into GiB: an int where it is a whole number.

    Args:
        value: A number of GiB, or text such as ``100GB``, ``1.5TB``, ``512 MB``, ``20GiB``, ``1T`` or ``20``.

    Raises:
        ConfigError: It is no such size, or below 1 MiB, or above 1 EiB.
    """
    gib = _size(value)
    if not _SMALLEST_GIB <= gib <= _LARGEST_GIB:
        raise ConfigError(f"size {value!r} is out of range; from 1MB to 1024PB is allowed")
    return gib.numerator if gib.denominator == 1 else float(gib)


def format_size(gib: float) -> str:
    """Write a size in the largest unit that takes at most two decimals; `parse_size_gib` reads it back."""
    exact = Fraction(gib)
    for unit in reversed(_GIB_PER):
        number = exact / _GIB_PER[unit]
        hundredths = number * 100
        if number >= 1 and hundredths.denominator == 1:
            whole, rest = divmod(hundredths.numerator, 100)
            return f"{whole}.{rest:02d}".rstrip("0").rstrip(".") + f"{unit}B"
    return f"{gib!r}GB"


def parse_duration(value: object) -> timedelta:
    """Read a duration: a timedelta, a number of seconds, or text such as ``24h``, ``90m`` or ``1d12h``.

    Raises:
        ConfigError: It is no such duration, or not above zero.
    """
    if isinstance(value, timedelta):
        duration = value
    else:
        try:
            duration = timedelta(seconds=_seconds(value))
        except OverflowError:
            raise ConfigError(f"duration {value!r} is too long; {_DURATION_HELP}") from None
    if duration <= timedelta(0):
        raise ConfigError(f"duration {value!r} is not above zero; {_DURATION_HELP}")
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration as days, hours, minutes and seconds; `parse_duration` reads it back."""
    hours, rest = divmod(duration.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    small = f"{seconds}.{duration.microseconds:06d}".rstrip("0") if duration.microseconds else str(seconds)
    parts = ((str(duration.days), "d"), (str(hours), "h"), (str(minutes), "m"), (small, "s"))
    return "".join(number + unit for number, unit in parts if number != "0") or "0s"


def _size(value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"size {value!r} is not a size; {_SIZE_HELP}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"size {value!r} is not finite; {_SIZE_HELP}")
        return Fraction(value)
    if isinstance(value, int):
        return Fraction(value)
    found = _SIZE.fullmatch(value.strip())
    if not found:
        raise ConfigError(f"size {value!r} is not a size; {_SIZE_HELP}")
    if not found[2]:
        return Fraction(found[1])
    unit = _UNIT.fullmatch(found[2].upper())
    if not unit:
        raise ConfigError(f"size {value!r} has the unknown unit {found[2]!r}; {_SIZE_HELP}")
    return Fraction(found[1]) * _GIB_PER[unit[1]]


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"duration {value!r} is not a duration; {_DURATION_HELP}")
    if not isinstance(value, str):
        if not math.isfinite(value):
            raise ConfigError(f"duration {value!r} is not finite; {_DURATION_HELP}")
        return value
    text = value.strip()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    found = _DURATION.fullmatch(text)
    if not text or not found:
        raise ConfigError(f"duration {value!r} is not a duration; {_DURATION_HELP}")
    total = sum(Fraction(n) * per for n, per in zip(found.groups(), _SECONDS_PER, strict=True) if n)
    return float(total)

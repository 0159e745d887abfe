"""A filter for disks by their names: few calls, however many ranks there are."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: As many patterns one filter holds; ranks' names are mostly one pattern.
MAX_PATTERNS = 20

_VARYING = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")


def filters_of(names: Sequence[str]) -> list[str]:
    """Return filters that together let all of the names through, and maybe others.

    Names that differ by a number are one regular expression (discovery document, filter: RE2, the whole field).
    """
    patterns = sorted({_VARYING.sub("[0-9a-f]+", name) for name in names})
    pages = [patterns[at : at + MAX_PATTERNS] for at in range(0, len(patterns), MAX_PATTERNS)]
    return [f'name eq "({"|".join(page)})"' for page in pages]

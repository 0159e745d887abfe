"""Keep ``${{ … }}`` away from Jinja, which would take its braces for an expression."""

from __future__ import annotations

import re

from airflow_rankvol.errors import ConfigError

_RAW_BLOCK = re.compile(r"(\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\})", re.DOTALL)
_RANK_VARIABLE = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)


def shield(text: str) -> str:
    """Return the text with every ``${{ … }}`` wrapped, so that rendering leaves it as it stands.

    Raises:
        ConfigError: for ``${#name}``: Jinja reads its ``{#`` as the start of a comment and would swallow what follows.
    """
    parts = _RAW_BLOCK.split(text)
    return "".join(part if _RAW_BLOCK.fullmatch(part) else _shield_plain(part, text) for part in parts)


def _shield_plain(part: str, whole: str) -> str:
    at = part.find("${#")
    if at >= 0:
        expansion = part[at : part.find("}", at) + 1 or len(part)]
        raise ConfigError(
            f"a templated text has {_shorten(expansion, 40)!r}, which Jinja would read as the start of a comment "
            "('{#'); expected it between raw tags, as in '{% raw %}${#name}{% endraw %}'. "
            f"The text is {_shorten(whole, 80)!r}"
        )
    return _RANK_VARIABLE.sub(lambda match: "{% raw %}" + match.group() + "{% endraw %}", part)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""Files that a job carries along, instead of naming them beside the DAG file: ``data:`` URLs, and JSON values."""

from __future__ import annotations

import base64
import binascii
import json
import string
from collections.abc import Mapping
from urllib.parse import quote, unquote_to_bytes

from airflow_rankvol.errors import ConfigError

_SCHEME = "data:"
# As readable as can be where it is shown; braces are Jinja's, "%" is the escape, and "#" ends a URL.
_KEPT = "".join(sorted(set(string.punctuation) - set("{}%#"))) + " "


def is_inline(source: object) -> bool:
    """Say whether a value of ``files`` is the content itself, and no path."""
    return isinstance(source, Mapping | list) or (isinstance(source, str) and source.startswith(_SCHEME))


def data_url(content: bytes, media_type: str = "") -> str:
    """Return a content as a ``data:`` URL, in which Airflow finds nothing to render."""
    return f"{_SCHEME}{media_type},{quote(content, safe=_KEPT)}"


def inline_content(source: object) -> bytes | None:
    """Return the content that a value of ``files`` holds; None where it is a path.

    Raises:
        ConfigError: it is neither JSON nor a ``data:`` URL (RFC 2397).
    """
    if not is_inline(source):
        return None
    if not isinstance(source, str):
        try:
            return json.dumps(source, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise ConfigError(f"a value was found that is not JSON ({exc}); JSON values are expected") from exc
    head, comma, body = source.partition(",")
    if not comma:
        raise ConfigError(f"{source[:40]!r} was found; 'data:[type][;base64],content' is expected (no ',' in it)")
    content = unquote_to_bytes(body)
    if not head.endswith(";base64"):
        return content
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as exc:
        raise ConfigError(f"{source[:40]!r}… was found, whose content is not base64 ({exc})") from exc


def as_text(source: object) -> object:
    """Return a value of ``files`` as the text that it is kept as: a JSON value becomes a ``data:`` URL."""
    if isinstance(source, str):
        inline_content(source)  # what is wrong with it is told here
        return source
    content = inline_content(source)
    return source if content is None else data_url(content, "application/json")

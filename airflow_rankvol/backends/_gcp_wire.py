"""A message to running instances, as metadata that they read from their metadata server (engine/platform_gce.sh)."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping

from airflow_rankvol.errors import ConfigError

#: The instance's metadata entry that holds the message.
GO_KEY = "rankvol-go"

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
#: "their size must be less than or equal to 262144 bytes" (discovery document, Metadata.items.value).
_MAX_VALUE = 262_144


def go_value(message: Mapping[str, str]) -> str:
    """Return what hands variables to a node: what the text's SHA-256 begins with, a space, and the text.

    The text is base64 of gzip of the names and values, each ended by NUL. The same message gives the same value.

    Raises:
        ConfigError: no shell could take the message, or it is too long.
    """
    for name, value in message.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise ConfigError(f"message to nodes: {name!r} is no variable of ours, or its value has a NUL character")
    plain = "".join(f"{name}\0{value}\0" for name, value in message.items())
    text = base64.b64encode(gzip.compress(plain.encode(), mtime=0)).decode()
    found = f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {text}"
    if len(found) > _MAX_VALUE:
        raise ConfigError(
            f"rendezvous: the message to the nodes has {len(found)} bytes; metadata holds {_MAX_VALUE}. Start fewer "
            "nodes together"
        )
    return found

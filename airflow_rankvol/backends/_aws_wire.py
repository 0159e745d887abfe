"""A message to running instances, as tags that they read from their metadata service (engine/platform_ec2.sh)."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping

from airflow_rankvol.errors import ConfigError

#: An instance has at most 50 tags, and a tag's value at most 256 characters (EC2 User Guide, "Tag restrictions").
#: The other tags are left to those that an instance gets at its launch: ours, Name, and the user's.
MAX_PARTS = 20
PART_CHARACTERS = 256
#: So many nodes can always be told of each other, whatever their addresses; more where these are alike.
MAX_GO_NODES = 512

_GO = "rankvol:go"
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
# EC2 User Guide, "View tags for your EC2 instances using instance metadata": other keys make the launch fail.
_KEY_IN_METADATA = re.compile(r"[A-Za-z0-9+\-=.,_:@]+")
_NEVER_IN_METADATA = frozenset({".", "..", "_index"})


def go_tags(message: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that hand variables to nodes: ``rankvol:go`` and its numbered parts.

    All have to be set by one call. ``rankvol:go`` says how many parts there are and what the SHA-256 of their text
    begins with, so that a node that sees only some of them waits. The text is base64 of gzip of the names and values,
    each ended by NUL.

    Raises:
        ConfigError: the message is too long for the tags of an instance, or no shell could take it.
    """
    for name, value in message.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise ConfigError(f"message to nodes: {name!r} is no variable of ours, or its value has a NUL character")
    plain = "".join(f"{name}\0{value}\0" for name, value in message.items())
    text = base64.b64encode(gzip.compress(plain.encode(), mtime=0)).decode()
    parts = [text[at : at + PART_CHARACTERS] for at in range(0, len(text), PART_CHARACTERS)]
    if len(parts) > MAX_PARTS:
        raise ConfigError(
            f"rendezvous: the message to the nodes has {len(text)} characters, which is {len(parts)} tags; at most "
            f"{MAX_PARTS} are set aside of the 50 that an instance may have. Start fewer nodes together: up to "
            f"{MAX_GO_NODES} always fit"
        )
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {_GO: f"{len(parts)} {digest}", **{f"{_GO}:{index}": part for index, part in enumerate(parts)}}


def fits_metadata(key: str) -> bool:
    """Say whether an instance that reads its tags from the metadata service may have a tag of that name."""
    return bool(_KEY_IN_METADATA.fullmatch(key)) and key not in _NEVER_IN_METADATA

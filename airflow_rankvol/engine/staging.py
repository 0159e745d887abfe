"""Files that are too large for a node's start script: which those are, and what the node needs to fetch them."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_rankvol.errors import ConfigError

#: What files may take of a start script, compressed: EC2 takes 16 KiB, and the rest of the script has 6 to 8.
INLINE_BYTES = 6 * 1024

#: How long after a node has its volumes a URL still holds, in seconds: waiting for a device, and some tries.
FETCH_S = 900.0

_URL = re.compile(r"https?://[!-~]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file that a node fetches before it runs the commands.

    Args:
        url: where it is; whoever has it can read the file, so it should hold for a while only.
        sha256: of the content, in hexadecimal; the node takes nothing else.
    """

    url: str
    sha256: str

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url):
            raise ConfigError(f"{self.url.partition('?')[0]!r} was found; a URL of printable characters is expected")
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f"{self.sha256!r} was found; a SHA-256 in hexadecimal is expected")


def sha256(content: bytes) -> str:
    """Return a content's SHA-256: the name under which it is staged, once for all ranks and runs."""
    return hashlib.sha256(content).hexdigest()


def key_of(owner: str, content: bytes) -> str:
    """Return a content's key below the job's ``staging``: whose it is, and what."""
    return f"rankvol/{owner}/{sha256(content)}"


def to_stage(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the names of the files that have to be staged; as many of the smaller ones as fit stay inline."""
    sizes = {name: len(gzip.compress(content, mtime=0)) for name, content in files.items()}
    left = INLINE_BYTES
    staged = []
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        left -= sizes[name]
        if left < 0:
            staged.append(name)
    return tuple(sorted(staged))

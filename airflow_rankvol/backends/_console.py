"""What a node's serial console says: the node's report, and its output.

A node sends its report as lines ``RANKVOL-REPORT <sha256>.<length> <part>/<parts> <base64>``, several times
(engine/platform_cloud.sh). The console cuts off what is old, ends lines as terminals do, and lets the kernel's messages
go through other lines; so nothing counts whose check sum does not fit. Where a cloud has other channels for a node's
last words, the same lines go through them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from math import prod

#: What every line of a report has.
REPORT_MARK = "RANKVOL-REPORT "

_CHUNK = 800
# A report has at most some 30 KB (16 KiB of result, 4 KiB of log); more is nobody's, and takes no memory here.
_MAX_LENGTH = 100_000
_MAX_REPORT = 1 << 20
# Readings of one report that are tried when its copies differ.
_MAX_READINGS = 256

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[^\n\t -~\xa0-\U0010ffff]")
_HEAD = re.compile(r"RANKVOL-REPORT ([0-9a-f]{16})\.([1-9][0-9]{0,5}) ([1-9][0-9]{0,3})/([1-9][0-9]{0,3}) ")
_OURS = re.compile(r"RANKVOL-(?:REPORT [0-9a-f]{16}\.|READY)")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]+")


@dataclass(slots=True)
class _Found:
    """The readings of each part of one report."""

    parts: list[list[str]] = field(default_factory=list)
    last_at: int = 0


def report_of(console: str) -> str | None:
    """Return the last report in a console's text that is complete, or None.

    Args:
        console: its text, decoded.
    """
    text = _plain(console)
    found: dict[tuple[str, int], _Found] = {}
    for head in _HEAD.finditer(text):
        digest, length, part, parts = head[1], *map(int, head.group(2, 3, 4))
        if length > _MAX_LENGTH or parts != -(-length // _CHUNK) or part > parts:
            continue
        here = found.setdefault((digest, length), _Found([[] for _ in range(parts)]))
        here.last_at = head.start()
        chunk = _chunk(text, head.end(), min(_CHUNK, length - (part - 1) * _CHUNK))
        if chunk and chunk not in here.parts[part - 1]:
            here.parts[part - 1].append(chunk)
    for (digest, _), one in sorted(found.items(), key=lambda item: -item[1].last_at):
        for reading in _readings(one.parts):
            if hashlib.sha256(reading.encode()).hexdigest().startswith(digest):
                return _unpack(reading)
    return None


def log_of(console: str) -> str:
    """Return what else the console shows, without report lines and without control characters."""
    lines = (line.rstrip() for line in _plain(console).split("\n"))
    return "\n".join(line for line in lines if not _OURS.search(line)).strip("\n")


def _plain(console: str) -> str:
    return _CONTROL.sub("", console)


def _chunk(text: str, at: int, size: int) -> str:
    """Return the base64 text of that size from there on, without messages that went through it.

    The kernel's and systemd's begin with ``[`` and end their line; what was cut off goes on after that.
    """
    pieces: list[str] = []
    missing = size
    while missing:
        run = _BASE64.match(text, at, at + missing)
        if run:
            pieces.append(run[0])
            missing -= len(run[0])
            at = run.end()
        elif text.startswith("[", at) and (end := text.find("\n", at)) >= 0:
            at = end + 1
        else:
            return ""
    return "".join(pieces)


def _readings(parts: list[list[str]]) -> Iterator[str]:
    if prod(map(len, parts)):
        yield from islice(map("".join, product(*parts)), _MAX_READINGS)


def _unpack(text: str) -> str | None:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        report = unpacker.decompress(base64.b64decode(text, validate=True), _MAX_REPORT).decode()
    except (binascii.Error, zlib.error, UnicodeDecodeError):
        return None
    return report.rstrip("\n") if unpacker.eof else None

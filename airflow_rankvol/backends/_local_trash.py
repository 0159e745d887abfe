"""How the local backend removes files for good: what a dead process left half made, and what was discarded."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from airflow_rankvol.backends import _local_linux as linux

log = logging.getLogger(__name__)


def sweep(root: Path) -> None:
    """Remove what is in the trash, and what dead processes left half made; what stays is told, and tried again."""
    leftovers = [root / "trash" / name for name in entries(root / "trash")]
    leftovers += [root / "new" / name for name in entries(root / "new") if not _is_made(name)]
    for folder in leftovers:
        reason = remove(folder)
        if reason:
            log.error("%s cannot be removed (%s); remove it by hand, or call again", folder, reason)


def remove(folder: Path) -> str:
    """Remove a directory and all below it, read-only directories too; return why something stays, or nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        return ""
    # An ordinary user cannot empty a directory without write permission, such as those of Go's module cache.
    _open_up(folder)
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:  # another process removes it just now
        return ""
    except OSError as exc:
        return str(exc)
    return ""


def entries(folder: Path) -> list[str]:
    """Return the names in a directory; one that does not exist is empty."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _open_up(folder: Path) -> None:
    """Give the user every right to each directory; links are not followed."""
    _allow(str(folder))
    for parent, names, _ in os.walk(folder):
        for name in names:
            _allow(os.path.join(parent, name))


def _allow(path: str) -> None:
    with suppress(OSError):
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            os.chmod(path, stat.S_IMODE(mode) | stat.S_IRWXU)


def _is_made(name: str) -> bool:
    """Say whether the process lives that makes an entry of ``new``, named by its pid and start time."""
    pid, _, rest = name.partition(".")
    return pid.isdigit() and str(linux.start_time(int(pid))) == rest.partition(".")[0]

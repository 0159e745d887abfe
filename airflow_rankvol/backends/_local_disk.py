"""Volumes of the local backend on disk: an ext4 image behind a loop device, or a directory."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from airflow_rankvol.backends import _local_node

log = logging.getLogger(__name__)

#: ext4 has no room for its journal below about 2 MiB; a little more leaves some for data.
MIN_IMAGE_GIB = 8 / 1024
#: What stands at a disk's end while a node formats it, with the volume's id (``rv_mark`` in bootstrap.sh).
FORMATTING = b"rankvol is formatting "
_GIB = 1 << 30
_TOOLS = ("bash", "mkfs.ext4", "blkid", "blockdev", "mount", "umount", "losetup")
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")


def search_path() -> str:
    """Return the PATH of nodes: this interpreter's directory first, and where system tools lie."""
    folders = [os.path.dirname(sys.executable), *os.environ.get("PATH", "").split(os.pathsep), *_SBIN]
    return os.pathsep.join(dict.fromkeys(folder for folder in folders if folder))


def pick_mode(state_dir: Path) -> str:
    """Return ``image`` where that works, else ``directory``; say in the log which, and why."""
    reason = why_no_images()
    if reason:
        log.info("volumes below %s are directories, without a size limit: %s", state_dir, reason)
        return "directory"
    log.info("volumes below %s are ext4 images: loop devices and mounts work here", state_dir)
    return "image"


@cache
def why_no_images() -> str:
    """Return why this process cannot use image mode, or nothing; really mounts a tiny image, once."""
    if os.geteuid() != 0:
        return "loop devices need root"
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=search_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: e2fsprogs, mount, util-linux)"
    with tempfile.TemporaryDirectory(prefix="rankvol-probe-") as folder:
        (Path(folder) / "root").mkdir()
        trial = subprocess.run(
            supervisor_command(folder),
            env={"PATH": search_path()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    output = (trial.stderr or trial.stdout).strip().splitlines()
    return "" if trial.returncode == 0 else f"a trial failed: {output[-1] if output else trial.returncode}"


def supervisor_command(*args: str) -> list[str]:
    """Return a supervisor's command line: this interpreter, without site-packages and the user's settings."""
    folder = os.path.dirname(os.path.abspath(_local_node.__file__))
    return [sys.executable, "-I", "-S", "-c", _local_node.COMMAND, folder, *args]


def make_disk(folder: Path, mode: str, size_gib: float) -> None:
    """Make a blank disk: a sparse image, or an empty directory."""
    if mode == "image":
        with open(folder / "disk.img", "wb") as file:
            file.truncate(int(size_gib * _GIB))
    else:
        (folder / "data").mkdir(mode=0o700)


def disk_path(folder: Path, mode: str) -> Path:
    """Return where a volume's data lie."""
    return folder / ("disk.img" if mode == "image" else "data")


def loops_of(image: Path) -> list[str]:
    """Return the loop devices that still use an image, as a dying node's does until its data are flushed."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text(encoding="utf-8").rstrip("\n") == str(image):
                found.append(f"/dev/{backing.parts[3]}")
        except OSError:  # cleared meanwhile
            continue
    return found


def holds_record(disk: Path, key: str) -> bool | None:
    """Say whether a rank's completion record lies on a disk that nobody uses; None where that cannot be told."""
    try:
        if disk.is_dir():
            return any(name.startswith("record") for name in os.listdir(disk / ".rankvol" / key))
        # Nothing was ever written to a sparse file without blocks.
        return False if disk.stat().st_blocks == 0 else _image_holds_record(disk, key)
    except (FileNotFoundError, NotADirectoryError):
        return False if disk.exists() else None
    except OSError:
        return None


def _image_holds_record(image: Path, key: str) -> bool | None:
    """Read an image's directory without mounting it, its journal applied first, as mounting it would."""
    if _is_being_formatted(image):
        return False
    try:
        features, _ = _debugfs(image, "features")
        if "needs_recovery" in features:
            journal = ["e2fsck", "-y", "-E", "journal_only", str(image)]
            subprocess.run(journal, env={"PATH": search_path()}, capture_output=True, check=False)
            features, _ = _debugfs(image, "features")
        if "Filesystem features:" not in features or "needs_recovery" in features:
            return None
        listing, problems = _debugfs(image, f"ls -p /.rankvol/{key}")
    except FileNotFoundError:  # debugfs or e2fsck, which mkfs.ext4 may come without
        return None
    if any(line.split("/")[5].startswith("record") for line in listing.splitlines() if line.count("/") >= 6):
        return True
    # It exits with 0 whatever happens. Only a whole listing, or none because nothing is there, says that there is none.
    return False if not problems or problems.endswith("File not found by ext2_lookup") else None


def _is_being_formatted(image: Path) -> bool:
    """Say whether a node was cut off in formatting a volume: then nothing was ever mounted from it (``rv_format``)."""
    with image.open("rb") as file:
        file.seek((image.stat().st_size // 4096 - 16) * 4096)
        return file.read(4096).rstrip(b"\0") == FORMATTING + image.parent.name.encode()


def _debugfs(image: Path, request: str) -> tuple[str, str]:
    """Return what a request printed, and what went wrong, without the line that tells the version."""
    command = ["debugfs", "-R", request, str(image)]
    environment = {"PATH": search_path(), "DEBUGFS_PAGER": "cat"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if not re.match(r"debugfs \d", line)]
    return done.stdout, "\n".join(lines).strip()

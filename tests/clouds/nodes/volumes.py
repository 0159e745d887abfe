"""Volumes of running nodes: loop devices over images, which appear in a node's /dev and vanish from it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

from airflow_rankvol.backends._local_linux import descendants, open_loop
from tests.clouds.nodes import linux

_BY_ID = "disk/by-id"
# ext4 and xfs: stop at once and forget what was not written, as when the power goes (linux/fs.h: EXT4_IOC_SHUTDOWN).
_FS_IOC_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2

# linux/loop.h: struct loop_info64 has lo_sizelimit as its fifth word.
_LOOP_SET_STATUS64, _LOOP_GET_STATUS64, _LOOP_INFO64, _SIZE_LIMIT = 0x4C04, 0x4C05, 232, 32


class Busy(Exception):
    """The volume is mounted or open in its node."""


@dataclass
class Attachment:
    """A volume in a node.

    Attributes:
        fd: keeps the loop device; the kernel clears the device once nobody has it open or mounted.
        loop: path of the loop device on this machine.
        links: what stands in the node's /dev, relative to it: the device, then the links to it.
    """

    volume_id: str
    fd: int
    loop: str
    image: Path
    links: tuple[str, ...]

    @property
    def number(self) -> str:
        """Major and minor number, as in mountinfo."""
        device = os.fstat(self.fd).st_rdev
        return f"{os.major(device)}:{os.minor(device)}"


def attach(
    dev: int, volume_id: str, image: Path, by_id: Sequence[str], device: str, *, read_only: bool = False
) -> Attachment:
    """Make a volume appear in a node.

    Args:
        dev: the node's /dev, opened.
        by_id: names below /dev/disk/by-id; one that begins with /dev/ is a link of that name.
        device: the kernel's name for the disk in the node, such as ``nvme1n1``.
        read_only: the node's kernel refuses every write to the disk.
    """
    fd, loop = open_loop(str(image), read_only=read_only)
    links = [f"{_BY_ID}/{name}" if not name.startswith("/dev/") else name[5:] for name in by_id]
    attachment = Attachment(volume_id, fd, loop, image, (device.removeprefix("/dev/"), *links))
    try:
        _show(dev, attachment)
    except OSError:
        _hide(dev, attachment)
        os.close(fd)
        raise
    return attachment


def detach(dev: int, attachment: Attachment) -> None:
    """Make a volume vanish from a node.

    Raises:
        Busy: it is mounted, or a process has it open; it stays as it was.
    """
    try:
        # An exclusive open fails while any mount, in whatever namespace, has the device (open(2), O_EXCL).
        os.close(os.open(attachment.loop, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        raise Busy(f"{attachment.volume_id} is mounted in its node") from exc
    _hide(dev, attachment)
    if release(attachment, wait_s=1):
        return
    attachment.fd = os.open(attachment.loop, os.O_RDWR | os.O_CLOEXEC)
    if _is_in_use(attachment):
        _show(dev, attachment)
        raise Busy(f"{attachment.volume_id} is open in its node")
    os.close(attachment.fd)


def rip_out(dev: int, attachment: Attachment) -> None:
    """Take a volume from a node, whatever the node does with it.

    A mount stays where it is, as on a machine whose disk was pulled; all that it reads or writes then fails.
    """
    _hide(dev, attachment)
    # A loop device cannot lose its image while somebody has it open, but it can shrink to nothing.
    status = bytearray(ioctl(attachment.fd, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64)))
    struct.pack_into("Q", status, _SIZE_LIMIT, 512)
    ioctl(attachment.fd, _LOOP_SET_STATUS64, bytes(status))
    os.close(attachment.fd)


def mounted(pid: int, attachments: Sequence[Attachment]) -> list[int]:
    """Open the root of every filesystem that a node has mounted from its volumes.

    They are kept from being unmounted, and so from being written, until :func:`cut` closes them.
    """
    numbers = [attachment.number for attachment in attachments]
    held = []
    for process in [pid, *descendants(pid)] if numbers else []:
        for target in _targets(process, numbers):
            with contextlib.suppress(OSError):  # unmounted meanwhile
                held.append(os.open(f"/proc/{process}/root{target}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    return held


def cut(held: Sequence[int]) -> None:
    """Stop filesystems as a power cut does: what was not on the disk is lost."""
    for fd in held:
        with contextlib.suppress(OSError):  # a filesystem that cannot be stopped is unmounted cleanly
            ioctl(fd, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        os.close(fd)


def release(attachment: Attachment, wait_s: float = 10) -> bool:
    """Let go of a loop device; say whether the kernel has cleared it, as it does once nobody else has it open."""
    os.close(attachment.fd)
    until = time.monotonic() + wait_s
    while _is_in_use(attachment):
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def _is_in_use(attachment: Attachment) -> bool:
    backing = Path("/sys/block", os.path.basename(attachment.loop), "loop/backing_file")
    try:
        return backing.read_text(encoding="utf-8").rstrip("\n") == str(attachment.image)
    except OSError:
        return False


def _targets(process: int, numbers: Sequence[str]) -> list[str]:
    try:
        return [target for number, target in linux.mounts(process) if number in numbers]
    except OSError:  # gone
        return []


def _show(dev: int, attachment: Attachment) -> None:
    device, *links = attachment.links
    os.mknod(device, stat.S_IFBLK | 0o660, os.fstat(attachment.fd).st_rdev, dir_fd=dev)
    for link in links:
        os.symlink("../" * link.count("/") + device, link, dir_fd=dev)


def _hide(dev: int, attachment: Attachment) -> None:
    for name in reversed(attachment.links):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=dev)

"""The system calls that Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import os

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_TIME, CAP_MKNOD, CAP_SYSLOG = 16, 17, 25, 27, 34
# glibc has no function for it; asm/unistd.h
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: object) -> None:
    """Call a C function that returns 0 or sets errno."""
    if _LIBC[name](*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{args}: {os.strerror(code)}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount, as mount(2)."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Show a file or directory at another place, too."""
    mount(source, target, None, MS_BIND)
    if read_only:
        mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def unmount(target: str, flags: int = 0) -> None:
    """Unmount, as umount2(2)."""
    call("umount2", os.fsencode(target), flags)


def pivot_root(root: str) -> None:
    """Make a mount point this process's root, and let go of the old one."""
    os.chdir(root)
    call("syscall", _PIVOT_ROOT[os.uname().machine], b".", b".")
    unmount(".", MNT_DETACH)
    os.chdir("/")


def mounts(pid: int | str = "self") -> list[tuple[str, str]]:
    """Return the device numbers (``7:3``) and mount points that a process sees, in the order of mounting."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.split() for line in file]
    return [(row[2], _unescaped(row[4])) for row in rows]


def _unescaped(text: str) -> str:
    """Undo the kernel's octal escapes of blanks and backslashes in mountinfo."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text

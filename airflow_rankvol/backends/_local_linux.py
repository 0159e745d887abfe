"""What the local backend asks of the Linux kernel: process identity, loop devices, namespaces.

Used by the package and, without it, by a node's supervisor: the standard library only, and little of it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
import sys

TYPE_CHECKING = False  # typing takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

INSIDE = "/.rankvol"  # the node's directory, as the node sees it where it has its own mounts

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/loop.h, linux/fs.h
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 1, 4
BLKROSET = 0x125D


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def descendants(pid: int) -> list[int]:
    """Return a process's children, theirs, and so on, zombies too."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:  # gone
        return found
    return found + [item for child in found for item in descendants(child)]


def boot_id() -> str:
    """Return the kernel's id of this boot, which tells a restarted machine from the one before."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def identity(pid: int) -> str:
    """Return what tells a process from every other one that ever has the same pid, as JSON."""
    return f'{{"pid": {pid}, "start": {start_time(pid) or 0}, "boot": "{boot_id()}"}}'


def write(path: str, text: str, *, durable: bool = False) -> None:
    """Write a file that appears with its whole content or not at all; a durable one so after a power cut, too."""
    new = f"{path}.{os.getpid()}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.rename(new, path)


def claim(path: str, text: str) -> bool:
    """Write a file unless it exists, or its directory does not; of several that try, one alone succeeds."""
    new = f"{path}.{os.getpid()}.new"
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
        os.link(new, path)
        os.unlink(new)
    except FileNotFoundError:
        return False
    except FileExistsError:
        os.unlink(new)
        return False
    return True


def has_writer(pipe: int) -> bool:
    """Say whether somebody holds the other end of a pipe."""
    poll = select.poll()
    poll.register(pipe, 0)  # POLLHUP is always told
    return not poll.poll(0)


def call(name: str, *args: object) -> None:
    """Call a C function that returns 0 or sets errno."""
    if _LIBC[name](*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{args}: {os.strerror(code)}")


_LIBC = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    call("mount", *encoded[:3], ctypes.c_ulong(flags), encoded[3])


def open_loop(image: str, *, read_only: bool = False) -> tuple[int, str]:
    """Return an open loop device over an image; the kernel clears it once nobody has it open or mounted.

    Args:
        read_only: the kernel refuses every write to the device.
    """
    # struct loop_config: fd, block_size, then loop_info64 (flags is its 9th field), then 8 reserved words.
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    name = image.encode()[:63]
    flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_READ_ONLY if read_only else 0)
    try:
        while True:
            device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            config = struct.pack(
                "=II5Q4I64s64s32s2Q8Q",
                *(backing, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b""),
                *([0] * 10),
            )
            try:
                fcntl.ioctl(loop, LOOP_CONFIGURE, config)
            except OSError as exc:
                os.close(loop)
                if exc.errno != errno.EBUSY:  # EBUSY: another process took it first
                    raise
            else:
                # What an earlier user has set with `blockdev --setro` outlives its image.
                fcntl.ioctl(loop, BLKROSET, struct.pack("i", 0))
                return loop, device
    finally:
        os.close(control)
        os.close(backing)


def build_root(root: str, points: list[str]) -> None:
    """Make a root that shows this machine's files, and in which the mount points can be made.

    Nothing is made on the machine itself: a directory in which a mount point is missing becomes a new one
    that shows the old one's entries.
    """
    missing = [os.path.realpath(point) for point in points]
    _fill(root, "/", [point for point in missing if not os.path.isdir(point)])
    for point in missing:
        os.makedirs(root + point, exist_ok=True)


def _fill(root: str, folder: str, missing: list[str]) -> None:
    """Show the entries of a directory below ``root``; those above a missing mount point are made anew."""
    for entry in os.scandir(folder):
        if entry.path == "/proc":
            continue
        try:
            _show(root, entry, [point for point in missing if point.startswith(f"{entry.path}/")])
        except FileNotFoundError:  # gone meanwhile, as things in /tmp are
            continue


def _show(root: str, entry: os.DirEntry[str], missing: list[str]) -> None:
    path = entry.path
    if entry.is_symlink():
        os.symlink(os.readlink(path), root + path)
    elif not entry.is_dir():
        os.close(os.open(root + path, os.O_CREAT | os.O_WRONLY))
        _mount(path, root + path, None, MS_BIND)
    else:
        os.mkdir(root + path)
        if missing:
            _fill(root, path, missing)
        else:
            _mount(path, root + path, None, MS_BIND | MS_REC)


def enter_namespace(node_dir: str, points: list[str]) -> None:
    """Move this process, the first of a new pid namespace, to mounts of its own."""
    root = f"{node_dir}/root"
    call("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=16m")
    build_root(root, points)
    os.makedirs(root + INSIDE, exist_ok=True)
    _mount(node_dir, root + INSIDE, None, MS_BIND)
    os.mkdir(f"{root}/proc")
    _mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.chroot(root)
    os.chdir("/")


def check_interpreter() -> None:
    """Refuse a namespace that sees less than the user did: rights from capabilities are gone there."""
    if not os.access(sys.executable, os.X_OK):
        raise OSError(errno.EACCES, f"{sys.executable} cannot be run from a namespace of its own")


def unshare_pids() -> None:
    """Have this process fork into a new pid namespace, that of an ordinary user in a user namespace too."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return call("unshare", CLONE_NEWPID)
    call("unshare", CLONE_NEWUSER | CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    return None


def rehearse(node_dir: str, points: list[str], then: Callable[[], None] = lambda: None) -> str:
    """Try the namespaces in processes that are thrown away; return why they do not work, or nothing."""
    read, write_ = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            unshare_pids()
            first = os.fork()
            if first == 0:
                call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                enter_namespace(node_dir, points)
                then()
            status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) if first else 0
        except BaseException as exc:  # noqa: BLE001 - a forked copy must end here, whatever happens
            os.write(write_, str(exc).encode()[:4000])
        finally:
            os._exit(status)
    os.close(write_)
    with os.fdopen(read, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    failed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    return reason or ("a trial run failed" if failed else "")

"""Start a node: the outer process waits, the inner one becomes pid 1 of the node's own small world."""

from __future__ import annotations

import marshal
import os
import signal
import socket
import struct
import sys
from fcntl import ioctl

from tests.clouds.nodes import linux
from tests.clouds.nodes.inside import root
from tests.clouds.nodes.inside.init import Init

TYPE_CHECKING = False  # typing, like json and traceback, takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_TIOCSCTTY, _TIOCSPTLCK = 0x540E, 0x40045431
_IP_FREEBIND = 15
# How reboot(2) in a pid namespace ends its pid 1, by pid_namespaces(7): SIGINT for halt and power off.
_POWERED_OFF = (0, -signal.SIGINT)


def main(control_fd: int, config_path: str) -> None:
    """Run a node from beginning to end; exit with 0 if it powered itself off.

    Args:
        control_fd: socket to whom the node belongs: it is told the node's pid and given the console and the
            listening sockets; the node dies when its other end is closed.
        config_path: what marshal made of what :class:`~tests.clouds.nodes.node.Node` asks for.
    """
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    with open(config_path, "rb") as file:
        config = marshal.load(file)
    linux.call("unshare", linux.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        _inner(control, config)
    tell(control, {"pid": child}, [os.pidfd_open(child)])
    control.close()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(0 if status in _POWERED_OFF else 1)


def tell(control: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
    """Send one message with open files."""
    socket.send_fds(control, [marshal.dumps(message)], fds)


def _inner(control: socket.socket, config: dict[str, Any]) -> None:
    try:
        _become(control, config).run()
    except BaseException:  # noqa: BLE001 - a forked copy must end here, whatever happens
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    os._exit(1)


def _become(control: socket.socket, config: dict[str, Any]) -> Init:
    linux.call("prctl", linux.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    linux.call("unshare", linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET)
    root.enter(config)
    socket.sethostname(config["hostname"])
    _loopback()
    master, console = _console()
    listening = [_listen(address, port) for address, port in config["listen"]]
    root.drop_rights()
    tell(control, {"ready": True}, [master, *(sock.fileno() for sock in listening)])
    os.close(master)
    for sock in listening:
        sock.close()
    if control.recv(16) != b"go":
        os._exit(1)
    return Init(control, console, config)


def _loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack("16sH22x", ioctl(sock, _SIOCGIFFLAGS, request))[1]
        ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def _listen(address: str, port: int) -> socket.socket:
    """Listen on an address that the node may get later."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(128)
    return sock


def _console() -> tuple[int, int]:
    """Make the console: a terminal whose other side the node's owner reads."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = "/dev/pts/0"  # the first of this namespace's own
    console = os.open(slave, os.O_RDWR | os.O_CLOEXEC)
    # No other session can take it as its controlling terminal then; the kernel's console is nobody's, too.
    ioctl(console, _TIOCSCTTY, 0)
    for name in ("console", "ttyS0"):
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY | os.O_NOCTTY, 0o600))
        linux.bind(slave, f"/dev/{name}")
    return master, console

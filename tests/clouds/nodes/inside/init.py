"""A node's pid 1: runs the user data as cloud-init or Google's guest agent does, writes the console, powers off."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
import zlib

from tests.clouds.nodes import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# What runs the user data: where it puts them, how it marks their output, how it begins, and what it says of a failure.
_RUNNERS = {
    "cloud-init": (
        "/var/lib/cloud/instance/scripts/part-001",
        "cloud-init[{}]: ",
        "Cloud-init running 'modules:final'",
        "cc_scripts_user.py[WARNING]: Failed to run module scripts-user (exit code {})",
    ),
    "guest-agent": (
        "/tmp/metadata-scripts1/startup-script",
        "google_metadata_script_runner[{}]: startup-script: ",
        "Starting startup scripts (version 20250901.00).",
        'Script "startup-script" failed with error: exit status {}',
    ),
}
_OUTPUT_LOG = "/var/log/cloud-init-output.log"
_SERVICE_LOG = "/var/log/services.log"
_REQUESTS = "/run/initctl"
_MAX_LINE = 48 * 1024  # LineMax= of journald.conf(5)


class Init:
    """Everything that a booted machine does around a job.

    Args:
        control: the node's life: it ends when the other end does.
        console: the console terminal.
    """

    def __init__(self, control: socket.socket, console: int, config: dict[str, Any]) -> None:
        self._control = control
        self._console = console
        self._config = config
        self._script, self._mark, self._greeting, self._complaint = _RUNNERS[config["runner"]]
        self._booted = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._poweroff_at = float("inf")
        self._main = 0
        self._output = -1
        self._line = b""

    def run(self) -> None:
        """Run until the node powers off; never returns."""
        self._watch(self._control.fileno(), lambda: os._exit(1))
        wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._watch(wake, lambda: self._reap(wake))
        os.mkfifo(_REQUESTS, 0o600)
        requests = os.open(_REQUESTS, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch(requests, lambda: self._hear(requests))
        self._start()
        while True:
            self._turn(self._poweroff_at)
            if time.monotonic() >= self._poweroff_at:
                self._power_off()

    def _watch(self, fd: int, act: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, act)

    def _turn(self, until: float) -> None:
        wait_s = None if until == float("inf") else max(0.0, until - time.monotonic())
        for key, _ in self._selector.select(wait_s):
            key.data()

    # -- the user data

    def _start(self) -> None:
        self._kernel_says(f"Linux version {os.uname().release}")
        data = self._config["user_data"]
        if data[:2] == b"\x1f\x8b":  # cloud-init unpacks what begins as gzip does
            data = zlib.decompress(data, wbits=31)
        self._say(self._greeting)
        # The login prompt has no newline: what comes next stands behind it, as on a machine's serial console.
        self._write(f"\n{self._config['issue']}\n\n{self._config['hostname']} login: ".encode())
        for service in self._config["services"]:
            self._serve(service)
        if data.startswith(b"#!"):
            self._execute(data)
        elif data:
            self._say("__init__.py[WARNING]: Unhandled non-multipart (text/x-not-multipart) userdata")

    def _serve(self, command: list[str]) -> None:
        """Start a program of the image, as systemd does before cloud-init runs the user data."""
        if os.fork():
            return
        try:
            self._become_child(os.open(_SERVICE_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            # Python's own search of the PATH imports a module, which is out of reach by now.
            os.execve("/usr/bin/env", ["env", *command], self._config["environment"])
        finally:
            os._exit(127)

    def _execute(self, script: bytes) -> None:
        os.makedirs(os.path.dirname(self._script), exist_ok=True)
        with open(self._script, "wb") as file:
            file.write(script)
        os.chmod(self._script, 0o700)
        self._output, theirs = os.pipe2(os.O_CLOEXEC)
        self._watch(self._output, self._pump)
        self._main = os.fork()
        if self._main == 0:
            self._exec_script(theirs)
        os.close(theirs)

    def _exec_script(self, output: int) -> None:
        try:
            self._become_child(output)
            # As from systemd: no HOME, for one.
            os.execve(self._script, [self._script], self._config["environment"])
        except OSError as exc:
            os.write(output, f"{self._script}: {exc.strerror}\n".encode())
        finally:
            os._exit(126)

    @staticmethod
    def _become_child(output: int) -> None:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)

    def _pump(self) -> None:
        data = os.read(self._output, 65536)
        if not data:
            self._selector.unregister(self._output)
            os.close(self._output)
            self._output = -1
        with contextlib.suppress(OSError), open(_OUTPUT_LOG, "ab") as file:  # the root may be full
            file.write(data)
        *lines, self._line = (self._line + data).split(b"\n")
        if self._line and (not data or len(self._line) > _MAX_LINE):
            lines.append(self._line)
            self._line = b""
        if lines:
            self._write(b"".join(self._prefix() + line + b"\n" for line in lines))

    # -- the console: what systemd's journal forwards is marked with time and name (journald-console.c)

    def _stamp(self) -> str:
        return f"[{time.monotonic() - self._booted:12.6f}] "

    def _prefix(self) -> bytes:
        return (self._stamp() + self._mark.format(self._main or 1)).encode()

    def _say(self, text: str) -> None:
        self._write(self._prefix() + text.encode() + b"\n")

    def _kernel_says(self, text: str) -> None:
        self._write(f"{self._stamp()}{text}\n".encode())

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._console, data) :]

    # -- the end

    def _hear(self, requests: int) -> None:
        """Obey what the programs shutdown, poweroff and their like ask for."""
        for line in os.read(requests, 4096).decode(errors="replace").splitlines():
            word, _, minutes = line.partition(" ")
            if word == "poweroff":
                self._poweroff_at = time.monotonic() + float(minutes or 0) * self._config["minute_s"]
            elif word == "cancel":
                self._poweroff_at = float("inf")

    def _reap(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        while self._reap_one(os.WNOHANG):
            pass

    def _reap_one(self, flags: int) -> bool:
        """Take the status of one dead child; say whether there was one."""
        try:
            pid, status = os.waitpid(-1, flags)
        except ChildProcessError:
            return False
        if pid and pid == self._main and status:
            code = os.waitstatus_to_exitcode(status)
            self._say(self._complaint.format(code))
        return pid != 0

    def _power_off(self) -> None:
        self._kill_all(signal.SIGTERM)
        until = time.monotonic() + self._config["stop_grace_s"]
        while time.monotonic() < until and self._has_children():
            self._turn(min(until, time.monotonic() + 0.05))
        self._kill_all(signal.SIGKILL)
        while self._reap_one(0):
            pass
        while self._output >= 0:
            self._pump()
        self._unmount_volumes()
        self._kernel_says("reboot: Power down")
        os._exit(0)

    @staticmethod
    def _kill_all(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, number)

    @staticmethod
    def _has_children() -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    @staticmethod
    def _unmount_volumes() -> None:
        for device, target in reversed(linux.mounts()):
            if not device.startswith("0:"):  # 0: is what has no device, such as tmpfs and overlays
                try:
                    linux.unmount(target)
                except OSError:
                    linux.unmount(target, linux.MNT_DETACH)

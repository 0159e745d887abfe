"""One running node, seen from outside."""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.clouds.nodes import image, volumes
from tests.clouds.nodes.metadata import Content, Handler, ImdsV2

if TYPE_CHECKING:
    from tests.clouds.nodes.network import Switch
    from tests.clouds.nodes.services import Services

METADATA_ADDRESS = "169.254.169.254"
_CHECKOUT = Path(__file__).resolve().parents[3]
_COMMAND = """\
import sys
sys.path.insert(0, sys.argv[1])
from tests.clouds.nodes.inside.boot import main
main(int(sys.argv[2]), sys.argv[3])
"""
# systemd's default for services, and /sbin and /bin for machines where they are directories of their own.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_PATIENCE_S = 30.0


class NodeError(Exception):
    """A node could not be started, or is not there."""


@dataclass(frozen=True)
class Link:
    """A port that listens in the node and leads to a port of this machine's 127.0.0.1.

    Args:
        address: in the node; 127.0.0.1, or any address that no node has.
    """

    address: str
    port: int
    host_port: int


def nothing(_path: str) -> None:
    """Be the content of an empty metadata service."""


@dataclass(frozen=True)
class NodeSpec:
    """What a node is.

    Args:
        user_data: a script that begins with ``#!``, or the same gzip'd.
        address: IPv4 address by which the nodes of one host reach each other.
        metadata: what its metadata service says, asked at every request.
        metadata_service: how it says so: EC2's protocol, unless another one is given.
        runner: what of the image runs the user data: ``cloud-init``, or Compute Engine's ``guest-agent``.
        links: ways out of the node's network.
        environment: of the user data, beyond PATH and LANG.
        files: text files in its root.
        layers: directories of this machine that it sees, read-only, at the given places; programs in their ``bin``
            are on its PATH.
        services: programs with their arguments that run from its start on, in the environment of the user data.
        root_mib: size of its root filesystem, which is in memory.
        minute_s: how long the minutes of ``shutdown -h +MINUTES`` last.
        stop_grace_s: how long processes may take to end after SIGTERM when it powers off.
    """

    id: str
    user_data: bytes
    address: str
    metadata: Content = nothing
    metadata_service: Callable[[Content], Handler] = ImdsV2
    runner: str = "cloud-init"
    links: Sequence[Link] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, Path] = field(default_factory=dict)
    services: Sequence[tuple[str, ...]] = ()
    hostname: str = ""
    issue: str = "Linux"
    root_mib: int = 1024
    minute_s: float = 60.0
    stop_grace_s: float = 3.0

    def config(self, base: Path) -> dict[str, Any]:
        """Return what the node's first process needs to know."""
        hostname = self.hostname or "ip-" + self.address.replace(".", "-")
        hosts = f"127.0.0.1 localhost\n{self.address} {hostname}\n"
        return {
            "stage": str(base / "stage"),
            "skeleton": str(base / "skeleton"),
            "programs": str(base / "programs"),
            "host_dirs": image.host_dirs(),
            "masks": image.masks(),
            "layers": {place: str(path) for place, path in self.layers.items()},
            "files": {"/etc/hosts": hosts, "/etc/hostname": f"{hostname}\n", **self.files},
            "listen": [[METADATA_ADDRESS, 80], *([link.address, link.port] for link in self.links)],
            "hostname": hostname,
            "runner": self.runner,
            "issue": self.issue,
            "services": [list(service) for service in self.services],
            "environment": {**_ENVIRONMENT, **self.environment},
            "user_data": self.user_data,
            "root_mib": self.root_mib,
            "minute_s": self.minute_s,
            "stop_grace_s": self.stop_grace_s,
        }


class Node:
    """A node from its start to its end.

    Args:
        base: where the image lies.
        folder: for the console and the log of its first process.
        on_end: called with ``poweroff`` or ``killed`` once it has ended and everything of it is released.
    """

    def __init__(self, spec: NodeSpec, base: Path, folder: Path, on_end: Callable[[str], None]) -> None:
        self.spec = spec
        self.console = folder / "console.log"
        self._base = base
        self._folder = folder
        self._on_end = on_end
        self._lock = threading.Lock()
        self._over = False
        self._volumes: dict[str, volumes.Attachment] = {}
        self._held: list[int] = []
        self._released = threading.Event()
        self._exits = contextlib.ExitStack()
        self._pid = 0
        self._pidfd = self._dev = -1

    # -- its start

    def start(self, services: Services, switch: Switch) -> None:
        """Start it; returns when its user data begin to run."""
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._exits.callback(control.close)
        control.settimeout(_PATIENCE_S)
        with theirs:
            self._process = self._spawn(theirs.fileno())
        try:
            self._set_up(control, services, switch)
        except BaseException as exc:
            self._process.kill()
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._process.wait()
            self._exits.close()
            log = (self._folder / "init.log").read_text(encoding="utf-8", errors="replace").strip()
            raise NodeError(f"node {self.spec.id} did not start: {exc}; its first process said: {log}") from exc
        threading.Thread(target=self._wait, name=f"node-{self.spec.id}", daemon=True).start()

    def _spawn(self, control: int) -> subprocess.Popen[bytes]:
        config = self._folder / "config"
        config.touch(mode=0o600)
        config.write_bytes(marshal.dumps(self.spec.config(self._base)))
        with (self._folder / "init.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _COMMAND, str(_CHECKOUT), str(control), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={},
                cwd="/",
                pass_fds=[control],
                start_new_session=True,
            )

    def _set_up(self, control: socket.socket, services: Services, switch: Switch) -> None:
        born, ready = sorted((self._receive(control) for _ in range(2)), key=lambda pair: "ready" in pair[0])
        (self._folder / "config").unlink()  # there may be secrets in the user data
        self._pid, (self._pidfd,) = born[0]["pid"], born[1]
        self._exits.callback(os.close, self._pidfd)
        self._dev = os.open(f"/proc/{self._pid}/root/dev", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._exits.callback(os.close, self._dev)
        terminal, *listening = ready[1]
        ended = services.record(terminal, self.console)
        self._exits.callback(ended.wait, _PATIENCE_S)
        handler = self.spec.metadata_service(self.spec.metadata)
        servers = [services.serve(socket.socket(fileno=listening.pop(0)), handler)]
        servers += [
            services.forward(socket.socket(fileno=fd), link.host_port)
            for fd, link in zip(listening, self.spec.links, strict=True)
        ]
        for server in servers:
            self._exits.callback(services.stop, server)
        switch.connect(self._pid, self.spec.address, self._own_addresses())
        control.send(b"go")

    @staticmethod
    def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
        data, fds, _, _ = socket.recv_fds(control, 4096, 64)
        if not data:
            raise NodeError("it ended")
        for fd in fds:
            os.set_inheritable(fd, False)
        return marshal.loads(data), list(fds)

    def _own_addresses(self) -> list[str]:
        addresses = [METADATA_ADDRESS, *(link.address for link in self.spec.links)]
        return [address for address in dict.fromkeys(addresses) if not address.startswith("127.")]

    # -- its volumes

    def attach(self, volume_id: str, path: Path, by_id: Sequence[str], device: str, *, read_only: bool = False) -> None:
        """Make a volume appear."""
        with self._lock:
            self._check_alive()
            if volume_id in self._volumes:
                raise ValueError(f"{volume_id} is attached to node {self.spec.id} already")
            self._volumes[volume_id] = volumes.attach(self._dev, volume_id, path, by_id, device, read_only=read_only)

    def detach(self, volume_id: str, *, force: bool) -> None:
        """Make a volume vanish."""
        with self._lock:
            self._check_alive()
            attachment = self._volumes[volume_id]
            if force:
                volumes.rip_out(self._dev, attachment)
            else:
                volumes.detach(self._dev, attachment)
            del self._volumes[volume_id]

    def _check_alive(self) -> None:
        if self._over:
            raise NodeError(f"node {self.spec.id} has ended")

    # -- its end

    def kill(self) -> None:
        """Cut its power; does not wait."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self._held = volumes.mounted(self._pid, list(self._volumes.values()))
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self) -> None:
        """Wait until nothing of it is left."""
        if not self._released.wait(_PATIENCE_S):
            raise NodeError(f"node {self.spec.id} is not gone after {_PATIENCE_S:.0f} s")

    def _wait(self) -> None:
        status = self._process.wait()
        with self._lock:
            self._over = True
            volumes.cut(self._held)
            self._exits.close()
            for attachment in self._volumes.values():
                volumes.release(attachment)
            self._volumes.clear()
        self._released.set()
        self._on_end("poweroff" if status == 0 else "killed")

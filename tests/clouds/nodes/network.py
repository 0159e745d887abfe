"""The nodes' network: a bridge in a network namespace that has no name and ends with this process."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

from tests.clouds.nodes import linux

T = TypeVar("T")


class Switch:
    """A bridge that connects nodes. Nothing of it is in this machine's own network namespace at any time."""

    def __init__(self) -> None:
        self._fd = _in_thread(_new_namespace)
        self._ports = itertools.count()
        _ip(self._fd, "link add nodes type bridge stp_state 0 forward_delay 0", "link set nodes up")

    def connect(self, pid: int, address: str, own: list[str]) -> None:
        """Give a node its address.

        Args:
            pid: a process of the node.
            address: what the other nodes reach it by.
            own: further addresses that every node has for itself, such as the metadata server's.
        """
        port = f"p{next(self._ports)}"
        _ip(
            self._fd,
            f"link add {port} type veth peer name eth0 netns {pid}",
            f"link set {port} master nodes up",
        )
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            _ip(
                namespace,
                *(f"address add {each}/32 dev lo" for each in own),
                f"address add {address}/32 dev eth0",
                "link set eth0 up",
                # Subnets and routers are not modelled: every address is looked for on the bridge.
                "route add default dev eth0",
            )
        finally:
            os.close(namespace)

    def close(self) -> None:
        """Let the bridge go."""
        os.close(self._fd)


def _in_thread(act: Callable[[], T]) -> T:
    """Run in a thread of its own, whose namespaces can be changed without harm to others."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(act())
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failed.append(exc)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _new_namespace() -> int:
    linux.call("unshare", linux.CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _ip(namespace: int, *commands: str) -> None:
    """Run commands of ip(8) in a network namespace."""

    def run() -> None:
        linux.call("setns", namespace, linux.CLONE_NEWNET)
        done = subprocess.run(
            ["ip", "-batch", "-"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise OSError(f"ip: {done.stderr.strip()}; asked for: {'; '.join(commands)}")

    _in_thread(run)

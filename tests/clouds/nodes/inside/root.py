"""Build a node's root: this machine's programs, and nothing else of it."""

from __future__ import annotations

import contextlib
import os
import stat

from tests.clouds.nodes import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
# A node is root, yet must neither change this machine's kernel nor make device nodes for its disks.
_DROPPED = (linux.CAP_SYS_MODULE, linux.CAP_SYS_RAWIO, linux.CAP_SYS_TIME, linux.CAP_MKNOD, linux.CAP_SYSLOG)
_PLAIN = linux.MS_NOSUID | linux.MS_NODEV


def enter(config: dict[str, Any]) -> None:
    """Move this process into a root of its own; nothing of the old one can be reached any more."""
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    stage = config["stage"]
    linux.mount("tmpfs", stage, "tmpfs", 0, f"mode=0755,size={config['root_mib']}m")
    root = f"{stage}/root"
    os.mkdir(root)
    _overlay(stage, "top", [config["skeleton"]], root)
    _overlay(stage, "usr", [config["programs"], "/usr"], f"{root}/usr")
    for path in config["host_dirs"]:
        linux.bind(path, root + path, read_only=True)
    for path in config["masks"]:
        if os.path.isdir(root + path):
            linux.mount("tmpfs", root + path, "tmpfs", linux.MS_RDONLY, "mode=0755,size=4k")
    for target, source in config["layers"].items():
        _layer(root, target, source)
    _kernel(root)
    _dev(f"{root}/dev")
    linux.pivot_root(root)
    _files(config["files"])


def drop_rights() -> None:
    """Take from every later child of this process what would reach beyond the node."""
    for capability in _DROPPED:
        linux.call("prctl", linux.PR_CAPBSET_DROP, capability, 0, 0, 0)


def _overlay(stage: str, name: str, below: list[str], target: str) -> None:
    upper, work = f"{stage}/{name}", f"{stage}/{name}.work"
    os.mkdir(upper)
    os.mkdir(work)
    lower = ":".join(map(_escaped, below))
    data = f"lowerdir={lower},upperdir={_escaped(upper)},workdir={_escaped(work)}"
    linux.mount("overlay", target, "overlay", 0, data)


def _escaped(path: str) -> str:
    """Escape what separates overlayfs's options (the kernel's Documentation/filesystems/overlayfs.rst)."""
    for mark in "\\:,":
        path = path.replace(mark, f"\\{mark}")
    return path


def _layer(root: str, target: str, source: str) -> None:
    """Show a directory of the image's cache; its programs are on the PATH."""
    os.makedirs(root + target, exist_ok=True)
    linux.bind(source, root + target, read_only=True)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(f"{source}/bin"):
            os.symlink(f"{target}/bin/{name}", f"{root}/usr/local/bin/{name}")


def _kernel(root: str) -> None:
    linux.mount("proc", f"{root}/proc", "proc", _PLAIN | linux.MS_NOEXEC)
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        path = f"{root}/proc/{name}"
        if os.path.exists(path):
            linux.bind(path, path, read_only=True)
    linux.mount("sysfs", f"{root}/sys", "sysfs", _PLAIN | linux.MS_NOEXEC | linux.MS_RDONLY)
    linux.mount("tmpfs", f"{root}/run", "tmpfs", _PLAIN, "mode=0755,size=64m")


def _dev(dev: str) -> None:
    linux.mount("tmpfs", dev, "tmpfs", linux.MS_NOSUID, "mode=0755,size=1m")
    os.umask(0)
    for name, minor in _DEVICES.items():
        os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(1, minor))
    os.mknod(f"{dev}/tty", stat.S_IFCHR | 0o666, os.makedev(5, 0))
    os.umask(0o022)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{dev}/{name}")
    os.mkdir(f"{dev}/pts")
    linux.mount("devpts", f"{dev}/pts", "devpts", linux.MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620")
    os.symlink("pts/ptmx", f"{dev}/ptmx")
    os.mkdir(f"{dev}/shm")
    linux.mount("tmpfs", f"{dev}/shm", "tmpfs", _PLAIN, "mode=1777,size=64m")
    os.makedirs(f"{dev}/disk/by-id")


def _files(files: dict[str, str]) -> None:
    for path, text in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

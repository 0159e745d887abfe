"""What a node boots from: a skeleton of a root, its own few programs, and parts of this machine's /etc."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[2]
_POWER = ("shutdown", "poweroff", "halt", "reboot", "systemctl")
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_EMPTY = (
    "boot",
    "dev",
    "etc/alternatives",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "run",
    "srv",
    "sys",
    "usr",
    "var/tmp",
    "var/log",
)
# What this machine's programs need of /etc; the rest of it is nobody else's business.
_ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "login.defs", "mke2fs.conf", "pam.d", "protocols",
    "security", "services", "ssl/certs/ca-certificates.crt", "ssl/openssl.cnf",
)  # fmt: skip
_FILES = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    "ec2-user:x:1000:1000::/home/ec2-user:/bin/bash\n",
    "group": "root:x:0:\ntty:x:5:\ndisk:x:6:\nnogroup:x:65534:\nec2-user:x:1000:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "",
    "fstab": "",
}


def build(folder: Path) -> None:
    """Make the skeleton of a root in ``folder/skeleton``, and what is laid over /usr in ``folder/programs``."""
    skeleton, programs = folder / "skeleton", folder / "programs"
    for name in _EMPTY:
        (skeleton / name).mkdir(parents=True, exist_ok=True)
    (skeleton / "root").mkdir(mode=0o700)
    for name in ("tmp", "var/tmp"):
        (skeleton / name).mkdir(exist_ok=True)
        (skeleton / name).chmod(0o1777)
    (skeleton / "var/run").symlink_to("/run")
    for name in _TOP:
        if os.path.islink(f"/{name}"):
            (skeleton / name).symlink_to(os.readlink(f"/{name}"))
        elif os.path.isdir(f"/{name}"):
            (skeleton / name).mkdir()
    _build_etc(skeleton / "etc")
    (programs / "sbin").mkdir(parents=True)
    (programs / "bin").mkdir()
    for name in _POWER:
        place = programs / ("bin" if name == "systemctl" else "sbin") / name
        shutil.copy(_HERE / "inside/power.sh", place)
        place.chmod(0o755)


def host_dirs() -> list[str]:
    """Return what a node sees as it is here: Debian's links to programs; /bin where it is no link itself."""
    beside = [f"/{name}" for name in _TOP if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    return [path for path in ["/etc/alternatives", *beside] if os.path.isdir(path)]


def masks() -> list[str]:
    """Return what of /usr a node must not see: this checkout and its Python's packages, wherever they lie."""
    private = [str(_CHECKOUT), sys.prefix, os.path.expanduser("~"), os.environ.get("AIRFLOW_HOME", "")]
    below = [path for path in map(os.path.realpath, filter(None, private)) if path.startswith("/usr/")]
    # A Python that is part of the system is not masked: only what was installed for it.
    packages = [
        str(path)
        for pattern in ("local/lib/python3*/*-packages", "lib/python3*/dist-packages", "lib/python3*/site-packages")
        for path in Path("/usr").glob(pattern)
    ]
    return [path for path in below if path != "/usr/local"] + packages


def _build_etc(etc: Path) -> None:
    for name in _ETC:
        source, target = Path("/etc") / name, etc / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        elif source.exists():
            shutil.copy(source, target)
    for name, text in _FILES.items():
        (etc / name).write_text(text, encoding="utf-8")
    (etc / "os-release").symlink_to("../usr/lib/os-release")
    (etc / "mtab").symlink_to("../proc/self/mounts")

"""Directories with Python packages and programs, installed once below the checkout's .cache for nodes to see."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
_CACHE = CHECKOUT / ".cache/nodes"


@dataclass(frozen=True)
class Layer:
    """Packages in ``lib`` and programs in ``bin``, for the python3 that nodes have.

    Args:
        requirements: the text of a requirements file with hashes, complete.
        programs: their texts by name.
    """

    name: str
    requirements: str
    programs: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """Where it lies: another place for other versions, and for another Python."""
        parts = [self.requirements, *self.programs.values(), node_python(), ask_python("sys.version")]
        return _CACHE / f"{self.name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"

    def why_not(self) -> str:
        """Return why it cannot be had, or nothing; installs it first."""
        try:
            self._install()
        except (OSError, subprocess.CalledProcessError) as exc:
            said = getattr(exc, "stderr", None) or str(exc)
            return f"{self.name} could not be installed from the package index: {said.strip()[-500:]}"
        return ""

    def _install(self) -> None:
        """Install it if it is not there; several processes may try at once."""
        place = self.place
        if place.exists():
            return
        _CACHE.mkdir(parents=True, exist_ok=True)
        with (_CACHE / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if place.exists():
                return
            for old in _CACHE.glob(f"{self.name}-*"):
                shutil.rmtree(old)
            folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=_CACHE))
            (folder / "requirements.txt").write_text(self.requirements, encoding="utf-8")
            _fetch(folder / "requirements.txt", folder / "lib")
            (folder / "bin").mkdir()
            for program, text in self.programs.items():
                (folder / "bin" / program).write_text(text, encoding="utf-8")
                (folder / "bin" / program).chmod(0o755)
            folder.chmod(0o755)
            folder.rename(place)


@cache
def node_python() -> str:
    """Return the python3 that a node finds: it has this machine's programs, and its own PATH."""
    path = os.pathsep.join(["/usr/local/bin", "/usr/bin"])
    return shutil.which("python3", path=path) or sys.executable


@cache
def ask_python(expression: str) -> str:
    """Return what the nodes' Python says to an expression, with ``sys`` and ``site`` imported."""
    command = [node_python(), "-I", "-c", f"import site, sys; print({expression})"]
    return subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout.strip()


def _fetch(requirements: Path, target: Path) -> None:
    """Install with uv; pip, which knows mirrors and certificates from its own configuration, takes over."""
    options = ["--quiet", "--no-deps", "--require-hashes", f"--target={target}", f"--requirement={requirements}"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--no-config", f"--python={node_python()}"]
    if _run([*uv, *options]).returncode:
        shutil.rmtree(target, ignore_errors=True)
        version = ask_python("'{}.{}'.format(*sys.version_info)")
        pip = [sys.executable, "-m", "pip", "install", f"--python-version={version}", "--only-binary=:all:"]
        _run([*pip, *options]).check_returncode()
    # Nodes see it read-only, so bytecode has to be there.
    _run([node_python(), "-I", "-m", "compileall", "-q", "-j", "0", str(target)])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

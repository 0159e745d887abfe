"""Python packages that a node's image has: installed once below the checkout's .cache, shown read-only to nodes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_CACHE = _HERE.parents[2] / ".cache/nodes"
_AWS = "/opt/aws-cli"
# Amazon Linux 2023 has version 2 of the AWS CLI, and PyPI has version 1. What differs and matters: version 2 takes
# the region from AWS_REGION, too, and last from the metadata service.
_AWS_PROGRAM = f"""\
#!/usr/bin/env -S python3 -I
import os, sys
sys.path.insert(0, "{_AWS}/lib")
if os.environ.get("AWS_REGION"):
    os.environ["AWS_DEFAULT_REGION"] = os.environ["AWS_REGION"]
from awscli.clidriver import create_clidriver
driver = create_clidriver()
if "--region" not in sys.argv and not driver.session.get_config_variable("region"):
    from botocore.utils import IMDSRegionProvider
    os.environ["AWS_DEFAULT_REGION"] = IMDSRegionProvider(driver.session).provide() or ""
    driver = create_clidriver()
sys.exit(driver.main())
"""


def aws_cli() -> Mapping[str, Path]:
    """Return a layer with the program ``aws``; nothing where :func:`why_no_aws_cli` says why."""
    return {} if why_no_aws_cli() else {_AWS: _place("aws-cli")}


@cache
def why_no_aws_cli() -> str:
    """Return why there is no ``aws`` for nodes, or nothing; installs it first."""
    try:
        _install("aws-cli", {"aws": _AWS_PROGRAM})
    except (OSError, subprocess.CalledProcessError) as exc:
        said = getattr(exc, "stderr", None) or str(exc)
        return f"the AWS CLI could not be installed from the package index: {said.strip()[-500:]}"
    return ""


def _place(name: str) -> Path:
    """Return where a layer lies: another place for other versions, and for another Python."""
    key = hashlib.sha256((_HERE / f"{name}.txt").read_bytes() + _AWS_PROGRAM.encode() + sys.version.encode())
    return _CACHE / f"{name}-{key.hexdigest()[:16]}"


def _install(name: str, programs: Mapping[str, str]) -> None:
    """Install the packages of ``<name>.txt``, and programs; several processes may try at once."""
    place = _place(name)
    if place.exists():
        return
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            return
        for old in _CACHE.glob(f"{name}-*"):
            shutil.rmtree(old)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_CACHE))
        _fetch(_HERE / f"{name}.txt", folder / "lib")
        (folder / "bin").mkdir()
        for program, text in programs.items():
            (folder / "bin" / program).write_text(text, encoding="utf-8")
            (folder / "bin" / program).chmod(0o755)
        folder.chmod(0o755)
        folder.rename(place)


def _fetch(requirements: Path, target: Path) -> None:
    """Install with uv; pip, which knows mirrors and certificates from its own configuration, takes over."""
    options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(target), "--requirement", str(requirements)]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--no-config", *options]
    if _run(uv).returncode:
        shutil.rmtree(target, ignore_errors=True)
        _run([sys.executable, "-m", "pip", "install", *options]).check_returncode()
    # Nodes see it read-only, so bytecode has to be there. It is the node's Python that counts.
    path = os.pathsep.join(["/usr/local/bin", "/usr/bin"])
    python = shutil.which("python3", path=path) or sys.executable
    _run([python, "-I", "-m", "compileall", "-q", "-j", "0", str(target)])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

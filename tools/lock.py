"""Resolve the dependencies of pyproject.toml into the two lock files: ``make lock``.

Both hold for every supported Python and platform and carry hashes, and neither names a package index. The
demo's lock is a part of the development's, with the same versions, so that ``make demo`` on a fresh machine
installs half as much.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = [
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-annotate",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--quiet",
]


def compile_lock(name: str, *args: str) -> None:
    """Write one lock file; ``--upgrade`` of the caller reaches uv, otherwise locked versions stay."""
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "compile", "pyproject.toml", *COMMON, *args, *sys.argv[1:], f"--output-file={name}"]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    compile_lock("requirements.lock", "--all-extras", "--group=dev")
    compile_lock("requirements-demo.lock", "--group=demo", "--constraint=requirements.lock")

"""Directory mode as it is meant: the same bodies once more, as an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

NOBODY = "65534"


@pytest.mark.skipif(os.geteuid() != 0, reason="the whole suite runs as an ordinary user already")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_the_contract_holds_for_an_ordinary_user() -> None:
    folder = tempfile.mkdtemp(prefix="rankvol-nobody-")
    os.chown(folder, int(NOBODY), int(NOBODY))
    command = [
        # An interpreter and a checkout below a private directory can be read, and nothing else is allowed.
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"),
        *("--bounding-set=-all,+dac_read_search", "--no-new-privs"),
        *(sys.executable, "-m", "pytest", str(Path(__file__).parent), "-q", "-k", "local-directory", "-m", "not slow"),
        *("-o", f"cache_dir={folder}/cache", "--basetemp", f"{folder}/tests", "--deselect", "test_unprivileged"),
    ]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment = {**inherited, "HOME": folder, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout

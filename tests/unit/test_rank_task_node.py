"""What runs a shipped function, as a node runs it: in a process of its own that knows nothing of Airflow."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol import _rank_task_node
from airflow_rankvol._rank_task_node import installer

RUNNER = Path(_rank_task_node.__file__)
WHEEL = "rankvol_tiny-1.0-py3-none-any.whl"


@dataclass
class Node:
    """A node's working directory and volume."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable

    def run(
        self, source: str, *, requirements: Sequence[str] = (), **arguments: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run ``shard(rank, …)`` of a module, as rank 2 of 3."""
        work, volume = self.folder / "work", self.folder / "volume"
        shutil.rmtree(work, ignore_errors=True)
        (work / "_rankvol").mkdir(parents=True)
        volume.mkdir(exist_ok=True)
        self.result.unlink(missing_ok=True)
        shutil.copy(RUNNER, work / "_rankvol" / "run.py")
        for name, text in self.files.items():
            (work / name).write_text(text)
        (work / "_rankvol" / "shipped.py").write_text(source)
        call = {"function": "shard", "injected": ["rank"], "arguments": arguments, "requirements": list(requirements)}
        (work / "_rankvol" / "call.json").write_text(json.dumps(call))
        env = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath]),
            "NODE_RANK": "2",
            "NODES_NUM": "3",
            "VOLUME_PATH": str(volume),
            "RANKVOL_RESULT": str(self.result),
            "HOME": str(work),
            "UV_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
        }
        # Without site-packages: neither Airflow nor this package is there.
        command = [self.python, "-S", "-u", "_rankvol/run.py"]
        return subprocess.run(command, cwd=work, env={**env, **self.env}, capture_output=True, text=True, check=False)

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def output(self) -> Any:
        return json.loads(self.result.read_text())

    def cached(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "volume/.rankvol/python").iterdir())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def write_wheel(folder: Path) -> Path:
    """Write a package of one module, ``rankvol_tiny``, with ``NAME``."""
    path = folder / WHEEL
    contents = {
        "rankvol_tiny.py": "NAME = 'tiny'\n",
        "rankvol_tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: rankvol-tiny\nVersion: 1.0\n",
        "rankvol_tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_sha256(text)},{len(text)}\n" for name, text in contents.items())
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**contents, "rankvol_tiny-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return write_wheel(tmp_path)


def _sha256(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


USES_TINY = "def shard(rank):\n    import rankvol_tiny\n    return rankvol_tiny.NAME\n"


def test_the_result_is_what_the_function_returns_without_airflow(node: Node) -> None:
    done = node.run(
        """
        import importlib.util
        def shard(rank, day):
            assert importlib.util.find_spec("airflow") is None
            print("at work")
            return {"rank": rank, "day": day, "row": (1, None)}
        """.replace("\n        ", "\n"),
        day=[1, "x"],
    )
    assert (done.returncode, done.stdout) == (0, "at work\n"), done.stderr
    assert node.output() == {"rank": 2, "day": [1, "x"], "row": [1, None]}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{1}", "set"),
        ("b''", "bytes"),
        ("{'a': [0, object()]}", "object at ['a'][1]"),
        ("{1: 2}", "dict with keys that are not str"),
        ("float('nan')", "float nan"),
        ("[float('inf')]", "float inf at [0]"),
        ("(i for i in '')", "generator"),
    ],
)
def test_a_value_that_is_no_json_fails_naming_rank_and_type(node: Node, value: str, problem: str) -> None:
    done = node.run(f"def shard(rank): return {value}\n")
    assert done.returncode == 1
    assert f"rankvol: rank 2: shard() returned {problem}; expected a JSON value" in done.stderr
    assert not node.result.exists()


def test_an_exception_fails_with_its_traceback(node: Node) -> None:
    done = node.run("def shard(rank):\n    return 1 / (rank - 2)  # here\n")
    assert done.returncode == 1
    assert "return 1 / (rank - 2)  # here" in done.stderr
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("source", ["import nowhere\ndef shard(rank): ...\n", "def shard(rank):\n    import nowhere\n"])
def test_a_module_that_is_not_there_gets_an_advice(node: Node, source: str) -> None:
    done = node.run(source)
    assert done.returncode == 1
    assert "no module 'nowhere': name its package in requirements" in done.stdout
    assert "ModuleNotFoundError" in done.stderr


def test_files_of_the_job_can_be_imported_also_by_processes_of_its_own(node: Node) -> None:
    source = """
def shard(rank):
    import helper
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(helper.twice, [rank])
"""
    node.files["helper.py"] = "def twice(n):\n    return 2 * n\n"
    done = node.run(source)
    assert done.returncode == 0, done.stderr
    assert node.output() == [4]


def test_requirements_are_installed_once_per_volume(node: Node, wheel: Path) -> None:
    wanted = [f"rankvol-tiny @ {wheel.as_uri()}"]
    done = node.run(USES_TINY, requirements=wanted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (node.output(), len(node.cached())) == ("tiny", 1)
    wheel.unlink()  # the next one has nowhere to get it from
    done = node.run(USES_TINY, requirements=wanted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found on the volume" in done.stdout
    assert node.output() == "tiny"


def test_an_installation_that_was_cut_off_is_made_anew(node: Node, wheel: Path) -> None:
    wanted = [f"rankvol-tiny @ {wheel.as_uri()}"]
    assert node.run(USES_TINY, requirements=wanted).returncode == 0
    (name,) = node.cached()
    cache = node.folder / "volume/.rankvol/python"
    shutil.rmtree(cache / name)
    (cache / f"{name}.new").mkdir()
    (cache / f"{name}.new" / "rankvol_tiny.py").write_text("cut o")
    assert node.run(USES_TINY, requirements=wanted).returncode == 0
    assert node.cached() == [name]


def test_requirements_that_cannot_be_had_fail_the_rank_and_leave_no_cache(node: Node) -> None:
    done = node.run(USES_TINY, requirements=["rankvol-tiny @ file:///nowhere/" + WHEEL])
    assert done.returncode == 1
    assert "could not be installed" in done.stderr
    assert all(name.endswith(".new") for name in node.cached())


@pytest.mark.slow
def test_without_uv_it_is_a_pip_that_installs(node: Node, wheel: Path) -> None:
    """Also where Python has none of its own, as here without site-packages: a venv brings one."""
    node.env["PATH"] = os.defpath
    done = node.run(USES_TINY, requirements=[f"rankvol-tiny @ {wheel.as_uri()}"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Successfully installed rankvol-tiny-1.0" in done.stdout
    assert node.output() == "tiny"


def test_uv_comes_before_pip_and_pip_before_a_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"uv", "pip", "venv"}
    calls: list[list[str]] = []

    def call(command: list[str]) -> int:
        calls.append(command)
        return 0 if "venv" in there else 1

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in there else None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(subprocess, "call", call)
    assert installer()[:3] == ["/bin/uv", "pip", "install"]
    there.remove("uv")
    assert installer()[:4] == [sys.executable, "-m", "pip", "install"]
    assert calls == []
    there.remove("pip")
    assert installer()[:4] == ["_rankvol/venv/bin/python3", "-m", "pip", "install"]
    assert calls == [[sys.executable, "-m", "venv", "_rankvol/venv"]]
    there.remove("venv")
    with pytest.raises(SystemExit, match="neither uv nor pip"):
        installer()


def test_it_is_written_for_the_python_of_amazon_linux_2023() -> None:
    ast.parse(RUNNER.read_text(), feature_version=(3, 9))


def test_it_takes_little_of_a_start_script() -> None:
    import gzip

    assert len(gzip.compress(RUNNER.read_bytes())) < 2300

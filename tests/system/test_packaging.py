"""The built wheel, alone in an empty environment, is a provider that Airflow knows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


def pins(lock: str) -> set[str]:
    """The locked versions, ``name==version ; marker``, without their hashes."""
    return set(re.findall(r"^(\S+==[^\\\n]+?) *\\?$", (ROOT / lock).read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@dataclass(frozen=True)
class Installation:
    """An environment that holds the wheel and what it requires."""

    bin: Path
    home: Path

    def run(self, command: str, *args: str) -> str:
        """Run one of its commands far from the checkout and return its output."""
        process = subprocess.run(
            [self.bin / command, *args],
            cwd=self.home,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "AIRFLOW_HOME": str(self.home)},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return process.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel installed without extras into an empty environment, with the locked versions."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "constraints.txt").write_text("\n".join(sorted(pins("requirements.lock"))))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=60)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--python", python, wheel, "-c", folder / "constraints.txt"],
        check=True,
        timeout=280,
    )
    (folder / "home").mkdir()
    return Installation(python.parent, folder / "home")


def test_airflow_lists_the_provider_and_its_connection_type(installed: Installation) -> None:
    """`airflow providers list`, `airflow providers hooks` and `airflow plugins` show the package."""
    assert "airflow-rankvol" in installed.run("airflow", "providers", "list", "--output", "plain")
    assert "LocalRankVolHook" in installed.run("airflow", "providers", "hooks", "--output", "plain")
    assert "airflow_rankvol.plugin" in installed.run("airflow", "plugins", "--output", "json")


def test_the_installed_package_comes_from_the_wheel_and_plans_a_job(installed: Installation) -> None:
    """The commands `rankvol` and `airflow rankvol` work with nothing but what the wheel requires."""
    assert "site-packages" in installed.run("python", "-c", "import airflow_rankvol as r; print(r.__file__)")
    job = installed.home / "job.yaml"
    job.write_text("nodes: 2\nvolumes: ['data-volume-${NODE_RANK}:/data_volume']\ncommands: ['true']\n")
    for command in (["rankvol"], ["airflow", "rankvol"]):
        assert re.search(r"data-volume-\w+-1\b", installed.run(*command, "plan", str(job)))


def test_no_cloud_sdk_comes_with_the_bare_package(installed: Installation) -> None:
    """Without the extras neither SDK is installed, so everything above worked without them."""
    code = "from importlib.metadata import distributions as d; print(*[x.name for x in d()], sep='\\n')"
    names = installed.run("python", "-c", code).lower().split()
    assert "airflow-rankvol" in names
    assert not [name for name in names if name in ("boto3", "botocore", "pandas") or name.startswith("google-cloud")]


def test_the_wheel_holds_the_scripts_and_types_and_nothing_of_the_repository(wheel: Path) -> None:
    """What runs on nodes and what type checkers read is inside; tests, DAGs and docs are not."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {"airflow_rankvol/py.typed", "airflow_rankvol/prices.yaml", "airflow_rankvol/page/index.html"} <= set(names)
    package = ROOT / "airflow_rankvol"
    files = [path for form in ("*.sh", "*.js", "*.css") for path in package.rglob(form)]
    sources = {str(path.relative_to(ROOT)) for path in files}
    assert sources
    assert sources <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"airflow_rankvol"}


def test_the_demo_and_the_development_use_the_same_versions() -> None:
    """Every version of the demo's lock is the development lock's too, so that both can share .venv."""
    assert len(pins("requirements-demo.lock")) > 100
    # Where it is installed may differ: the development's tools may need a package on more platforms.
    demo, development = ({pin.partition(" ;")[0] for pin in pins(f"requirements{kind}.lock")} for kind in ("-demo", ""))
    assert demo <= development


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-demo.lock"])
def test_a_lock_names_no_host_and_hashes_everything(lock: str) -> None:
    """A lock works with whatever package index a machine uses, and accepts only the locked files."""
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=\S)", text.strip()))

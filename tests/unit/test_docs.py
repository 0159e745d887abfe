"""The documentation holds: its examples work, its links lead somewhere, its reference is complete."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import BaseModel

from airflow_rankvol import __all__ as public_names
from airflow_rankvol import errors
from airflow_rankvol.cli import main
from airflow_rankvol.engine.bootstrap import _source
from airflow_rankvol.provider_info import get_provider_info
from airflow_rankvol.records import RankResult, Tags
from airflow_rankvol.spec.environment import RESERVED_ENV
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.spec.sizes import format_duration
from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"))]
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Example(NamedTuple):
    """A fenced block of a page; ``line`` is where it starts."""

    page: Path
    line: int
    text: str


def examples(language: str) -> list[Example]:
    """Return every fenced block of a language in the documentation."""
    return list(_examples(language))


def _examples(language: str) -> Iterator[Example]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in FENCE.finditer(text):
            if found[1] == language:
                yield Example(page, text.count("\n", 0, found.start()) + 1, found[2])


def label(value: object) -> str:
    """Name an example or a page as people look it up."""
    if isinstance(value, Example):
        return f"{value.page.relative_to(ROOT)}:{value.line}"
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


PYTHON = examples("python")
DAGS = [example for example in PYTHON if "with DAG(" in example.text]
CODE = [example for example in PYTHON if example not in DAGS]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("example", examples("yaml"), ids=label)
def test_a_yaml_example_is_a_valid_job(example: Example) -> None:
    job = RankJob.model_validate(yaml.safe_load(example.text))
    assert job.commands, "a job without commands is refused by plan"


@pytest.mark.parametrize("example", DAGS, ids=label)
def test_a_dag_example_is_loaded_and_planned_as_it_stands(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__RANKVOL__OWNER", "docs")
    # The files of the job need not do anything here, but plan looks whether they exist.
    shutil.copytree(ROOT / "dags" / "include", tmp_path / "include")
    for path in re.findall(r"\"(include/[\w.]+)\"", example.text):
        (tmp_path / path).touch()
    file = tmp_path / "example.py"
    file.write_text(example.text, encoding="utf-8")
    code = main(["plan", str(file)])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "rank  zone" in shown.out


@pytest.mark.parametrize("example", CODE, ids=label)
def test_other_python_examples_run(example: Example) -> None:
    code = compile(example.text, label(example), "exec")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    if "job_fields" in namespace:
        fields = namespace["job_fields"]
        if "{{ " not in fields.get("volumes", "").replace("${{ ", ""):
            RankJob.model_validate({"nodes": 2, "volumes": "data-${NODE_RANK}:/data", **fields})


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_relative_links_and_images_lead_to_what_exists(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_and_decision_is_reachable_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
    assert {page for page in PAGES if ROOT / "docs" in page.parents} - linked == {index}


def section(title: str) -> str:
    """Return a section of the reference, down to the next heading of its level or above."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^##? |^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"the reference has no section {title!r}"
    return found[2]


def rows(title: str) -> dict[str, str]:
    """Return the first column's names of a section's tables with the second column."""
    cells = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \| ([^|]*) \|", section(title), re.MULTILINE)
    return {name: second.strip() for first, second in cells for name in re.findall(r"`([^`]+)`", first)}


def default_text(value: object) -> str:
    """Return a default as the reference writes it."""
    if isinstance(value, timedelta):
        day, rest = timedelta(days=1), format_duration(value)
        return "`24h`" if value == day else f"`{rest}`"  # nobody writes a lifetime of 1d
    if isinstance(value, BaseModel):
        return f"`{type(value).__name__}()`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


@pytest.mark.parametrize("model", [RankJob, VolumeTemplate, NodeTemplate])
def test_the_reference_has_every_field_with_its_default(model: type[BaseModel]) -> None:
    expected = {
        name: "required" if field.is_required() else default_text(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
    }
    assert rows(model.__name__) == expected


def test_the_reference_has_every_error() -> None:
    defined = {value.__name__ for value in vars(errors).values() if _is_error(value)}
    assert set(re.findall(r"[├└]── (\w+)|^(\w+)$", section("Errors"), re.MULTILINE)) == {
        ("", name) if name == "RankVolError" else (name, "") for name in defined
    }


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.RankVolError)


def test_the_reference_has_every_key_of_a_ranks_result() -> None:
    assert set(rows("A rank's result")) == set(RankResult(rank=0, exit_code=0).to_dict())


def test_the_reference_has_every_tag() -> None:
    tags = Tags(owner="", dag="", run="", group="", key="").to_dict()
    assert set(rows("Tags")) == set(tags)


def test_the_reference_has_every_setting_and_public_name() -> None:
    options: Mapping[str, Any] = get_provider_info()["config"]["rankvol"]["options"]
    assert set(rows("Settings")) == set(options)
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert [name for name in public_names if name not in text and name != "__version__"] == []


def test_the_pages_have_every_variable_of_a_node() -> None:
    text = (ROOT / "docs" / "node.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]*)`", text))
    assert documented >= RESERVED_ENV
    exported = set(re.findall(r"rv_export ([A-Z_]+)", _source("bootstrap.sh")))
    assert exported <= documented


def test_the_local_page_has_every_field_of_the_connection() -> None:
    from airflow_rankvol.hooks import _LOCAL_KEYS

    text = (ROOT / "docs" / "local.md").read_text(encoding="utf-8")
    assert [key for key in _LOCAL_KEYS if f"| `{key}` |" not in text] == []


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_clouds_page_has_exactly_our_fields_of_the_connection(cloud: str) -> None:
    ours = import_module(f"airflow_rankvol.backends._{cloud}_connection").OUR_FIELDS
    text = (ROOT / f"docs/{cloud}.md").read_text()
    table = text.partition("| extra | default | |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(ours)

"""A function is shipped whole, whatever its text holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol._shipping import module_source


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"], ids=ascii)
@pytest.mark.parametrize("indent", ["", "    "], ids=["of a file", "in a block"])
def test_what_only_some_take_for_the_end_of_a_line_cuts_nothing_off(tmp_path: Path, mark: str, indent: str) -> None:
    """``str.splitlines`` breaks lines where Python's own lines go on."""
    body = ["def shard(rank):", f'    """One{mark}two."""', f'    words = "a{mark}b"', "    return [words, rank + 1]"]
    head = ["if True:"] if indent else []
    path = tmp_path / "job.py"
    path.write_text("\n".join([*head, *(indent + line for line in body), ""]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("job", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    space: dict[str, Any] = {}
    exec(compile(module_source(module.shard), "shipped.py", "exec"), space)
    assert space["shard"](1) == module.shard(1) == [f"a{mark}b", 2]

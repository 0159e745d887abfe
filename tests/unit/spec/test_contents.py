"""Files whose content stands in the job itself."""

from __future__ import annotations

import json
import string

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.contents import data_url, inline_content, is_inline
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.templating import shield


@given(st.binary())
def test_a_data_url_brings_every_content_back(content: bytes) -> None:
    assert inline_content(data_url(content)) == content


@given(st.text(alphabet="{}%#$ \nab") | st.sampled_from([string.printable, "{{ x }}", "{% raw %}", "${#x}", "{# x #}"]))
def test_jinja_leaves_a_data_url_alone(text: str) -> None:
    url = data_url(text.encode())
    assert (
        jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined).from_string(shield(url)).render() == url
    )


def test_a_data_url_of_code_can_be_read() -> None:
    assert data_url(b"print('a', [1])") == "data:,print('a', [1])"


@pytest.mark.parametrize("url", ["data:text/plain;base64,aGVsbG8=", "data:,hello", "data:text/plain,hel%6Co"])
def test_data_urls_of_other_makers_are_read(url: str) -> None:
    assert inline_content(url) == b"hello"


@pytest.mark.parametrize("path", ["include/etl.py", "../data/x", "data"])
def test_a_path_is_no_content(path: str) -> None:
    assert not is_inline(path)
    assert inline_content(path) is None


def job(**files: object) -> RankJob:
    return RankJob.model_validate({"nodes": 1, "volumes": "d-${NODE_RANK}:/d", "files": files})


def test_a_job_keeps_json_values_as_data_urls() -> None:
    source = job(conf={"a": [1, None, "ü"]}).files["conf"]
    assert json.loads(inline_content(source) or b"") == {"a": [1, None, "ü"]}
    assert RankJob.model_validate(job(conf=[1]).model_dump()) == job(conf=[1])


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("data:text/plain", "no ','"),
        ("data:;base64,a*b", "not base64"),
        ({"when": {1, 2}}, "set is not JSON serializable"),
        ([float("nan")], "not JSON"),
        (3, "valid string"),
    ],
)
def test_what_is_no_content_is_refused_by_its_name(source: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        job(conf=source)
    assert "conf" in str(caught.value)
    assert isinstance(caught.value, ConfigError | ValueError)

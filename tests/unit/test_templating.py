"""Shielding rank variables from Jinja."""

from __future__ import annotations

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.templating import shield


def render(text: str) -> str:
    """Render as Airflow does, with one variable defined."""
    return jinja2.Environment().from_string(shield(text)).render(name="World")


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("plain", "plain"),
        ("${{ node_rank }}", "${{ node_rank }}"),
        ("${{node_rank:03d}} of {{ name }}", "${{node_rank:03d}} of World"),
        ("${NODE_RANK} $NODE_RANK $$ ${x:-1}", "${NODE_RANK} $NODE_RANK $$ ${x:-1}"),
        ("{% raw %}${#x} ${{ y }}{% endraw %} ${{ z }}", "${#x} ${{ y }} ${{ z }}"),
        ("{%- raw -%}${#x}{%- endraw -%}", "${#x}"),
        ("{% if true %}${{ a }}{% endif %}", "${{ a }}"),
        ("${{ a }}${{ b }}", "${{ a }}${{ b }}"),
    ],
)
def test_rank_variables_survive_and_templates_are_rendered(text: str, rendered: str) -> None:
    """What is ours comes out as it went in; what is Jinja's is rendered."""
    assert render(text) == rendered


@given(st.text(alphabet="ab ${}#%", max_size=30))
def test_text_without_our_variables_or_lengths_is_left_alone(text: str) -> None:
    """Shielding is the identity wherever there is nothing to shield."""
    if "${{" not in text and "${#" not in text:
        assert shield(text) == text


def test_a_length_expansion_is_refused_with_the_way_out() -> None:
    """Jinja would read it as a comment and swallow the rest, so it never gets there."""
    with pytest.raises(ConfigError, match=r"\{% raw %\}\$\{#name\}\{% endraw %\}"):
        shield("echo ${#x}; rm -rf #}")

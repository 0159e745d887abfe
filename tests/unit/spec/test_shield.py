"""What the error about a length expansion says: it is raised while Airflow renders, which names no field."""

from __future__ import annotations

import pytest

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.templating import shield


def said(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        shield(text)
    return str(caught.value)


def test_the_message_begins_with_what_was_found_and_ends_with_the_text_it_stands_in() -> None:
    message = said("echo ${#x}; rm -rf #}")
    assert message.startswith("a templated text has '${#x}', which Jinja would read as the start of a comment")
    assert message.endswith("The text is 'echo ${#x}; rm -rf #}'")


def test_a_long_text_is_cut_where_one_can_see_it() -> None:
    message = said("echo ${#x" + "y" * 200)
    assert "has '${#xyyy" in message
    assert message.count("…'") == 2
    assert len(message) < 350

"""Tags as labels: whatever ids Airflow has, they fit Compute Engine's alphabet, and come back."""

from __future__ import annotations

import re
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_rankvol.backends._gcp_labels import (
    MAX_CHARACTERS,
    MAX_LABELS,
    changed,
    check_labels,
    description_of,
    gather,
    labels_of,
    short,
    spread,
    tags_of,
)
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import Tags
from airflow_rankvol.tags import UNREADABLE

DOCS = Path(__file__).resolve().parents[3] / "docs/gcp.md"
KEY, MOMENT = "0a1b2c3d", "2026-11-23T20:00:00.000+00:00"
# Whatever a database takes: every character but surrogates, 250 of them.
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=250)
ascii_ids = st.text(st.characters(max_codepoint=126, min_codepoint=32), min_size=1, max_size=250)
plain_ids = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)
any_id = st.one_of(plain_ids, ascii_ids, ids)


@st.composite
def twins(draw: st.DrawFn) -> tuple[str, str]:
    """Two ids that differ only after as many characters as a label holds; often in nothing but their ends."""
    alphabet = draw(st.sampled_from([string.ascii_lowercase + string.digits + "-", string.printable, "aZ_é/☃"]))
    texts = st.text(alphabet, min_size=MAX_CHARACTERS, max_size=200)
    start, ends = draw(texts), st.text(alphabet, max_size=50)
    first, second = draw(st.tuples(ends, ends).filter(lambda pair: pair[0] != pair[1]))
    return start + first, start + second


def fits(labels: dict[str, str]) -> bool:
    """Say whether Compute Engine takes labels: 64 at most, of 63 characters (gce/labeling-resources)."""
    wrong = [
        (key, value)
        for key, value in labels.items()
        if not (re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) and re.fullmatch(r"[a-z0-9_-]{0,63}", value))
    ]
    return not wrong and len(labels) <= MAX_LABELS


@given(owner=any_id, dag=any_id, run=any_id, group=any_id, used=ascii_ids)
def test_any_identity_fits_and_comes_back(owner: str, dag: str, run: str, group: str, used: str) -> None:
    tags = Tags(
        owner=owner, dag=dag, run=run, group=group, key=KEY, rank=7, attempt=3, expiry=MOMENT, collected=KEY,
        role="rank", used_by=KEY, used_dag=used[:100], used_run=used, kept=MOMENT,
    )  # fmt: skip
    labels = labels_of(tags)
    assert fits(labels)
    assert tags_of(labels, description_of(tags)) == tags


@given(text=any_id, other=any_id)
def test_different_texts_have_different_labels(text: str, other: str) -> None:
    """Lists are filtered by them."""
    assert (short(text) == short(other)) == (text == other)
    assert (spread("used_run", text) == spread("used_run", other)) == (text == other)


@given(pair=twins())
def test_texts_that_begin_alike_have_different_labels(pair: tuple[str, str]) -> None:
    """A label that were cut off would be the same: another run's volumes would be taken for this one's."""
    text, other = pair
    same: dict[str, Any] = dict.fromkeys(("owner", "dag", "run", "group"), "x")
    assert short(text) != short(other)
    assert spread("used_run", text) != spread("used_run", other)
    for name in ("owner", "dag", "run", "group"):
        tags = Tags(**{**same, name: text}, key=KEY)
        theirs = Tags(**{**same, name: other}, key=KEY)
        assert labels_of(tags) != labels_of(theirs)
        assert tags_of(labels_of(tags), description_of(theirs)) is None


@given(text=ids)
def test_a_text_that_is_too_long_never_reads_as_another(text: str) -> None:
    """A run whose id cannot be read must not pass for one that has ended."""
    found = gather("used_run", spread("used_run", text))
    assert found == text or found.startswith(UNREADABLE)
    if len(text.encode()) <= 312:
        assert found == text


@given(before=any_id, after=any_id)
def test_a_tag_that_changes_leaves_no_part_of_the_one_before(before: str, after: str) -> None:
    tags = Tags(owner="me", dag="d", run="r", group="g", key=KEY, used_run=before)
    labels = changed({**labels_of(tags), "mine": "x"}, {"rankvol:used_run": after})
    assert labels == {**labels_of(replace(tags, used_run=after)), "mine": "x"}
    assert changed(labels, {"rankvol:used_run": ""}) == {**labels_of(replace(tags, used_run="")), "mine": "x"}


def test_people_can_read_what_is_short() -> None:
    run = "scheduled__2026-11-23T20:00:00+00:00"
    assert short("data-platform-prod") == "data-platform-prod"
    assert short("flights_by_shard") == "flights__by__shard"
    assert short(run) == "scheduled____2026-11-23_5420_3a00_3a00_2b00_3a00"


@pytest.mark.parametrize(
    "damage",
    [
        {"rankvol-used-run": "_z9abc"},
        {"rankvol-used-run": "_zxabc"},
        {"rankvol-used-run": "_z2mfrggzdf"},
        {"rankvol-used-run": "_x"},
        {"rankvol-used-run": "_ff_fe"},
    ],
    ids=str,
)
def test_damaged_labels_read_as_no_run(damage: dict[str, str]) -> None:
    tags = Tags(owner="me", dag="d", run="r", group="g", key=KEY)
    found = tags_of({**labels_of(tags), **damage}, description_of(tags))
    assert found is not None
    assert found.used_run.startswith(UNREADABLE)
    assert not found.user_is_known


@given(dag=any_id, run=any_id)
def test_who_made_a_volume_is_known_as_its_user_however_long_the_ids_are(dag: str, run: str) -> None:
    tags = Tags(owner="me", dag=dag, run=run, group="g", key=KEY, used_dag=dag, used_run=run)
    assert tags_of(labels_of(tags), description_of(tags)) == tags


def test_another_run_whose_id_is_too_long_is_unknown() -> None:
    tags = Tags(
        owner="me",
        dag="d" * 250,
        run="r",
        group="g",
        key=KEY,
        used_dag="d" * 250,
        used_run="\N{OGHAM LETTER BEITH}" * 200,
    )
    found = tags_of(labels_of(tags), description_of(tags))
    assert found is not None
    assert (found.used_dag, found.user_is_known) == (tags.used_dag, False)


@pytest.mark.parametrize("name", ["owner", "dag", "run", "group", "key"])
def test_who_it_is_cannot_be_changed_by_labels(name: str) -> None:
    tags = Tags(owner="me", dag="d", run="r", group="g", key=KEY)
    text = description_of(tags)
    assert tags_of({**labels_of(tags), f"rankvol-{name}": "another"}, text) is None
    with pytest.raises(ConfigError, match="cannot be changed"):
        changed(labels_of(tags), {f"rankvol:{name}": "another"})


@pytest.mark.parametrize("description", ["", "mine", "[]", "{}", '{"rankvol":{}}', '{"rankvol":{"owner":5}}', "null"])
def test_without_our_description_nothing_is_ours(description: str) -> None:
    tags = Tags(owner="me", dag="d", run="r", group="g", key=KEY)
    assert tags_of(labels_of(tags), description) is None


def test_a_rank_that_is_no_number_makes_tags_unreadable() -> None:
    tags = Tags(owner="me", dag="d", run="r", group="g", key=KEY)
    assert tags_of({**labels_of(tags), "rankvol-rank": "many"}, description_of(tags)) is None


@pytest.mark.parametrize("tags", [{"team": "etl"}, {"größe": "xl_1"}, {"a": ""}, {"a" * 63: "b" * 63}], ids=str)
def test_a_users_tags_are_labels(tags: dict[str, str]) -> None:
    check_labels(tags, "node")


@pytest.mark.parametrize(
    "tags",
    [
        *({key: "x"} for key in ("Team", "1team", "", "a b", "ü" * 65, "a.b")),
        *({"team": value} for value in ("X", "x y", "b" * 64, "ü" * 64, "x:y")),
    ],
    ids=str,
)
def test_what_is_no_label_is_refused(tags: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="lower-case"):
        check_labels(tags, "node")


def test_the_most_tags_fit_beside_the_longest_of_ours() -> None:
    text = "Z" * 190
    tags = Tags(
        owner=text, dag=text, run=text, group=text, key=KEY, handout="h", expiry="e", collected="c", role="r",
        used_by=KEY, used_dag=text, used_run=text, kept="k",
    )  # fmt: skip
    mine = {f"tag-{n}": "x" for n in range(33)}
    check_labels(mine, "node")
    assert len(labels_of(tags, mine)) <= MAX_LABELS
    with pytest.raises(ConfigError, match=r"34 tags; of the 64 labels.* 33 are free"):
        check_labels({**mine, "more": "x"}, "node")
    said = " ".join(DOCS.read_text().split())
    assert f"refuses those that cannot be, and more than {len(mine)}." in said
    assert f"| {MAX_LABELS} on a resource, up to {MAX_LABELS - len(mine)} of them ours |" in said

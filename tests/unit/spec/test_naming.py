"""Rank templates: reading variables, and the rules for the names that they give."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.naming import MAX_NAME, Naming, Scope, interpolate, interpolate_braces, volume_names

KEY = "1f2e3d4c"
RANK_SINGLE = ["${NODE_RANK}", "${DSTACK_NODE_RANK}"]
RANK_DOUBLE = ["${{ dstack.node_rank }}", "${{ dstack.job_num }}", "${{ node_rank }}"]
RANKS = RANK_SINGLE + RANK_DOUBLE
NODES_SINGLE = ["${NODES_NUM}", "${DSTACK_NODES_NUM}"]
NODES_DOUBLE = ["${{ dstack.nodes_num }}", "${{ nodes_num }}"]
NODES = NODES_SINGLE + NODES_DOUBLE


def names(template: str, nodes: int = 1, naming: Naming = Naming.SUFFIX, scope: Scope = Scope.RUN) -> tuple[str, ...]:
    return volume_names(template, nodes=nodes, naming=naming, scope=scope, key=KEY)


class TestValues:
    """What `interpolate` and `interpolate_braces` are called with, besides the template's own syntax."""

    @pytest.mark.parametrize("function", [interpolate, interpolate_braces])
    @pytest.mark.parametrize("rank", [8, 9, -1, True, False, None, "3", 3.0])
    def test_a_rank_is_a_whole_number_below_the_number_of_nodes(self, function: Any, rank: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            function("a-${{ node_rank }}", rank=rank, nodes=8)
        assert str(caught.value) == (f"rank: {rank!r} was found; with nodes=8, a whole number from 0 to 7 is expected")

    @pytest.mark.parametrize("function", [interpolate, interpolate_braces])
    @pytest.mark.parametrize("nodes", [0, -1, True, None, "8", 8.0])
    def test_the_number_of_nodes_is_a_whole_number_from_one_on(self, function: Any, nodes: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            function("a-${{ node_rank }}", rank=0, nodes=nodes)
        assert str(caught.value) == f"nodes: {nodes!r} was found; a whole number of at least 1 is expected"

    @pytest.mark.parametrize("function", [interpolate, interpolate_braces])
    @pytest.mark.parametrize("text", [None, 5, b"a", ["a"]])
    def test_a_template_is_text(self, function: Any, text: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            function(text, rank=0, nodes=1)
        assert str(caught.value).startswith(f"text: {text!r} was found; text is expected")

    def test_a_text_without_variables_is_checked_in_the_same_way(self) -> None:
        with pytest.raises(ConfigError, match="rank: 8 was found"):
            interpolate("a", rank=8, nodes=8)


class TestInterpolate:
    @pytest.mark.parametrize("variable", RANKS)
    def test_every_spelling_of_the_rank_means_the_rank(self, variable: str) -> None:
        assert interpolate(f"data-{variable}", rank=3, nodes=8) == "data-3"

    @pytest.mark.parametrize("variable", NODES)
    def test_every_spelling_of_the_node_count_means_it(self, variable: str) -> None:
        assert interpolate(f"of-{variable}", rank=3, nodes=8) == "of-8"

    @pytest.mark.parametrize(
        "text", ["${ NODE_RANK }", "${{node_rank}}", "${{   node_rank\t}}", "${{ node_rank : d }}"]
    )
    def test_whitespace_within_the_braces_is_free(self, text: str) -> None:
        assert interpolate(text, rank=5, nodes=8) == "5"

    @pytest.mark.parametrize(
        ("text", "result"),
        [
            ("${{ node_rank:03d }}", "007"),
            ("${{node_rank:3d}}", "  7"),
            ("${{ dstack.job_num:x }}", "7"),
            ("${{ nodes_num:#06b }}", "0b1000"),
            ("${{ node_rank:_>4 }}", "___7"),
            ("${{ node_rank:+d }}", "+7"),
        ],
    )
    def test_the_double_brace_spelling_takes_a_format_for_integers(self, text: str, result: str) -> None:
        assert interpolate(text, rank=7, nodes=8) == result

    @pytest.mark.parametrize("spec", ["zz", "03f", ".2f", "e", "%", "s", "03dd", "99999999999d", "c", ",x"])
    def test_a_format_that_is_not_for_integers_is_refused_by_name(self, spec: str) -> None:
        with pytest.raises(ConfigError, match="bad format") as caught:
            interpolate(f"data-${{{{ node_rank:{spec} }}}}", rank=0, nodes=1)
        assert repr(spec) in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "result"),
        [
            ("$$", "$"),
            ("$$$$", "$$"),
            ("$${NODE_RANK}", "${NODE_RANK}"),
            ("$${{ node_rank }}", "${{ node_rank }}"),
            ("$$${NODE_RANK}", "$2"),
            ("$NODE_RANK", "$NODE_RANK"),
            ("costs 5$", "costs 5$"),
            ("$ {x} {{ y }} }}", "$ {x} {{ y }} }}"),
        ],
    )
    def test_a_dollar_is_escaped_by_a_dollar_and_stays_before_anything_else(self, text: str, result: str) -> None:
        assert interpolate(text, rank=2, nodes=4) == result

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("data-${RANK}", "RANK"),
            ("data-${node_rank}", "node_rank"),
            ("data-${{ NODE_RANK }}", "NODE_RANK"),
            ("data-${{ dstack.run_name }}", "dstack.run_name"),
            ("data-${}", ""),
            ("data-${{ }}", ""),
            ("data-${HOME:-x}", "HOME:-x"),
        ],
    )
    def test_an_unknown_variable_is_named_with_the_known_ones(self, text: str, name: str) -> None:
        with pytest.raises(ConfigError, match="unknown variable") as caught:
            interpolate(text, rank=0, nodes=1)
        assert repr(name) in str(caught.value)
        assert "${{ node_rank }}" in str(caught.value)

    def test_a_format_in_single_braces_is_answered_with_the_spelling_that_takes_one(self) -> None:
        with pytest.raises(ConfigError, match=r"needs double braces: \$\{\{ node_rank:03d \}\}"):
            interpolate("${NODE_RANK:03d}", rank=0, nodes=1)

    @pytest.mark.parametrize(
        "text",
        ["data-${NODE_RANK", "${", "${{", "${{ node_rank }", "x${NODE_RANK-${NODE_RANK}", "${{ node_rank"],
    )
    def test_an_unclosed_variable_is_quoted(self, text: str) -> None:
        with pytest.raises(ConfigError, match="unclosed variable") as caught:
            interpolate(text, rank=0, nodes=1)
        assert repr(text[text.index("${") :]) in str(caught.value)

    @given(st.text().filter(lambda text: "$" not in text))
    def test_text_without_a_dollar_stays_as_it_is(self, text: str) -> None:
        assert interpolate(text, rank=1, nodes=2) == text
        assert interpolate_braces(text, rank=1, nodes=2) == text

    @given(
        st.lists(st.sampled_from([*RANKS, *NODES, "a", "-", "{", "}", "9"])),
        st.integers(0, 1023),
        st.integers(1, 1024),
    )
    def test_no_known_variable_is_left(self, parts: list[str], rank: int, more: int) -> None:
        nodes = rank + more
        values = {**dict.fromkeys(RANKS, str(rank)), **dict.fromkeys(NODES, str(nodes))}
        result = interpolate("".join(parts), rank=rank, nodes=nodes)
        assert "$" not in result
        assert result == "".join(values.get(part, part) for part in parts)

    @given(st.text(alphabet="$ab{}- "), st.integers(0, 9))
    def test_escaping_every_dollar_gives_the_text_back(self, text: str, rank: int) -> None:
        assert interpolate(text.replace("$", "$$"), rank=rank, nodes=10) == text


class TestInterpolateBraces:
    @pytest.mark.parametrize(
        "text",
        [
            "$NODE_RANK",
            "${NODE_RANK}",
            "$$",
            "kill $$",
            "${HOME}",
            "${x:-${y}}",
            "${#x}",
            "$${{ x }}",
            "${open",
        ],
    )
    def test_what_belongs_to_the_shell_is_left_alone(self, text: str) -> None:
        assert interpolate_braces(text, rank=1, nodes=2) == text

    def test_double_braces_are_replaced_within_what_belongs_to_the_shell(self) -> None:
        text = "run ${OUT:-/r-${{ node_rank:02d }}} --of ${{ dstack.nodes_num }} $NODE_RANK"
        assert interpolate_braces(text, rank=1, nodes=4) == "run ${OUT:-/r-01} --of 4 $NODE_RANK"

    @pytest.mark.parametrize("text", ["echo ${{ github.sha }}", "echo ${{ NODE_RANK }}", "echo ${{ node_rank }"])
    def test_an_unknown_or_unclosed_one_is_an_error(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"(unknown|unclosed) variable"):
            interpolate_braces(text, rank=0, nodes=1)


class TestNames:
    @pytest.mark.parametrize("variable", RANKS)
    def test_run_scope_puts_the_key_before_the_numeric_suffix(self, variable: str) -> None:
        assert names(f"data-volume-{variable}", 4)[3] == "data-volume-1f2e3d4c-3"

    def test_a_prefix_without_a_dash_gets_one(self) -> None:
        assert names("data${NODE_RANK}", 2) == ("data-1f2e3d4c-0", "data-1f2e3d4c-1")

    def test_dag_scope_carries_a_key_as_run_scope_does(self) -> None:
        assert names("data-${NODE_RANK}", 1, scope=Scope.DAG) == ("data-1f2e3d4c-0",)

    def test_pattern_mode_appends_the_key(self) -> None:
        template = "shard-${{ node_rank:03d }}-of-${{ nodes_num:03d }}"
        assert names(template, 8, Naming.PATTERN)[3] == "shard-003-of-008-1f2e3d4c"

    def test_global_scope_gives_the_literal_name(self) -> None:
        assert names("Data_Volume.${NODE_RANK}", 2, scope=Scope.GLOBAL) == ("Data_Volume.0", "Data_Volume.1")

    @pytest.mark.parametrize("naming", Naming)
    def test_one_node_needs_no_rank_variable(self, naming: Naming) -> None:
        assert names("scratch", 1, naming) == ("scratch-1f2e3d4c",)
        assert names("scratch", 1, naming, Scope.GLOBAL) == ("scratch",)

    @pytest.mark.parametrize("naming", Naming)
    @pytest.mark.parametrize("scope", Scope)
    @pytest.mark.parametrize("template", ["scratch", "scratch-$${NODE_RANK}"])
    def test_several_nodes_without_a_rank_variable_cannot_share_one_disk(
        self, naming: Naming, scope: Scope, template: str
    ) -> None:
        with pytest.raises(ConfigError, match="one disk cannot be attached to 3 nodes") as caught:
            names(template, 3, naming, scope)
        assert repr(template) in str(caught.value)

    @pytest.mark.parametrize(
        "template",
        [
            "${NODE_RANK}-data",
            "data-${NODE_RANK}-x",
            "data-${NODE_RANK}-${NODE_RANK}",
            "data-${NODE_RANK}${{ node_rank }}",
            "data-${{ node_rank:03d }}",
            "${NODE_RANK}",
            "data-of-${NODES_NUM}-${NODE_RANK}",
            "data-${NODE_RANK}-$${NODE_RANK}",
            "data-${NODE_RANK} ",
        ],
    )
    def test_suffix_mode_refuses_anything_but_a_plain_rank_at_the_end(self, template: str) -> None:
        for nodes in (1, 4):
            with pytest.raises(ConfigError, match="numeric suffix only") as caught:
                names(template, nodes)
            assert repr(template) in str(caught.value)

    def test_two_ranks_with_one_name_are_both_named(self) -> None:
        with pytest.raises(ConfigError, match=r"the ranks 1 and 11 the same name 'x111-1f2e3d4c'"):
            names("x${{ node_rank:1<3d }}", 12, Naming.PATTERN)

    @pytest.mark.parametrize(
        "template",
        [
            "Data-${NODE_RANK}",
            "data_${NODE_RANK}",
            "1data-${NODE_RANK}",
            "-${NODE_RANK}",
            "dätä-${NODE_RANK}",
        ],
    )
    def test_a_name_that_some_cloud_refuses_is_shown_as_rendered(self, template: str) -> None:
        with pytest.raises(ConfigError, match="lower-case letters, digits and dashes") as caught:
            names(template, 2)
        assert repr(template) in str(caught.value)
        assert "1f2e3d4c-0' of " in str(caught.value)

    def test_the_length_counts_key_and_rank(self) -> None:
        longest = "a" * (MAX_NAME - len("-1f2e3d4c-99"))
        assert len(names(longest + "${NODE_RANK}", 100)[99]) == MAX_NAME
        with pytest.raises(ConfigError, match=r"rank 100 the name '.*' of 64 characters; at most 63"):
            names(longest + "${NODE_RANK}", 101)

    @pytest.mark.parametrize(
        "template", ["a b-${NODE_RANK}", ".a-${NODE_RANK}", "a/${NODE_RANK}", "a" * 128 + "${NODE_RANK}"]
    )
    def test_a_global_name_has_rules_too(self, template: str) -> None:
        with pytest.raises(ConfigError, match="1 to 128 letters"):
            names(template, 1, scope=Scope.GLOBAL)

    @pytest.mark.parametrize("key", ["", "1f2e3d4", "1F2E3D4C", "1f2e3d4c5", "zzzzzzzz"])
    def test_a_key_is_eight_hex_digits(self, key: str) -> None:
        with pytest.raises(ConfigError, match="not 8 lower-case hex digits"):
            volume_names("a-${NODE_RANK}", nodes=1, naming=Naming.SUFFIX, scope=Scope.RUN, key=key)

    def test_no_nodes_have_no_names(self) -> None:
        with pytest.raises(ConfigError, match="at least 1 is needed"):
            names("a-${NODE_RANK}", 0)


def is_label(name: str) -> bool:
    """RFC 1035's rule for labels, written out by hand."""
    inner = string.ascii_lowercase + string.digits + "-"
    return (
        0 < len(name) <= 63
        and name[0] in string.ascii_lowercase
        and name[-1] in string.ascii_lowercase + string.digits
        and all(c in inner for c in name)
    )


def suffix_rule(parts: Sequence[str], nodes: int) -> tuple[str, ...] | None:
    """The names that suffix mode should give for a template cut into parts, or None where it should refuse.

    An oracle that shares nothing with the implementation: it never reads a template.
    """
    literal = "".join(p.replace("$$", "$") for p in parts if p not in (*RANKS, *NODES, *FORMATTED))
    kinds = [p for p in parts if p in (*RANKS, *NODES, *FORMATTED)]
    dash = "" if literal.endswith("-") else "-"
    expected: tuple[str, ...] = ()
    if not kinds:
        expected = (f"{literal}{dash}{KEY}",) if nodes == 1 else ()
    elif len(kinds) == 1 and kinds[0] in RANKS and parts[-1] == kinds[0] and literal:
        expected = tuple(f"{literal}{dash}{KEY}-{rank}" for rank in range(nodes))
    return expected if expected and all(map(is_label, expected)) else None


FORMATTED = ["${{ node_rank:03d }}", "${{ nodes_num:d }}"]
LITERALS = st.sampled_from(["a", "data", "data-volume", "-", "--", "0", "x" * 45, "A", "_", "$$", "é"])
TEMPLATES = st.one_of(
    st.lists(st.one_of(LITERALS, st.sampled_from(RANKS + NODES + FORMATTED)), max_size=5),
    st.tuples(st.sampled_from(["data-", "x", "a" * 50]), st.sampled_from(RANKS)).map(list),
)


@given(TEMPLATES, st.sampled_from([1, 2, 11, 101]))
@example(["a" * 50, "${NODE_RANK}"], 101)
@example(["a" * 53, "${NODE_RANK}"], 11)
def test_suffix_mode_accepts_exactly_what_the_rule_says(parts: list[str], nodes: int) -> None:
    expected = suffix_rule(parts, nodes)
    try:
        found: tuple[str, ...] | None = names("".join(parts), nodes)
    except ConfigError:
        found = None
    assert found == expected


@given(
    st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True),
    st.sampled_from(RANKS),
    st.integers(1, 1024),
    st.sampled_from([Scope.RUN, Scope.DAG, Scope.GLOBAL]),
)
def test_n_ranks_have_n_distinct_valid_names(prefix: str, variable: str, nodes: int, scope: Scope) -> None:
    found = names(f"{prefix}-{variable}", nodes, scope=scope)
    assert len(set(found)) == len(found) == nodes
    assert all(map(is_label, found))


@given(
    st.lists(
        st.sampled_from(
            [*RANKS, *NODES, "${{ node_rank:03d }}", "${{ node_rank:x }}", "${{ node_rank:1<3d }}", "-", "s"]
        ),
        max_size=4,
    ),
    st.integers(1, 120),
)
def test_pattern_mode_gives_n_distinct_valid_names_or_refuses(parts: list[str], nodes: int) -> None:
    template = "p" + "".join(parts)
    rendered = [interpolate(template, rank=rank, nodes=nodes) for rank in range(nodes)]
    try:
        found = names(template, nodes, Naming.PATTERN)
    except ConfigError:
        assert len(set(rendered)) < nodes or not all(is_label(f"{name}-{KEY}") for name in rendered)
    else:
        assert len(set(found)) == len(found) == nodes
        assert all(is_label(name) and name.endswith(f"-{KEY}") for name in found)

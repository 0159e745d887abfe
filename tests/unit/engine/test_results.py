"""What a node reports, and how it becomes the result that Airflow shows."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from airflow_rankvol.engine.results import Report, ReportUnreadable, ResultNotJson, parse_report, result_of
from airflow_rankvol.records import Node, NodeState, utc_now

from .engine_kit import Rig, a_rig


def a_report(**fields: Any) -> str:
    texts = {name: fields.pop(name) for name in ("output", "log_tail", "error") if name in fields}
    encoded = {f"{name}_b64": base64.b64encode(text.encode()).decode() for name, text in texts.items()}
    return json.dumps({"exit_code": 0, "phase": "done", **fields, **encoded})


def test_every_field_of_a_report_is_read() -> None:
    times: dict[str, Any] = {"attached_at": "2026-01-01T00:00:01+00:00", "started_at": "b", "finished_at": "c"}
    raw = a_report(
        exit_code=4, phase="incomplete", output='{"a": 1}', log_tail="grüße", error="why", reused=True,
        collected=[0, 2], missing=[1], copied=3, **times,
    )  # fmt: skip
    assert parse_report(raw) == Report(
        exit_code=4, phase="incomplete", output={"a": 1}, log_tail="grüße", error="why", reused=True,
        collected=(0, 2), missing=(1,), copied=3, **times,
    )  # fmt: skip


def test_what_a_report_leaves_out_has_plain_defaults() -> None:
    assert parse_report('{"exit_code": 0}') == Report(exit_code=0, phase="")


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("  \n", None), ("null", None), ("3", 3), ('["a"]', ["a"]), ("{}", {})]
)
def test_an_output_is_any_json_value_or_nothing(text: str, value: Any) -> None:
    assert parse_report(a_report(output=text)).output == value


def test_bad_output_of_a_command_that_succeeded_is_an_error_that_shows_it() -> None:
    with pytest.raises(ResultNotJson, match="found 'rows=3', expected one JSON value") as caught:
        parse_report(a_report(output="rows=3", log_tail="tail"))
    assert (caught.value.report.exit_code, caught.value.report.log_tail) == (0, "tail")


def test_a_result_that_no_database_takes_is_an_error_that_shows_it() -> None:
    r"""JSON may hold half of a pair, as json.dumps writes the name of a file that is not UTF-8."""
    with pytest.raises(ResultNotJson, match=r"surrogates not allowed.*expected one JSON value"):
        parse_report(a_report(output='{"name": "\\udce9"}'))
    assert parse_report(a_report(output='"\\ud83e\\udd95"')).output == "\N{SAUROPOD}"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (r'{"a": ["x\u0000y"]}', "a text in it holds NUL"),
        (r'{"x\u0000y": 1}', "a text in it holds NUL"),
        ("[1e999]", "Out of range float"),
        ("[-1e999]", "Out of range float"),
        ("[" * 101 + "1" + "]" * 101, "nested deeper than 100"),
        ("[" * 50_000 + "]" * 50_000, "recursion depth"),
    ],
    ids=["NUL", "NUL in a name", "infinity", "minus infinity", "deep", "very deep"],
)
def test_a_result_that_airflow_cannot_keep_is_an_error_and_hides_no_failure(output: str, why: str) -> None:
    """PostgreSQL's JSON takes neither; a task whose result cannot be stored would never succeed."""
    with pytest.raises(ResultNotJson, match=why):
        parse_report(a_report(output=output))
    assert parse_report(a_report(exit_code=2, output=output, log_tail="boom")).output is None


def test_a_result_may_be_nested_and_speak_of_nul() -> None:
    deep = "[" * 100 + "]" * 100
    assert json.dumps(parse_report(a_report(output=deep)).output) == deep
    assert parse_report(a_report(output=r'"\\u0000"')).output == r"\u0000"


def test_what_was_printed_may_hold_nul() -> None:
    assert parse_report(a_report(log_tail="a\0b")).log_tail == "a\N{REPLACEMENT CHARACTER}b"


def test_bad_output_of_a_command_that_failed_does_not_hide_the_failure() -> None:
    report = parse_report(a_report(exit_code=2, output="half a resu", log_tail="boom"))
    assert (report.exit_code, report.output, report.log_tail) == (2, None, "boom")


def test_a_log_that_is_no_utf8_is_shown_all_the_same() -> None:
    raw = json.dumps({"exit_code": 1, "log_tail_b64": base64.b64encode(b"a\xffb").decode()})
    assert parse_report(raw).log_tail == "a\ufffdb"


WHOLE = a_report(output='{"a": 1}', log_tail="x" * 50)


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_report_that_is_cut_off_anywhere_is_unreadable_and_never_a_result(length: int) -> None:
    with pytest.raises(ReportUnreadable):
        parse_report(WHOLE[:length])


@pytest.mark.parametrize("raw", ["null", "[]", "3", "{}", '{"exit_code": "x"}', '{"exit_code": null}'])
def test_what_is_no_report_is_unreadable(raw: str) -> None:
    with pytest.raises(ReportUnreadable, match="cannot be read"):
        parse_report(raw)


def a_node(rig: Rig) -> Node:
    return Node(id="n", name="name", state=NodeState.ENDED, created_at=utc_now(), tags=rig.group.tags(rank=1))


def test_a_lost_node_has_no_exit_code() -> None:
    rig = a_rig(2)
    result = result_of(rig.work(1), a_node(rig), rig.observe(), None)
    assert (result.rank, result.exit_code, result.output) == (1, None, None)
    assert result.events["launch"]
    assert result.events["finish"] == ""


def test_the_wire_form_of_a_result_is_plain_json_with_the_promised_keys() -> None:
    rig = a_rig(2)
    report = Report(exit_code=0, phase="done", output={"rows": 1})
    raw = result_of(rig.work(1), a_node(rig), rig.observe(), report).to_dict()
    assert json.loads(json.dumps(raw)) == raw
    assert set(raw) == {
        "rank", "exit_code", "output", "log_tail", "volumes", "node_id", "attempt", "started_at", "finished_at",
        "reused", "events",
    }  # fmt: skip
    assert set(raw["events"]) == {"create", "launch", "attach", "run", "finish"}
    assert raw["volumes"][0]["id"] == rig.slots[1].volumes[0].id


def test_a_result_whose_volume_is_gone_has_no_creation_time() -> None:
    rig = a_rig(2)
    work = rig.work(1)
    del rig.backend._world.disks[work.volume_ids[0]]
    assert result_of(work, a_node(rig), rig.observe(), None).events["create"] == ""

"""What is read from a serial console: the report that the node sent, or nothing."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_rankvol.backends._console import log_of, report_of
from tests.unit.aws.shell import Shell

#: GetConsoleOutput's window: "the most recent 64 KB".
WINDOW = 64 * 1024
KERNEL = "[   17.123456] audit: type=1400 audit(1700000000.123:42): apparmor=STATUS\n"
BOOT = "[    0.000000] Linux version 6.1\nWelcome to Amazon Linux 2023!\n\x1b[0;32m  OK  \x1b[0m Started\n"
OFF = "\x1b[0m[\x1b[0;32m  OK  \x1b[0m] Stopped target Basic System.\n[   99.0] reboot: Power down\n"


def report(size: int, exit_code: int = 0) -> str:
    """Return a report with so many bytes that do not compress."""
    noise = random.Random(size).randbytes(size).hex()
    return json.dumps({"version": 1, "exit_code": exit_code, "output_b64": noise}, separators=(",", ":"))


@functools.cache
def sent(text: str) -> str:
    """Return what a node writes to its console for a report: run once by its own shell functions."""
    with tempfile.TemporaryDirectory() as home:
        shell = Shell(Path(home))
        shell.run(f"rv_report {text!r}")
        return shell.console.read_text()


SIZES = st.sampled_from([0, 300, 2000, 6000])
# Whole lines of others: of any kind, and such as look like ours.
LINES = st.one_of(
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=80).map(lambda t: t + "\n"),
    st.sampled_from([
        KERNEL, OFF, "\n", "RANKVOL-REPORT \n", "RANKVOL-REPORT 0123456789abcdef.4 1/1 AAAA\n",
        "RANKVOL-REPORT 0123456789abcdef.900 2/2 AAAA\n", "RANKVOL-REPORT 0123456789abcdef.99999 1/125 AAAA\n",
        "[   12.3] RANKVOL-REPORT 0123456789abcdef.4 1/1 A\n",
    ]),
)  # fmt: skip


def first_copy(text: str) -> list[str]:
    """Return the lines of one copy of a report."""
    lines = sent(text).splitlines(keepends=True)
    return list(dict.fromkeys(lines))


@given(size=SIZES, before=st.lists(LINES), after=st.lists(LINES), data=st.data())
def test_lines_of_others_around_and_between_never_hide_a_report(
    size: int, before: list[str], after: list[str], data: st.DataObject
) -> None:
    text = report(size)
    between = [[line, *data.draw(st.lists(LINES, max_size=2))] for line in first_copy(text)]
    console = "".join([*before, *(line for lines in between for line in lines), *after])
    assert report_of(console) == text
    assert report_of(console.replace("\n", "\r\n")) == text


@given(size=SIZES, data=st.data())
def test_messages_of_the_kernel_through_a_line_never_hide_a_report(size: int, data: st.DataObject) -> None:
    text = report(size)
    lines = first_copy(text)
    for index, line in enumerate(lines):
        body = line.index("/") + line[line.index("/") :].index(" ") + 1
        at = data.draw(st.integers(body, len(line) - 1))
        lines[index] = line[:at] + KERNEL * data.draw(st.integers(0, 2)) + line[at:]
    assert report_of("".join(lines)) == text


@given(size=SIZES, data=st.data())
def test_a_damaged_line_is_taken_from_the_next_copy(size: int, data: st.DataObject) -> None:
    text = report(size)
    lines = sent(text).splitlines(keepends=True)
    half = len(lines) // 2
    index = data.draw(st.integers(0, half - 1))
    at = data.draw(st.integers(0, len(lines[index]) - 1))
    damage = data.draw(st.sampled_from(["", "AAAA", "\n", "audit: x\n", "/", "�"]))
    lines[index] = lines[index][:at] + damage + lines[index][at + 1 :]
    assert report_of("".join(lines)) == text


@given(size=SIZES, data=st.data())
def test_no_damage_at_all_gives_another_report(size: int, data: st.DataObject) -> None:
    text = report(size)
    console = BOOT + sent(text) + OFF
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, len(console)))
        gone = data.draw(st.integers(0, 900))
        console = (
            console[:at]
            + data.draw(st.one_of(LINES, st.text("AZaz09+/=RANKVOL- \n[", max_size=30)))
            + console[at + gone :]
        )
    assert report_of(console) in (text, None)


@given(size=SIZES, data=st.data())
def test_a_cut_anywhere_gives_the_report_or_nothing(size: int, data: st.DataObject) -> None:
    text = report(size)
    console = BOOT + sent(text) + OFF
    start = data.draw(st.integers(0, len(console)))
    end = data.draw(st.integers(start, len(console)))
    assert report_of(console[start:end]) in (text, None)


@given(first=SIZES, second=SIZES)
def test_the_last_complete_report_wins(first: int, second: int) -> None:
    old, new = report(first), report(second, exit_code=1)
    console = sent(old) + BOOT + sent(new)
    assert report_of(console) == new
    cut = console.rindex("RANKVOL-REPORT") + 50
    assert report_of(sent(old) + "".join(first_copy(new))[:-20]) == old, "the new one is not complete"
    assert report_of(console[:cut]) == new, "an earlier copy of it is"


def test_the_largest_report_is_whole_in_the_window_of_the_console_twice_and_once_after_a_noisy_shutdown() -> None:
    text = report((22_000 + 5_500 + 1_000) // 2)  # random hex stands for base64 of a full result and a full log
    lines = sent(text).replace("\n", "\r\n")
    assert len(lines) < WINDOW, "both copies are there at once"
    console = ("x" * 500 + "\n") * 200 + lines
    assert report_of(console[-WINDOW:]) == text
    assert report_of((console + OFF * 250)[-WINDOW:]) == text
    assert report_of((console + OFF * 900)[-WINDOW:]) is None


@pytest.mark.parametrize(
    "console",
    [
        "",
        BOOT,
        "RANKVOL-REPORT",
        "RANKVOL-REPORT 0123456789abcdef.4 1/1 AAAA",
        # As long as a reader could be made to wait for, and with a right check sum of what is no report.
        "RANKVOL-REPORT 0123456789abcdef.999999 1/1250 AAAA",
        "RANKVOL-REPORT 63c1dd951ffedf6f.4 1/1 AAAA",
        "RANKVOL-REPORT 0123456789abcdef.4 2/1 AAAA",
        "RANKVOL-REPORT 0123456789abcdef.4 1/1 [no end",
    ],
)
def test_a_console_without_a_report_has_none(console: str) -> None:
    assert report_of(console) is None


def test_many_readings_of_a_report_end_soon() -> None:
    lines = [f"RANKVOL-REPORT 0123456789abcdef.16000 {i}/20 {c * 800}\n" for c in "abcdefgh" for i in range(1, 21)]
    assert report_of("".join(lines)) is None


def test_a_line_that_would_unpack_to_more_than_any_node_sends_is_no_report() -> None:
    packed = base64.b64encode(gzip.compress(b" " * 50_000_000)).decode()
    digest = hashlib.sha256(packed.encode()).hexdigest()[:16]
    chunks = [packed[at : at + 800] for at in range(0, len(packed), 800)]
    lines = [f"RANKVOL-REPORT {digest}.{len(packed)} {i}/{len(chunks)} {chunk}" for i, chunk in enumerate(chunks, 1)]
    assert report_of("\n".join(lines)) is None


def test_prefixes_of_a_journal_do_not_matter() -> None:
    text = report(2000)
    assert report_of("".join(f"[   31.4] cloud-init[812]: {line}" for line in first_copy(text))) == text


def test_the_log_has_what_the_node_printed_and_neither_reports_nor_control_characters() -> None:
    console = BOOT + "hello \x1b[1mworld\x1b[0m\r\n" + sent(report(2000)) + "RANKVOL-READY\r\nbye\x07\r\n"
    shown = log_of(console)
    assert shown.splitlines()[-2:] == ["hello world", "bye"]
    assert "RANKVOL" not in shown
    assert "\x1b" not in shown

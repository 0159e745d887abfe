"""What a node prints can be followed while it runs where the backend can do that, and is whole at its end."""

from __future__ import annotations

from airflow_rankvol.backends._local_log import READ_MAX
from airflow_rankvol.records import Node
from tests.contract.support import Lab, until


def read(lab: Lab, node: Node, position: int = 0) -> tuple[list[str], int]:
    """Read a log to where it ends now."""
    lines: list[str] = []
    while True:
        part = lab.backend.read_log(node.id, position)
        lines += part.lines
        position = part.next
        if not part.more:
            return lines, position


def test_new_lines_come_while_the_node_runs_and_each_of_them_once(real: Lab) -> None:
    node = real.node(real.volume(), commands="echo one; sleep 1.5; echo two; sleep 1.5; printf three")
    if real.backend.log_interval_s is None:  # all of it comes at the end
        report = real.report(node)
        words = [line.split(" ")[-1] for line in read(real, node)[0]]  # the system says on each line who printed it
        assert [word for word in words if word in ("one", "two")] == ["one", "two"]
        # What is no whole line may not get to a console before the power is off; the report has it.
        assert report.text("log_tail").splitlines()[-3:] == ["one", "two", "three"]
        return
    seen: list[str] = []
    position = 0

    def shown(line: str) -> bool:
        nonlocal position
        more, position = read(real, node, position)
        seen.extend(more)
        return line in seen

    until(lambda: shown("one"), "its first line never came")
    until(lambda: shown("two"), "its second line never came")
    real.report(node)
    shown("three")
    assert [line for line in seen if line in ("one", "two")] == ["one", "two"]


def test_a_node_that_never_was_has_printed_nothing(lab: Lab) -> None:
    name = {"gcp": "us-central1-a/nobody", "aws": "i-00000000000000000"}.get(lab.backend.name, "node-absent")
    part = lab.backend.read_log(name, 0)
    assert (part.lines, part.more) == ((), False)


def test_on_this_machine_a_long_log_is_read_in_parts_and_to_its_last_character(on_this_machine: Lab) -> None:
    lab = on_this_machine
    node = lab.node(
        lab.volume(), commands="seq 30000; head -c 100000 /dev/zero | tr '\\0' x; printf '\\ngrün \\377 end'"
    )
    lab.report(node)
    lines, end = read(lab, node)
    lines = lines[lines.index("1") :]  # before that, its volume is formatted
    assert lines[:30000] == [str(n) for n in range(1, 30001)]
    assert "".join(lines[30000:-1]) == "x" * 100_000
    assert lines[-1] == "grün � end"
    assert end > 2 * READ_MAX
    assert read(lab, node, end) == ([], end)

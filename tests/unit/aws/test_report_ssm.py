"""The part of a node's script that lets Run Command run the job, with a stand-in for the aws command and the agent."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol.backends._console import report_of
from airflow_rankvol.engine.bootstrap import render
from airflow_rankvol.spec.templates import ReportChannel
from tests.unit.aws.imds import serving
from tests.unit.aws.shell import SPEC, Shell

BY_SSM = replace(SPEC, report=ReportChannel.SSM, report_output="s3://bucket/of/runs", report_log_group="/jobs")
NAME = "rankvol-0a1b2c3d-r0-a1"
# send-command starts the command TIMES times, as SSM's agent does; list-command-invocations tells what became of it.
_AWS = r"""
printf '%s\n' "aws $*" >>"$CALLS"
case $2 in
  send-command)
    if [ "$(grep -c send-command "$CALLS")" -le "${REFUSED:-0}" ]; then
      echo "${WHY-InvalidInstanceId: no}" >&2
      exit 254
    fi
    while [ "$1" != --parameters ]; do shift; done
    command=${2#*[\"} command=${command%%\"*}
    [ "${TIMES:-1}" -gt 0 ] && for n in $(seq "${TIMES:-1}"); do
      (setsid sh -c "$command" >"$AGENT/out$n" 2>"$AGENT/err$n" </dev/null; echo $? >"$AGENT/code$n") >/dev/null 2>&1 &
    done
    echo 11111111-2222 ;;
  list-command-invocations)
    [ "$(ls "$AGENT" | grep -c code)" = "${TIMES:-1}" ] && echo Success || echo InProgress ;;
esac
"""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "agent").mkdir()
    made = Shell(tmp_path)
    made.stubs |= {"aws": _AWS, "sleep": '[ "$1" != 10 ] || exec /bin/sleep 10\nexec /bin/sleep 0.02\n'}
    facts = {
        "placement/region": "eu-west-3",
        "instance-id": "i-0123",
        "tags/instance/Name": NAME,
        "local-ipv4": "10.0.0.1",
    }
    with serving(facts) as imds:
        made.variables |= {"RV_IMDS": imds.url, "RV_IMDS_WAIT": "5", "AGENT": str(tmp_path / "agent")}
        yield made


def sent(shell: Shell) -> list[str]:
    return [call for call in shell.calls if "send-command" in call]


def agent(shell: Shell, name: str) -> str:
    return (shell.home / "agent" / name).read_text()


def report(text: str) -> dict[str, Any]:
    found = report_of(text)
    assert found, text
    raw: dict[str, Any] = json.loads(found)
    return {**raw, "error": base64.b64decode(raw["error_b64"]).decode()}


def test_the_job_runs_in_a_command_that_the_node_sends_to_itself_and_then_the_node_ends(shell: Shell) -> None:
    done = shell.run(spec=replace(BY_SSM, commands=("echo hello; echo 42 >$RANKVOL_RESULT",)))
    assert agent(shell, "out1") == "hello\n"
    assert report(agent(shell, "err1"))["exit_code"] == 0
    assert report(shell.console.read_text())["exit_code"] == 0, "the console has the report, too"
    [call] = sent(shell)
    for part in (
        f"--instance-ids i-0123 --document-name AWS-RunShellScript --comment {NAME} --timeout-seconds 300",
        '"executionTimeout":["90"]',
        f"--output-s3-bucket-name bucket --output-s3-key-prefix of/runs/{NAME}",
        "--cloud-watch-output-config CloudWatchOutputEnabled=true,CloudWatchLogGroupName=/jobs --region eu-west-3",
    ):
        assert part in call
    assert shell.calls[-1] == "shutdown -h now"
    assert done.returncode == -9, "the stand-in for power off ended it"


def test_the_commands_code_is_the_codes_of_the_command(shell: Shell) -> None:
    shell.run(spec=replace(BY_SSM, commands=("echo before", "exit 7")))
    assert agent(shell, "code1") == "7\n"
    found = report(agent(shell, "err1"))
    assert (found["phase"], found["exit_code"]) == ("failed", 7)
    assert base64.b64decode(found["log_tail_b64"]) == b"before\n"


def test_the_code_that_restarts_a_machine_never_gets_to_the_agent(shell: Shell) -> None:
    shell.run(spec=replace(BY_SSM, commands=("exit 194",)))
    assert agent(shell, "code1") == "1\n"
    assert report(agent(shell, "err1"))["exit_code"] == 194


def test_a_command_that_arrives_twice_runs_once(shell: Shell) -> None:
    shell.run(spec=replace(BY_SSM, commands=(f"echo ran >>{shell.home}/ran",)), TIMES="2")
    assert (shell.home / "ran").read_text() == "ran\n"
    both = agent(shell, "err1") + agent(shell, "err2")
    assert "this job has been started before; nothing is done twice" in both
    assert report(both)["exit_code"] == 0


def test_an_agent_that_registers_late_is_waited_for(shell: Shell) -> None:
    shell.run(spec=BY_SSM, REFUSED="9")
    assert len(sent(shell)) == 10
    assert report(agent(shell, "err1"))["exit_code"] == 0


@pytest.mark.parametrize(
    ("variables", "calls", "error"),
    [
        ({"REFUSED": "99", "RV_SSM_WAIT": "0"}, 1, "did not register within 0 s.*AmazonSSMManagedInstanceCore"),
        ({"REFUSED": "99", "WHY": "AccessDeniedException: not you"}, 5, "may.*ssm:SendCommand.*AccessDeniedException"),
        ({"TIMES": "0", "RV_SSM_START": "-30"}, 1, "did not start it within"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_start_is_told_on_the_console_and_ends_the_node(
    shell: Shell, variables: dict[str, str], calls: int, error: str
) -> None:
    shell.run(spec=BY_SSM, **variables)
    found = report(shell.console.read_text())
    assert (found["phase"], found["exit_code"]) == ("setup", 125)
    assert re.search(error, found["error"], re.IGNORECASE)
    assert len(sent(shell)) == calls
    assert shell.calls[-1] == "shutdown -h now"


def test_a_command_that_comes_after_it_was_given_up_finds_the_job_taken(shell: Shell) -> None:
    shell.run(spec=replace(BY_SSM, commands=(f"echo ran >>{shell.home}/ran",)), TIMES="0", RV_SSM_START="-30")
    script = shell.home / "turn/script"
    late = shell.run(f"RV_TURN={shell.home}/turn exec bash {script}")
    assert "nothing is done twice" in late.stdout + late.stderr
    assert not (shell.home / "ran").exists()


def test_a_command_that_is_cancelled_is_told_on_the_console(shell: Shell) -> None:
    shell.run(spec=replace(BY_SSM, commands=("kill -KILL $PPID",)))
    assert "somebody cancelled it in Run Command" in report(shell.console.read_text())["error"]


def test_the_lifetime_is_armed_once_before_the_job_is_sent(shell: Shell) -> None:
    (shell.home / "systemd").mkdir()
    shell.run(spec=BY_SSM)
    kinds = [call.split()[0] for call in shell.calls]
    assert (kinds[0], kinds[1], kinds.count("systemd-run")) == ("systemd-run", "aws", 1)


def test_a_job_that_reports_on_its_console_has_none_of_this() -> None:
    assert "rv_ssm" not in render(SPEC, "ec2")
    assert "rv_ssm" not in render(BY_SSM, "local")

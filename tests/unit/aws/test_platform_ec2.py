"""The platform functions of an EC2 node, run by a real bash against stand-ins for what ends a machine."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol.backends._console import report_of
from airflow_rankvol.engine.bootstrap import render
from tests.unit.aws.imds import serving
from tests.unit.aws.shell import SPEC, Shell

_AWS = """
printf '%s\\n' "aws $*" >>"$CALLS"
[ "$(grep -c ^aws "$CALLS")" -gt "${FAILING:-0}" ] || { echo 'AccessDenied: not yet' >&2; exit 254; }
printf '%s\\n' "${VALUE-s3cr=t}"
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def said(shell: Shell, commands: str, **more: Any) -> str:
    """Return what a function printed, past the limit for the console."""
    return shell.run(f"{{ {commands}; }} >&$RV_STDOUT 2>/dev/null", **more).stdout


@pytest.mark.skipif(
    subprocess.run(["bash", "-c", "command -v shellcheck"], capture_output=True, check=False).returncode != 0,
    reason="shellcheck is not installed",
)
def test_shellcheck_finds_no_error() -> None:
    command = ["shellcheck", "-s", "bash", "-S", "error", "-"]
    subprocess.run(command, input=render(SPEC, "ec2").encode(), check=True)


def test_a_volume_is_found_by_its_id_without_the_dash(shell: Shell) -> None:
    assert said(shell, "rv_device vol-0123abc") == "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123abc"


def test_a_node_that_is_started_again_shuts_down_and_no_other_of_its_image(shell: Shell) -> None:
    """cloud-init runs user data with the first boot only, and the timer is gone by then."""
    init, per_boot = shell.home / "cloud", shell.home / "cloud/scripts/per-boot"
    for place in (per_boot, init / "instances/i-1", init / "instances/i-2"):
        place.mkdir(parents=True)
    (init / "instance").symlink_to(init / "instances/i-1")
    said(shell, "true", RV_INIT=str(init))
    (script,) = per_boot.iterdir()
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines() == ["#!/bin/sh", "shutdown -h now"]
    (init / "instance").unlink()
    (init / "instance").symlink_to(init / "instances/i-2")  # as cloud-init does on another instance
    assert not script.exists()


def test_without_cloud_init_nothing_is_left_for_a_second_boot(shell: Shell) -> None:
    said(shell, "true", RV_INIT=str(shell.home / "nowhere"))
    assert not (shell.home / "nowhere").exists()


class TestMetadata:
    @pytest.mark.parametrize("broken", [0, 3])
    def test_the_address_comes_from_the_service_with_a_token_even_when_it_is_slow(
        self, shell: Shell, broken: int
    ) -> None:
        with serving({"local-ipv4": "10.1.2.3"}, broken=broken) as imds:
            assert said(shell, "rv_ip", RV_IMDS=imds.url, RV_IMDS_WAIT="30") == "10.1.2.3"

    def test_without_the_service_the_address_is_the_hosts_first(self, shell: Shell) -> None:
        assert said(shell, "rv_ip") == "10.9.8.7"

    def test_a_proxy_of_the_image_is_not_asked(self, shell: Shell) -> None:
        with serving({"local-ipv4": "10.1.2.3"}) as imds:
            assert said(shell, "rv_ip", RV_IMDS=imds.url, http_proxy="http://127.0.0.1:9") == "10.1.2.3"


class TestSecrets:
    @pytest.mark.parametrize(
        ("secret", "arguments"),
        [
            ("secretsmanager:db/key", "secretsmanager get-secret-value --secret-id db/key --query [SecretString][?@]"),
            ("ssm:/db/key", "ssm get-parameter --with-decryption --name /db/key --query Parameter.Value"),
            ("ssm:key", "ssm get-parameter --with-decryption --name key --query Parameter.Value"),
            ("/db/key", "ssm get-parameter --with-decryption --name /db/key --query Parameter.Value"),
        ],
    )
    def test_an_id_says_where_the_secret_is(self, shell: Shell, secret: str, arguments: str) -> None:
        shell.stubs["aws"] = _AWS
        with serving({"placement/region": "eu-central-1"}) as imds:
            assert said(shell, f"rv_secret {secret}", RV_IMDS=imds.url) == "s3cr=t"
        assert shell.calls == [f"aws {arguments} --region eu-central-1 --output text"]

    @pytest.mark.parametrize(
        ("arn", "arguments"),
        [
            ("arn:aws:secretsmanager:us-west-2:1:secret:a-x", "secretsmanager get-secret-value --secret-id {arn} "),
            ("arn:aws-cn:ssm:cn-north-1:1:parameter/a", "ssm get-parameter --with-decryption --name {arn} "),
        ],
    )
    def test_an_arn_says_the_region_too(self, shell: Shell, arn: str, arguments: str) -> None:
        shell.stubs["aws"] = _AWS
        assert said(shell, f"rv_secret {arn}") == "s3cr=t"
        assert shell.calls[0].startswith("aws " + arguments.format(arn=arn))
        assert f"--region {arn.split(':')[3]} " in shell.calls[0]

    def test_rights_that_take_a_moment_are_waited_for_but_not_for_ever(self, shell: Shell) -> None:
        shell.stubs["aws"] = _AWS
        asked = "rv_secret arn:aws:ssm:x:1:parameter/a || echo refused"
        assert said(shell, asked, FAILING="3") == "s3cr=t"
        assert len(shell.calls) == 4
        (shell.home / "calls").unlink()
        assert said(shell, asked, FAILING="99") == "refused\n"
        assert len(shell.calls) == 4

    def test_an_empty_value_is_none(self, shell: Shell) -> None:
        shell.stubs["aws"] = _AWS
        assert said(shell, "rv_secret arn:aws:ssm:x:1:parameter/a || echo refused", VALUE="") == "refused\n"

    @pytest.mark.parametrize("secret", ["key", "https://x", "arn:aws:s3:x:1:a", ""])
    def test_another_id_is_refused_without_a_call(self, shell: Shell, secret: str) -> None:
        shell.stubs["aws"] = _AWS
        with serving({"placement/region": "x"}) as imds:
            shown = said(shell, f"rv_secret '{secret}' 2>&1 || echo refused", RV_IMDS=imds.url)
        assert shown == "expected an ARN, secretsmanager:NAME, ssm:NAME or /NAME\nrefused\n"
        assert shell.calls == []

    def test_the_report_says_which_secret_and_why(self, shell: Shell) -> None:
        shell.stubs["aws"] = _AWS
        shell.run(spec=replace(SPEC, secret_env={"TOKEN": "arn:aws:ssm:x:1:parameter/a"}), FAILING="99")
        report = report_json(shell)
        error = base64.b64decode(str(report["error_b64"])).decode()
        assert (report["phase"], report["exit_code"]) == ("setup", 125)
        assert "secret for the variable TOKEN could not be read from arn:aws:ssm:x:1:parameter/a" in error
        assert error.endswith("may read it. AccessDenied: not yet")


class TestLifetime:
    def test_systemd_keeps_it_where_it_runs(self, shell: Shell) -> None:
        (shell.home / "systemd").mkdir()
        shell.run("rv_arm_lifetime")
        assert shell.calls == [
            "systemd-run --quiet --collect --on-active=90 --timer-property=AccuracySec=1s systemctl --force poweroff"
        ]

    def test_shutdown_keeps_it_in_minutes_where_systemd_cannot(self, shell: Shell) -> None:
        (shell.home / "systemd").mkdir()
        shell.stubs |= {"systemd-run": "exit 1\n", "shutdown": 'echo "shutdown $*" >>"$CALLS"\n'}
        assert shell.run("rv_arm_lifetime").returncode == 0
        assert shell.calls == ["shutdown -h +2"]

    def test_elsewhere_a_process_keeps_it_that_outlives_the_script(self, shell: Shell) -> None:
        dead = shell.home / "dead"
        shell.stubs["sleep"] = f'echo "sleep $*" >>"$CALLS"\nuntil [ -e {dead} ]; do /bin/sleep 0.01; done\n'
        armed = 'until grep -q sleep "$CALLS"; do /bin/sleep 0.01; done 2>/dev/null'
        done = shell.run(f"rv_arm_lifetime && {armed}; kill -KILL -- -$$")
        assert done.returncode == -9
        assert "shutdown -h now" not in shell.calls
        dead.touch()
        until = time.monotonic() + 10
        while "shutdown -h now" not in shell.calls and time.monotonic() < until:
            time.sleep(0.01)
        assert shell.calls == ["sleep 90", "shutdown -h now"]


class TestReport:
    def test_each_line_is_short_enough_for_one_write(self, shell: Shell) -> None:
        shell.run(f"rv_report {json.dumps({'noise': 'é' * 3000})!r}; rv_ready")
        lines = shell.console.read_text().splitlines()
        assert max(map(len, lines)) < 1000
        assert "RANKVOL-READY" in lines

    def test_a_console_that_others_write_to_at_the_same_time_still_has_it(self, shell: Shell) -> None:
        text = json.dumps({"noise": base64.b64encode(bytes(range(256)) * 20).decode()})
        noise = "while :; do printf 'noise %s\\n' $RANDOM; done >>\"$RV_CONSOLE\" & noise=$!\n"
        shell.run(noise + f"rv_report {text!r}; kill $noise")
        assert shell.console.read_text().count("noise") > 10
        assert report_of(shell.console.read_text()) == text

    def test_without_a_console_it_goes_to_the_output_and_makes_no_file(self, shell: Shell) -> None:
        missing = shell.home / "none"
        done = shell.run("rv_report '{}'", RV_CONSOLE=str(missing))
        assert report_of(done.stdout) == "{}"
        assert not missing.exists()

    @pytest.mark.parametrize("console", ["/dev/full", "/"])
    def test_with_a_console_that_cannot_be_written_it_goes_to_the_output(self, shell: Shell, console: str) -> None:
        done = shell.run("rv_report '{}'", RV_CONSOLE=console)
        assert report_of(done.stdout) == "{}"
        assert done.stderr == ""


class TestOutput:
    def test_the_console_shows_how_the_output_begins_and_nobody_waits_for_it(self, shell: Shell) -> None:
        done = shell.run("yes | head -c 5000000; rv_console bye", RV_SHOWN="100")
        assert done.returncode == 0
        assert done.stdout.startswith("y\n" * 50)
        assert "the console shows no more" in done.stdout
        assert len(done.stdout) < 300

    def test_a_short_output_is_shown_whole(self, shell: Shell) -> None:
        done = shell.run("echo out; echo err >&2")
        assert sorted(done.stdout.split()) == ["err", "out"]

    def test_an_output_that_nobody_reads_any_more_ends_nothing(self, shell: Shell) -> None:
        body = "for i in {1..2000}; do rv_say $i; done; RV_CONSOLE=/none rv_console x; rv_report '{}'\n"
        with subprocess.Popen(
            ["bash", shell.write(body)], env=shell.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as running:
            assert running.stdout
            running.stdout.close()
            assert running.wait(timeout=30) == 0
        assert report_of(shell.console.read_text()) == "{}"

    def test_commands_whose_output_nobody_reads_any_more_go_on(self, shell: Shell) -> None:
        script = shell.write(spec=replace(SPEC, commands=("for i in {1..20000}; do echo $i; done",)))
        with subprocess.Popen(
            ["bash", script], env=shell.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as running:
            assert running.stdout
            running.stdout.close()
            running.wait(timeout=30)
        report = report_json(shell)
        assert report["exit_code"] == 0
        assert base64.b64decode(str(report["log_tail_b64"])).endswith(b"\n20000\n")


def report_json(shell: Shell) -> dict[str, object]:
    """Return the report on the console."""
    text = report_of(shell.console.read_text())
    assert text, shell.console.read_text()
    found: dict[str, object] = json.loads(text)
    return found


class TestWholeScript:
    def test_it_arms_the_lifetime_runs_reports_and_powers_off(self, shell: Shell) -> None:
        (shell.home / "systemd").mkdir()
        spec = replace(SPEC, commands=('echo "$HOME $NODE_IP"; echo 42 >"$RANKVOL_RESULT"',))
        with serving({"local-ipv4": "10.1.2.3"}) as imds:
            done = shell.run(spec=spec, RV_IMDS=imds.url)
        report = report_json(shell)
        assert (report["phase"], report["exit_code"], report["role"]) == ("done", 0, "gather")
        assert base64.b64decode(str(report["output_b64"])) == b"42\n"
        assert base64.b64decode(str(report["log_tail_b64"])).decode().endswith(" 10.1.2.3\n")
        assert [call.split()[0] for call in shell.calls] == ["systemd-run", "shutdown"]
        assert done.returncode == -9, "the stand-in for power off ended it"

    def test_it_runs_with_closed_input_and_an_empty_environment(self, shell: Shell) -> None:
        script = shell.write(spec=replace(SPEC, commands=("echo $HOME; cat",)))
        given = {name: value for name, value in shell.environment().items() if name != "HOME"}
        command = ["bash", "-c", f"exec <&-; exec bash {script}"]
        subprocess.run(command, env=given, capture_output=True, timeout=60, check=False)
        report = report_json(shell)
        assert report["exit_code"] == 0
        assert base64.b64decode(str(report["log_tail_b64"])) == b"/root\n"

    def test_a_shutdown_from_outside_leaves_no_report_that_blames_the_commands(self, shell: Shell) -> None:
        waiting = shell.home / "waiting"
        body = f"echo $$ >{waiting}.new; mv {waiting}.new {waiting}; exec /bin/sleep 30"
        script = shell.write(spec=replace(SPEC, commands=(body,)))
        with subprocess.Popen(["bash", script], env=shell.environment(), stdout=subprocess.DEVNULL) as running:
            until = time.monotonic() + 20
            while not waiting.exists() and time.monotonic() < until:
                time.sleep(0.01)
            running.terminate()
            assert running.wait(timeout=20) == 143
        os.kill(int(waiting.read_text()), signal.SIGKILL)  # the machine that would have ended it goes on
        assert report_of(shell.console.read_text()) is None

    def test_a_failing_command_is_reported_with_its_code_and_log(self, shell: Shell) -> None:
        shell.run(spec=replace(SPEC, commands=("echo before", "exit 7")))
        report = report_json(shell)
        assert (report["phase"], report["exit_code"]) == ("failed", 7)
        assert base64.b64decode(str(report["log_tail_b64"])) == b"before\n"

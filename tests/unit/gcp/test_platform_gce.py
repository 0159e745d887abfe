"""The platform functions of a node on Compute Engine, run by a real bash against stand-ins."""

from __future__ import annotations

import base64
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol.backends._console import report_of
from airflow_rankvol.engine.bootstrap import render
from tests.unit.aws.shell import SPEC, Shell

# Answers what the metadata server and Secret Manager would, and records how it was called.
_CURL = r"""
printf '%s\n' "curl $*" >>"$CALLS"
url=${*: -1}
case $url in
  */project/project-id) printf my-project ;;
  */service-accounts/default/token) [ -n "${TOKEN-x}" ] && printf '{"access_token": "%s", "expires_in": 9}' ya29.hush ;;
  */guest-attributes/*) cat >>"$PUT"; exit "${DEAF:-0}" ;;
  *:access)
    for word; do case $word in @*) cat "${word#@}" >>"$HEADERS" ;; esac; done
    [ "$(grep -c :access "$CALLS")" -gt "${FAILING:-0}" ] || { printf '{"error": {"message": "not yet"}}\n403'; exit; }
    printf '{"name": "x", "payload": {"data": "%s"}}\n200' "$(printf %s "${VALUE-s3cr=t}" | base64 -w0)" ;;
  *) exit 22 ;;
esac
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    places = {"PUT": str(tmp_path / "put"), "HEADERS": str(tmp_path / "headers")}
    return Shell(tmp_path, stubs={"curl": _CURL}, variables=places, platform="gce")


def said(shell: Shell, commands: str, **more: Any) -> str:
    """Return what a function printed, past the serial port."""
    return shell.run(f"{{ {commands}; }} >&$RV_STDOUT 2>/dev/null", **more).stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_no_error() -> None:
    script = render(replace(SPEC, destination="gs://bucket/x", collect=("**",)), "gce")
    subprocess.run(["shellcheck", "-s", "bash", "-S", "error", "-"], input=script.encode(), check=True)


def test_a_script_with_a_destination_is_valid_bash_and_small() -> None:
    script = render(replace(SPEC, destination="gs://bucket/it's", collect=("**",)), "gce")
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)
    assert len(script) < 32 * 1024
    assert "rv_upload" not in render(SPEC, "gce")


def test_a_disk_is_found_by_its_name(shell: Shell) -> None:
    assert said(shell, "rv_device us-central1-a/data-0") == "/dev/disk/by-id/google-data-0"


def test_without_a_metadata_server_the_address_is_the_hosts_first(shell: Shell) -> None:
    assert said(shell, "rv_ip") == "10.9.8.7"


class TestSecrets:
    @pytest.mark.parametrize(
        ("secret", "url"),
        [
            ("secretmanager:db", "secretmanager.googleapis.com/v1/projects/my-project/secrets/db/versions/latest"),
            (
                "secretmanager:db/versions/3",
                "secretmanager.googleapis.com/v1/projects/my-project/secrets/db/versions/3",
            ),
            ("projects/p/secrets/s/versions/7", "secretmanager.googleapis.com/v1/projects/p/secrets/s/versions/7"),
            ("projects/p/secrets/s", "secretmanager.googleapis.com/v1/projects/p/secrets/s/versions/latest"),
            (
                "projects/p/locations/europe-west3/secrets/s/versions/7",
                "secretmanager.europe-west3.rep.googleapis.com/v1/projects/p/locations/europe-west3/secrets/s/versions/7",
            ),
        ],
    )
    def test_an_id_says_where_the_secret_is(self, shell: Shell, secret: str, url: str) -> None:
        assert said(shell, f"rv_secret {secret}") == "s3cr=t"
        assert shell.calls[-1].endswith(f"{url}:access")

    def test_no_token_and_no_secret_is_on_a_command_line_or_on_the_console(self, shell: Shell) -> None:
        spec = replace(SPEC, secret_env={"PASSWORD": "secretmanager:db"}, commands=("[ $PASSWORD = s3cr=t ]; env",))
        shell.run(spec=replace(spec, commands=("[ $PASSWORD = s3cr=t ]",)))
        assert (shell.home / "headers").read_text() == "Authorization: Bearer ya29.hush\n"
        seen = "\n".join(shell.calls) + shell.console.read_text()
        assert "hush" not in seen and "s3cr" not in seen and base64.b64encode(b"s3cr=t").decode() not in seen
        assert '"phase":"done"' in str(report_of(shell.console.read_text()))

    def test_rights_that_take_a_moment_are_waited_for_but_not_for_ever(self, shell: Shell) -> None:
        assert said(shell, "rv_secret secretmanager:db", FAILING="3") == "s3cr=t"
        (shell.home / "calls").unlink()
        shown = said(shell, "rv_secret secretmanager:db 2>&1 || echo refused", FAILING="99")
        assert shown == "HTTP 403: not yet\n" * 4 + "refused\n"

    @pytest.mark.parametrize("secret", ["db", "https://x", "projects/p/secrets", "secretmanager:a/b", "ssm:/x", ""])
    def test_another_id_is_refused_without_a_call(self, shell: Shell, secret: str) -> None:
        shown = said(shell, f"rv_secret '{secret}' 2>&1 || echo refused")
        assert shown == "expected projects/PROJECT/secrets/NAME/versions/VERSION, or secretmanager:NAME\nrefused\n"
        assert shell.calls == []

    def test_a_node_without_a_service_account_says_so(self, shell: Shell) -> None:
        assert "this node has no service account" in said(shell, "rv_secret secretmanager:db 2>&1", TOKEN="")


class TestReport:
    def test_it_is_one_guest_attribute_and_on_the_serial_port(self, shell: Shell) -> None:
        shell.run('rv_report "{}"')
        assert report_of(shell.console.read_text()) == "{}"
        assert report_of((shell.home / "put").read_text()) == "{}"
        assert [call.split()[-1] for call in shell.calls if "PUT" in call] == [
            "http://127.0.0.1:9/computeMetadata/v1/instance/guest-attributes/rankvol/report-0"
        ]

    def test_attributes_that_are_not_taken_are_tried_again_and_given_up(self, shell: Shell) -> None:
        shell.run('rv_report "{}"', DEAF="22", RV_TRIES="3")
        assert sum("guest-attributes" in call for call in shell.calls) == 3
        assert report_of(shell.console.read_text()) == "{}"


class TestOnce:
    def test_the_first_boot_runs_and_the_second_only_repeats_the_report(self, shell: Shell) -> None:
        (shell.home / "systemd").mkdir()  # so that the timer for the lifetime does not end it as well
        spec = replace(SPEC, commands=('echo ran >>"$CALLS"; echo 1 >"$RANKVOL_RESULT"',))
        shell.run(spec=spec)
        first = report_of(shell.console.read_text())
        shell.console.write_text("")
        shell.run(spec=spec)
        assert shell.calls.count("ran") == 1
        assert report_of(shell.console.read_text()) == first
        assert sum(call.startswith("shutdown -h now") for call in shell.calls) == 2

    def test_one_that_was_cut_off_reports_that(self, shell: Shell) -> None:
        shell.run(spec=replace(SPEC, commands=("kill -KILL $PPID",)))
        shell.console.write_text("")
        shell.run(spec=SPEC)
        report = str(report_of(shell.console.read_text()))
        assert '"phase":"setup","exit_code":125' in report

    def test_where_nothing_can_be_written_it_runs(self, shell: Shell) -> None:
        shell.run(spec=replace(SPEC, commands=('echo ran >>"$CALLS"',)), RV_ONCE="/dev/null/x")
        assert "ran" in shell.calls

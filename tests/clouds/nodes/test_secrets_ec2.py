"""Secrets that a node fetches itself, by its instance profile, with the AWS CLI that Amazon Linux has."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_rankvol.engine.bootstrap import BootSpec
from tests.clouds.nodes import packages
from tests.clouds.nodes.ec2_kit import Cloud
from tests.clouds.nodes.host import Link
from tests.clouds.nodes.kit import content


def _answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    if body.get("SecretId") == "db":
        return 200, {"SecretString": 'p\'w "$x"\n2'}
    if body.get("Name") == "/db/user" and body["WithDecryption"]:
        return 200, {"Parameter": {"Value": "me"}}
    return 400, {"__type": "AccessDeniedException", "message": "no right to that"}


@pytest.fixture
def secrets() -> Iterator[int]:
    """A service that knows one secret and one parameter."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = _answer(body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class TestSecrets:
    @pytest.fixture
    def more(self, secrets: int) -> dict[str, Any]:
        if packages.why_no_aws_cli():
            pytest.skip(packages.why_no_aws_cli())
        config = {"/root/.aws/config": "[default]\nendpoint_url = http://169.254.170.1\n"}
        return {"layers": packages.aws_cli(), "links": [Link("169.254.170.1", 80, secrets)], "files": config}

    def test_the_commands_have_their_values_and_nothing_else_does(
        self, cloud: Cloud, disk: Path, rank: BootSpec, more: dict[str, Any]
    ) -> None:
        wanted = {"PASSWORD": "secretsmanager:db", "DB_USER": "ssm:/db/user", "ALSO": "/db/user"}
        commands = ('printf %s "$PASSWORD" | sha256sum >$VOLUME_PATH/sum; echo "$DB_USER $ALSO"',)
        done = cloud.run(replace(rank, secret_env=wanted, commands=commands), disk, **more)
        assert done["log_tail"] == "me me\n"
        expected = subprocess.run(["sha256sum"], input=b'p\'w "$x"\n2', capture_output=True, check=True).stdout
        assert content(disk, "/sum").encode() == expected
        assert "p'w" not in cloud.lab.console(done["node"])

    def test_one_that_may_not_be_read_is_named_with_the_reason(
        self, cloud: Cloud, disk: Path, rank: BootSpec, more: dict[str, Any]
    ) -> None:
        done = cloud.run(replace(rank, secret_env={"TOKEN": "secretsmanager:other"}), disk, **more)
        assert done["exit_code"] == 125
        assert "secret for the variable TOKEN could not be read from secretsmanager:other" in done["error"]
        assert "AccessDeniedException" in done["error"]

"""The AWS CLI in a node, as Amazon Linux has it: credentials and region come from the metadata service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.clouds.nodes import packages
from tests.clouds.nodes.host import Link
from tests.clouds.nodes.kit import Lab

ROLE = "/latest/meta-data/iam/security-credentials/"
METADATA = {
    "/latest/meta-data/placement/availability-zone/": b"eu-west-3b",
    ROLE: b"role",
    f"{ROLE}role": json.dumps(
        {
            "Code": "Success",
            "AccessKeyId": "AKIAEXAMPLE",
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": "2099-01-01T00:00:00Z",
        }
    ).encode(),
}


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def port(asked: list[dict[str, Any]]) -> Iterator[int]:
    class Secrets(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"action": self.headers["X-Amz-Target"], "by": self.headers["Authorization"], **body})
            answer = json.dumps({"Name": body["SecretId"], "SecretString": "the secret"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Secrets) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("env", "region"), [("", "eu-west-3"), ("AWS_REGION=us-west-2", "us-west-2")])
def test_a_secret_is_read_by_the_instance_profile(
    lab: Lab, port: int, asked: list[dict[str, Any]], env: str, region: str
) -> None:
    if packages.why_no_aws_cli():
        pytest.skip(packages.why_no_aws_cli())
    printed = lab.run(
        f"{env} aws secretsmanager get-secret-value --secret-id db --query SecretString --output text",
        metadata=METADATA.get,
        layers=packages.aws_cli(),
        links=[Link("169.254.170.1", 80, port)],
        files={"/root/.aws/config": "[default]\nendpoint_url = http://169.254.170.1\n"},
    )
    assert printed == "the secret"
    assert [(call["action"], call["SecretId"]) for call in asked] == [("secretsmanager.GetSecretValue", "db")]
    assert "AKIAEXAMPLE/" in asked[0]["by"] and f"/{region}/secretsmanager/" in asked[0]["by"]


def test_without_a_profile_the_cli_says_so(lab: Lab) -> None:
    if packages.why_no_aws_cli():
        pytest.skip(packages.why_no_aws_cli())
    assert "Unable to locate credentials" in lab.run("aws --region us-east-1 s3 ls", layers=packages.aws_cli())

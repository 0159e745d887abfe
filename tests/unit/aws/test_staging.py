"""Large files travel by URL, and a node takes only what was meant."""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_rankvol.backends._aws_userdata import user_data
from airflow_rankvol.backends._console import report_of
from airflow_rankvol.engine.bootstrap import render
from airflow_rankvol.engine.staging import INLINE_BYTES, StagedFile, sha256, to_stage
from airflow_rankvol.errors import ConfigError
from tests.unit.aws.shell import SPEC, Shell

CONTENT = os.urandom(200_000)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


class Bucket:
    """Answers every request with the next of these statuses, and with 200 and the content after them."""

    def __init__(self, *statuses: int, content: bytes = CONTENT) -> None:
        self.statuses, self.content, self.asked = list(statuses), content, 0

    def __enter__(self) -> str:
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                bucket.asked += 1
                status = bucket.statuses.pop(0) if bucket.statuses else 200
                self.send_response(status if status != 206 else 200)
                self.send_header("Content-Length", str(len(bucket.content)))
                self.end_headers()
                self.wfile.write(bucket.content[: 1000 if status == 206 else None])

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/bucket/prefix/a?X-Amz-Signature=s3cr%3Dt&x='"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def run(shell: Shell, url: str) -> dict[str, Any]:
    """Run a job with one staged file to its end; return its report."""
    (shell.home / "systemd").mkdir(exist_ok=True)
    (shell.home / "calls").unlink(missing_ok=True)
    files: dict[str, bytes | StagedFile] = {"in/model.bin": StagedFile(url, sha256(CONTENT)), "small": b"inline"}
    commands = ("cat small; sha256sum <in/model.bin",)
    shell.run(spec=replace(SPEC, files=files, commands=commands))
    report: dict[str, Any] = json.loads(report_of(shell.console.read_text()) or "{}")
    return report


@pytest.mark.parametrize("statuses", [(), (503, 500), (206, 403)], ids=["at once", "refused", "cut off and refused"])
def test_a_staged_file_lies_beside_the_others_also_when_it_takes_some_tries(shell: Shell, statuses: list[int]) -> None:
    bucket = Bucket(*statuses)
    with bucket as url:
        report = run(shell, url)
    assert report["exit_code"] == 0
    assert base64.b64decode(report["log_tail_b64"]).decode() == f"inline{sha256(CONTENT)}  -\n"
    assert bucket.asked == len(statuses) + 1


@pytest.mark.parametrize(
    ("bucket", "reason"),
    [
        (Bucket(*[403] * 9), "The requested URL returned error: 403"),
        (Bucket(content=b"other"), f"found SHA-256 {sha256(b'other')}, expected {sha256(CONTENT)}"),
    ],
)
def test_another_content_or_none_fails_the_node_with_the_reason_and_without_the_signature(
    shell: Shell, bucket: Bucket, reason: str
) -> None:
    with bucket as url:
        report = run(shell, url)
    error = base64.b64decode(report["error_b64"]).decode()
    assert (report["phase"], report["exit_code"], bucket.asked) == ("setup", 125, 5)
    assert f"model.bin could not be fetched from {url.partition('?')[0]}: " in error
    assert reason in error
    assert "s3cr" not in error + shell.console.read_text()


@given(sizes=st.lists(st.integers(0, 20_000), max_size=8))
def test_what_is_not_staged_fits_the_user_data_and_nothing_is_staged_without_need(sizes: list[int]) -> None:
    files = {f"f{index}": os.urandom(size) for index, size in enumerate(sizes)}
    staged = to_stage(files)
    inline = {name: content for name, content in files.items() if name not in staged}
    urls = {name: StagedFile(f"https://s3/{name}?{os.urandom(200).hex()}", sha256(files[name])) for name in staged}
    assert user_data(render(replace(SPEC, files={**inline, **urls}), "ec2"))
    used = sum(len(gzip.compress(content, mtime=0)) for content in inline.values())
    assert used <= INLINE_BYTES
    assert all(used + len(gzip.compress(files[name], mtime=0)) > INLINE_BYTES for name in staged)
    assert to_stage(inline) == ()


@pytest.mark.parametrize(
    ("url", "digest"),
    [("ftp://x/y", "0" * 64), ("https://x/a b", "0" * 64), ("https://x/\n", "0" * 64), ("https://x/y", "0" * 63)],
)
def test_what_is_no_url_or_no_sum_is_refused(url: str, digest: str) -> None:
    with pytest.raises(ConfigError):
        StagedFile(url, digest)

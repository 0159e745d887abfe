"""What a gather node copies to a bucket, by engine/upload_gce.sh: whole, in parts, and after parts that were lost."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from airflow_rankvol.engine.bootstrap import render
from airflow_rankvol.records import Role
from tests.clouds.gcp.client import Double
from tests.clouds.nodes.ec2_kit import RANK
from tests.contract.gcp_lab import objects

TOKEN = "ya29.of-the-test"
Upload = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def metadata() -> Iterator[str]:
    """A metadata server that has tokens."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}).encode()
            self.send_response(200 if self.headers["Metadata-Flavor"] == "Google" else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def upload(double: Double, metadata: str, tmp_path: Path) -> Upload:
    """Copy a directory as a gather node does."""
    spec = replace(RANK, role=Role.GATHER, rank=-1, destination="gs://bucket/p", collect=("**",))
    script = render(spec, "gce").removesuffix("rv_main_once\n")
    copying = '{ rv_copy "$1" "$2"; code=$?; } 2>"$3"; exit "$code"'
    (tmp_path / "script").write_text(script + copying)

    def run(folder: Path, destination: str = "gs://bucket/of/run", **more: str) -> subprocess.CompletedProcess[str]:
        places = {name: str(tmp_path / name.lower()) for name in ("RV_HOME", "RV_WORK", "RV_ONCE", "RV_CONSOLE")}
        (tmp_path / "rv_home").mkdir(exist_ok=True)
        (tmp_path / "rv_console").touch()
        done = subprocess.run(
            ["bash", tmp_path / "script", folder, destination, tmp_path / "why"],
            env={
                "PATH": f"{_sleepless(tmp_path)}:{os.environ['PATH']}", "RV_METADATA": metadata,
                "RV_STORAGE": double.url, "RV_UPLOAD_PART": str(256 * 1024), **places, **more,
            },
            capture_output=True, text=True, timeout=60, check=False, start_new_session=True,
        )  # fmt: skip
        done.stderr = (tmp_path / "why").read_text()
        return done

    return run


def _sleepless(folder: Path) -> Path:
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "sleep").write_text("#!/bin/sh\n")
    (tools / "sleep").chmod(0o755)
    return tools


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "large.bin").write_bytes(os.urandom(900_000))
    (folder / "empty").touch()
    (folder / "deep/er/-a[1]{b}* ü%.txt").write_text("named")
    (folder / "link").symlink_to(folder / "deep/er/-a[1]{b}* ü%.txt")
    return folder


def expected(files: Path) -> dict[str, bytes]:
    return {f"of/run/{path.relative_to(files)}": path.read_bytes() for path in files.rglob("*") if path.is_file()}


def test_files_of_any_name_and_size_are_there_afterwards(upload: Upload, double: Double, files: Path) -> None:
    done = upload(files)
    assert (done.returncode, done.stderr) == (0, "")
    assert objects(double, "of/run/") == expected(files)
    assert double.actions(TOKEN) == ["storage:objects.insert"], "with the node's own token"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["error", "lose"])
def test_a_part_that_is_lost_is_sent_again_from_what_has_arrived(
    upload: Upload, double: Double, files: Path, kind: str, when: str
) -> None:
    double.fault(kind, "objects.insert", service="storage", resource="", nth=3, when=when, status=503)
    (files / "empty").unlink()
    (files / "link").unlink()
    assert upload(files, RV_UPLOADS="1").returncode == 0
    assert objects(double, "of/run/") == expected(files)


def test_what_a_bucket_refuses_is_told_and_not_tried_again(upload: Upload, double: Double, files: Path) -> None:
    double("deny", actions=["storage.objects.create"])
    (files / "large.bin").unlink()
    done = upload(files, RV_UPLOADS="1")
    assert done.returncode != 0
    assert "could not be copied to gs://bucket/of/run/" in done.stderr
    assert "HTTP 403: " in done.stderr and "storage.objects.create" in done.stderr
    assert TOKEN not in done.stderr
    assert len(double.calls("objects.insert")) == 1
    assert objects(double, "of/run/") == {}


def test_a_missing_bucket_is_told(upload: Upload, files: Path) -> None:
    assert "HTTP 404: The specified bucket does not exist" in upload(files, "gs://nowhere/x").stderr


def test_no_token_and_no_session_is_on_a_command_line(upload: Upload, files: Path, tmp_path: Path) -> None:
    """Any process of the node could read it there."""
    seen = tmp_path / "seen"
    curl = _sleepless(tmp_path) / "curl"
    curl.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >>{seen}\nexec /usr/bin/env -S PATH=/usr/bin:/bin curl "$@"\n')
    curl.chmod(0o755)
    assert upload(files).returncode == 0
    lines = seen.read_text()
    assert "uploadType=resumable" in lines
    assert TOKEN not in lines and "upload_id" not in lines

"""A stand-in for the instance metadata service, version 2."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_TOKEN = "token-of-the-test"


class Imds(ThreadingHTTPServer):
    """Answers with ``values`` by their path below ``latest/meta-data``, once ``broken`` requests have failed.

    Where a value is a list, every request for it takes the next of its entries; the last one stays. None is absent.
    """

    daemon_threads = True

    def __init__(self, values: Mapping[str, str | list[str | None] | None], broken: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.values = {path: list(value) if isinstance(value, list) else [value] for path, value in values.items()}
        self.broken = broken

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Imds

    def do_PUT(self) -> None:
        if self.server.broken > 0:
            self.server.broken -= 1
            self.send_error(503)
        elif self.path == "/latest/api/token" and int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0:
            self._answer(_TOKEN)
        else:
            self.send_error(400)

    def do_GET(self) -> None:
        known = self.server.values.get(self.path.removeprefix("/latest/meta-data/"), [None])
        value = known.pop(0) if len(known) > 1 else known[0]
        if self.headers["X-aws-ec2-metadata-token"] != _TOKEN:
            self.send_error(401)
        elif value is None:
            self.send_error(404)
        else:
            self._answer(value)

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(values: Mapping[str, str | list[str | None] | None], *, broken: int = 0) -> Iterator[Imds]:
    """Serve for the length of a block."""
    server = Imds(values, broken)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

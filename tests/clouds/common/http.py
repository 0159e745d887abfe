"""A threaded HTTP/1.1 server for WSGI applications, with connections that stay open and no delayed packets.

werkzeug's own closes every connection after an answer, and Nagle's algorithm adds 40 ms to a call.
"""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.clouds.common.faults import Dropped

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave as one packet: the base flushes after each request
    server: Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _serve(self) -> None:
        environ = self._environ(self._body())
        status, headers = "500 Internal Server Error", list[tuple[str, str]]()

        def start_response(line: str, fields: list[tuple[str, str]], exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = line, fields

        try:
            chunks = self.server.app(environ, start_response)
            body = b"".join(chunks)
            if close := getattr(chunks, "close", None):
                close()
        except Dropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._reply(status, headers, body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _serve  # noqa: N815 -- the base's names

    def _reply(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        code, _, reason = status.partition(" ")
        self.send_response_only(int(code), reason)
        self.send_header("Date", self.date_time_string())
        bare = int(code) in (204, 304)
        sized = False
        for name, value in headers:
            if name.lower() in ("connection", "date", "transfer-encoding"):
                continue
            if name.lower() == "content-length":
                # The answer to a HEAD tells the length of what a GET would send.
                sized = True
                self.send_header(name, value if self.command == "HEAD" else str(len(body)))
                continue
            self.send_header(name, value)
        if not sized and not bare:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not (bare or self.command == "HEAD"):
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(iter(self._chunk, b""))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def _environ(self, body: bytes) -> dict[str, Any]:
        path, _, query = self.path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": self.path,
            "REQUEST_URI": self.path,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.server.server_address[1]),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "double.body": body,
        }
        for name in set(self.headers):
            key = name.upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH", "TRANSFER_ENCODING"):
                environ[f"HTTP_{key}"] = ",".join(self.headers.get_all(name) or ())
        return environ

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
        """Keep quiet: the recorder has it all."""


class Server(ThreadingHTTPServer):
    """The server; each connection has a thread of its own, which does not outlive the process."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], app: WsgiApp) -> None:
        super().__init__(address, _Handler)
        self.app = app

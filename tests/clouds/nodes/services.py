"""What this process does for running nodes, in one thread: consoles, metadata services, forwarded ports."""

from __future__ import annotations

import asyncio
import contextlib
import http
import os
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.clouds.nodes.metadata import Handler, Request, Response

T = TypeVar("T")


class Services:
    """A thread with an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="node-services", daemon=True)
        self._thread.start()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """End the thread."""
        self._run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    @staticmethod
    async def _cancel_all() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- consoles

    def record(self, terminal: int, file: Path) -> threading.Event:
        """Append what is written to a terminal to a file; the event is set when its last writer is gone."""
        ended = threading.Event()
        output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.set_blocking(terminal, False)

        def read() -> None:
            try:
                data = os.read(terminal, 65536)
            except BlockingIOError:
                return
            except OSError:  # EIO: nobody has the other side open any more
                data = b""
            if data:
                os.write(output, data)
                return
            self._loop.remove_reader(terminal)
            os.close(terminal)
            os.close(output)
            ended.set()

        self._loop.call_soon_threadsafe(self._loop.add_reader, terminal, read)
        return ended

    # -- connections

    def serve(self, listening: socket.socket, handler: Handler) -> asyncio.Server:
        """Answer HTTP requests; the handler runs in a thread."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
                while await self._answer_one(reader, writer, handler):
                    pass

        return self._run(_start(answer, listening))

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> bool:
        request = await _read_request(reader)
        response = await self._loop.run_in_executor(None, handler, request)
        writer.write(_encoded(response, request.method))
        await writer.drain()
        return request.headers.get("connection", "").lower() != "close"

    def forward(self, listening: socket.socket, host_port: int) -> asyncio.Server:
        """Connect who comes to a port of this machine's 127.0.0.1."""

        async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError), contextlib.closing(writer):
                there, back = await asyncio.open_connection("127.0.0.1", host_port)
                with contextlib.closing(back):
                    await asyncio.gather(_copy(reader, back), _copy(there, writer))

        return self._run(_start(join, listening))

    def stop(self, server: asyncio.Server) -> None:
        """Listen no more."""
        self._loop.call_soon_threadsafe(server.close)


async def _start(act: Any, listening: socket.socket) -> asyncio.Server:
    return await asyncio.start_server(act, sock=listening)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)


def _encoded(response: Response, method: str) -> bytes:
    fields = {"Content-Type": "text/plain", "Content-Length": str(len(response.body)), **response.headers}
    status = http.HTTPStatus(response.status)
    head = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else response.body)

"""Starting, stopping and steering a double from tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).resolve().parents[3]
STOP_S = 30.0


class Process:
    """One process of the double.

    Verbs of the control API that have no method here are called as ``double("verb", field=value)``; control.py lists
    them. What a verb has against its fields is raised as ValueError.
    """

    #: What ``python -m`` starts.
    package: str

    def __init__(self, state_dir: Path, *, nodes: bool = False, options: Sequence[str] = ()) -> None:
        self.state_dir = state_dir
        self._options = [*(["--nodes"] if nodes else []), *options]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> Self:
        """Start the process; its errors go to ``double.log`` in the state directory."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self.package, "--state-dir", str(self.state_dir)]
        log = self.state_dir / "double.log"
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command + self._options,
                cwd=_ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"},
            )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.stop()
            raise RuntimeError(f"the double did not start: {log.read_text()[-2000:]}")
        return self

    @property
    def pid(self) -> int:
        """The process, for whoever wants to look at it."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_up(self) -> bool:
        """Whether it has been started and still runs."""
        return self._process is not None and self._process.poll() is None and bool(self.url)

    def stop(self) -> None:
        """End the process, and wait until it has left nothing.

        Raises:
            AssertionError: The double did something wrong itself, and nobody has asked for its ``bugs`` since.
        """
        if self._process is None:
            return
        try:
            bugs = self.bugs() if self.is_up else []
        finally:
            self._end(self._process)
        assert not bugs, "the double has bugs:\n" + "\n".join(bugs)

    def _end(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"the double did not end within {STOP_S} s of SIGTERM") from None
        finally:
            if process.stdout:
                process.stdout.close()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def __call__(self, verb: str, **fields: Any) -> Any:
        """Do a verb of the control API."""
        request = urllib.request.Request(
            f"{self.url}/_double/{verb}", json.dumps(fields).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(f"{verb}: {json.load(error)['error']}") from None

    def reset(self) -> None:
        """Be as new: no resources, faults or records; default settings."""
        self("reset")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Change settings (the fields of ``Settings``), and return all of them."""
        found: dict[str, Any] = self("settings", **changes)
        return found

    def advance(self, seconds: float) -> None:
        """Move the double's time forward; what falls due has happened on return."""
        self("clock", advance_s=seconds)

    def freeze(self, frozen: bool = True) -> None:
        """Stop the double's clock, so that only ``advance`` moves it."""
        self("clock", freeze=frozen)

    def fault(self, kind: str, action: str = "*", **fields: Any) -> int:
        """Script a fault: kind is "throttle", "error", "hang" or "lose"; the other fields are those of ``Rule``."""
        found: int = self("fault", kind=kind, action=action, **fields)
        return found

    def bugs(self) -> list[str]:
        """Return what must be nothing at a test's end: what the double did wrong itself, each bug told once.

        Such as an answer that is not as the cloud's API has it, or a promise that the provider's calls broke.
        """
        found: list[str] = self("bugs")
        return found

    def wait_held(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until a call hangs, and return it."""
        held: list[dict[str, Any]] = []

        def hangs() -> bool:
            held[:] = self("held")
            return bool(held)

        self._wait(hangs, timeout_s, "a call that hangs")
        return held[0]

    def release(self, answer: bool = True) -> int:
        """Let what hangs go on, or drop it without an answer."""
        found: int = self("release", answer=answer)
        return found

    def calls(self, action: str = "", since: int = 0) -> list[dict[str, Any]]:
        """Return the recorded calls, in the order in which they came in."""
        found: list[dict[str, Any]] = self("calls", action=action, since=since)
        return found

    def counts(self, since: int = 0) -> dict[str, int]:
        """Return the number of calls by ``service:Action``."""
        found: dict[str, int] = self("counts", since=since)
        return found

    def state(self) -> dict[str, Any]:
        """Return what really is, by kind and id or name."""
        found: dict[str, Any] = self("state")
        return found

    def wait(self, done: Callable[[dict[str, Any]], bool], timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until the state is as wanted, and return it."""
        found: dict[str, Any] = {}

        def reached() -> bool:
            found.clear()
            found.update(self.state())
            return done(found)

        self._wait(reached, timeout_s, "the wanted state")
        return found

    @staticmethod
    def _wait(done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come within {timeout_s} s")
            time.sleep(0.02)

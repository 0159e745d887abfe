"""A real Airflow: API server, scheduler and triggerer as processes of their own, on 127.0.0.1 only."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.system.api import Api

START_TIMEOUT_S = 120.0


class Stack(Api):
    """Starts the components one by one, and ends each by its own pid."""

    def __init__(self, home: Path, dags: Path, users: Mapping[str, str] | None = None, prefix: str = "") -> None:
        """Prepare it.

        Args:
            users: names with their roles, each with a password in ``passwords``; without any, everybody is an admin.
            prefix: the path that all of Airflow lies below, such as ``/team/airflow``.
        """
        self.home = home
        self.port = _free_port()
        passwords = {name: secrets.token_urlsafe(12) for name in users or {}}
        super().__init__(f"http://127.0.0.1:{self.port}{prefix}", passwords)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.runs: dict[str, str] = {}
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": self.base,
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.base}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "3",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "5",
        }
        if users:
            self.env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] = "False"
            self.env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] = ",".join(f"{n}:{role}" for n, role in users.items())
            (home / "simple_auth_manager_passwords.json.generated").write_text(json.dumps(self.passwords))
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)  # makes every Airflow process start three times slower

    def start(self, *, processor: bool = False) -> None:
        """Make the database, read the DAGs, and start the components.

        Args:
            processor: let a DAG processor read the DAGs, again and again, instead of reading them once.
        """
        self.airflow("db", "migrate")
        if processor:
            self._spawn("dag-processor")
        else:
            self.airflow("dags", "reserialize")
        self._spawn("api-server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1")
        self._spawn("scheduler", "--skip-serve-logs")
        self._spawn("triggerer", "--skip-serve-logs")
        self._wait(self._healthy, "API server, scheduler and triggerer")

    def stop(self) -> None:
        """End every component, also one that a test holds."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
        for process in self.processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def add_triggerer(self, name: str) -> None:
        """Start another triggerer; the log is that of ``name``."""
        self._spawn("triggerer", "--skip-serve-logs", name=name)

    def send(self, name: str, number: signal.Signals) -> None:
        """Signal a component and everything that it started, which a service manager would do, too."""
        for process in [*(found := psutil.Process(self.processes[name].pid)).children(recursive=True), found]:
            process.send_signal(number)

    def end(self, name: str, number: signal.Signals) -> None:
        """End one component, and wait until it has."""
        self.send(name, number) if number == signal.SIGKILL else self.processes[name].send_signal(number)
        self.processes.pop(name).wait(timeout=30)

    def airflow(self, *args: str) -> str:
        """Run an ``airflow`` command to its end."""
        return self.command("airflow", *args).stdout

    def command(self, module: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a console script of this environment."""
        script = Path(sys.executable).with_name(module)
        done = subprocess.run(
            [str(script), *args], env=self.env, cwd=self.home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def task_log(self, dag_id: str, run_id: str, task_id: str, attempt: str = "*") -> str:
        """Return everything that a task's tries, or one of them, and their triggers logged."""
        base = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        return "\n".join(path.read_text() for path in sorted(base.rglob(f"attempt={attempt}.log*")) if path.is_file())

    def logs(self) -> str:
        """Return the end of every component's log."""
        names = [*self.processes]
        return "\n".join(f"--- {n}\n{(self.home / f'{n}.log').read_text()[-3000:]}" for n in names)

    def _spawn(self, command: str, *args: str, name: str = "") -> None:
        script = Path(sys.executable).with_name("airflow")
        with (self.home / f"{name or command}.log").open("wb") as log:
            self.processes[name or command] = subprocess.Popen(
                [str(script), command, *args], env=self.env, cwd=self.home, stdout=log, stderr=subprocess.STDOUT
            )

    def _healthy(self) -> bool:
        health = self.get("/api/v2/monitor/health") or {}
        wanted = {"scheduler", "triggerer", *({"dag_processor"} if "dag-processor" in self.processes else ())}
        return all(health.get(name, {}).get("status") == "healthy" for name in wanted) and bool(self._dags())

    def _dags(self) -> list[Any]:
        return list((self.get("/api/v2/dags") or {}).get("dags", ()))

    def _wait(self, ready: Any, what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            assert not dead, f"{dead} ended\n{self.logs()}"
            assert time.monotonic() < deadline, f"{what} did not come up in {START_TIMEOUT_S:.0f} s\n{self.logs()}"
            time.sleep(0.3)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

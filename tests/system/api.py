"""Airflow's REST API, as a user of it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any


class Api:
    """Calls an Airflow.

    Args:
        base: where all of Airflow lies, such as ``http://127.0.0.1:8080``.
        passwords: by user; the first one's are used. Without any, everybody is an admin.
    """

    def __init__(self, base: str, passwords: Mapping[str, str]) -> None:
        self.base = base
        self.passwords = passwords

    def logs(self) -> str:
        """Return what the components have logged, for whoever waits in vain."""
        return ""

    def get(self, path: str) -> Any:
        """GET from the REST API; None while it does not answer."""
        try:
            return self._call("GET", path)
        except OSError:  # URLError included
            return None

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Trigger a run and return its id."""
        body = {"conf": conf or {}, "logical_date": None}
        return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def delete(self, dag_id: str, run_id: str) -> None:
        """Let Airflow forget a run."""
        self._call("DELETE", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")

    def set_state(self, dag_id: str, run_id: str, state: str, task_id: str = "", map_index: int = -1) -> None:
        """Mark a run, or one of its tasks, as the UI does."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
        if not task_id:
            self._call("PATCH", path, {"state": state})
            return
        self._call("PATCH", f"{path}/taskInstances/{task_id}/{map_index}", {"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> None:
        """Clear one mapped task and what comes after it, as the UI does."""
        body = {
            "dag_run_id": run_id,
            "task_ids": [[task_id, map_index]],
            "dry_run": False,
            "only_failed": False,
            "include_downstream": True,
        }
        self._call("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body)

    def wait(self, dag_id: str, run_id: str, timeout_s: float = 180) -> str:
        """Wait for the end of a run and return its state."""
        deadline, state = time.monotonic() + timeout_s, ""
        while time.monotonic() < deadline:
            state = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"]
            if state in ("success", "failed"):
                return str(state)
            time.sleep(0.5)
        raise AssertionError(f"{dag_id} {run_id} is still {state}: {self.states(dag_id, run_id)}\n{self.logs()}")

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return every task's state, as ``{"job.run_rank[0]": "success", …}``."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=500")
        return {
            ti["task_id"] + (f"[{ti['map_index']}]" if ti["map_index"] >= 0 else ""): str(ti["state"])
            for ti in found["task_instances"]
        }

    def xcom(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        """Return what a task returned."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._call("GET", f"{path}?map_index={map_index}&deserialize=true")["value"]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.base}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token()}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refused:
            refused.add_note(f"{method} {path}: {refused.read().decode()[:2000]}\n{self.logs()}")
            raise

    def _token(self) -> str:
        if not hasattr(self, "_bearer"):
            request = urllib.request.Request(f"{self.base}/auth/token", headers={"Content-Type": "application/json"})
            if self.passwords:
                name, password = next(iter(self.passwords.items()))
                request.data = json.dumps({"username": name, "password": password}).encode()
            with urllib.request.urlopen(request, timeout=30) as answer:
                self._bearer = json.load(answer)["access_token"]
        return str(self._bearer)

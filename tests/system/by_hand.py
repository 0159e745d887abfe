"""Run the services of docker-compose.yaml without an engine, each by its own command, in Compose's order.

A process in namespaces of its own stands for all containers: names lead to 127.0.0.1, ports are those of the file, and
the places of volumes are directories. What images bring — programs, users, entry points — is this machine's. So it
shows what the commands, their environment and their order do, and not what the images and an engine add.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.clouds.nodes.packages import why_no_aws_cli, why_no_flights
from tests.system.api import Api
from tests.system.compose import ROOT, in_order, read

AIRFLOW_UID, READY_S = 50000, 240.0
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), default=Path("postgres")).parent
# An interpreter and a checkout below a private directory can be read, and nothing else is allowed.
_ORDINARY = ("--clear-groups", "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search")
_BOUND = ("--bounding-set=-all,+dac_read_search", "--no-new-privs")


def why_not() -> str:
    """Return what is missing on this machine, or nothing."""
    if os.geteuid() != 0:
        return "users and namespaces of their own need root"
    missing = [] if (POSTGRES / "postgres").exists() else ["postgresql"]
    return f"not installed (Debian's packages): {', '.join(missing)}" if missing else ""


def run(profile: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run them all in namespaces that end with this call; the output's last line is JSON."""
    if profile == "aws" and (reason := why_no_aws_cli() or why_no_flights()):  # as when the image is made
        raise RuntimeError(reason)
    script = '"$@"; exit $?'  # bash stays, and takes on what loses its parent, as an image's first process does
    inside = [sys.executable, "-m", "tests.system.by_hand", profile, str(folder)]
    apart = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
    command = [*apart, "bash", "-c", script, "bash", *inside]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


class Containers:
    """All services, by their names."""

    def __init__(self, services: Mapping[str, Any], folder: Path) -> None:
        self._services = services
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._places: set[str] = set()
        self.healthy_after_s: dict[str, float] = {}

    def start(self) -> None:
        """Start each service when what it depends on is as it asks."""
        for name in in_order(self._services):
            for other, asked in self._services[name].get("depends_on", {}).items():
                self._wait(other, asked["condition"])
            self._make_places(name)
            with (self._folder / f"{name}.log").open("wb") as log:
                self._processes[name] = self._spawn(name, self._command(name), log)
        for name, service in self._services.items():
            if "healthcheck" in service:
                self._wait(name, "service_healthy")

    def stop(self) -> None:
        """End all, in the reverse order."""
        for name in reversed(self._processes):
            self._processes[name].send_signal(signal.SIGTERM)
            try:
                self._processes[name].wait(40)
            except subprocess.TimeoutExpired:
                self._processes[name].kill()

    def execute(self, name: str, command: Sequence[str]) -> str:
        """Run a command in a service's place, as ``docker compose exec`` does."""
        process = self._spawn(name, command, subprocess.PIPE)
        output = process.communicate()[0].decode()
        if process.returncode:
            raise RuntimeError(f"{command} of {name}: exit code {process.returncode}\n{output}")
        return output

    def logs(self) -> str:
        """Return the end of each service's log."""
        return "\n".join(f"--- {path.stem}\n{path.read_text()[-3000:]}" for path in self._folder.glob("*.log"))

    def _wait(self, name: str, condition: str) -> None:
        began, process = time.monotonic(), self._processes[name]
        while not self._is(name, condition):
            ended = process.poll()
            if time.monotonic() - began > READY_S or (ended is not None and (ended, condition) != (0, _DONE)):
                raise RuntimeError(f"{name} did not become {condition} (exit code {ended})\n{self.logs()}")
            time.sleep(0.3)
        self.healthy_after_s.setdefault(name, round(time.monotonic() - began, 1))

    def _is(self, name: str, condition: str) -> bool:
        if condition == _DONE:
            return self._processes[name].poll() == 0
        kind, *test = self._services[name]["healthcheck"]["test"]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        return self._spawn(name, command, subprocess.DEVNULL).wait() == 0

    def _spawn(self, name: str, command: Sequence[str], output: Any) -> subprocess.Popen[bytes]:
        user = _user(name)
        apart = ["setpriv", f"--reuid={user}", "--regid=0", *_ORDINARY, *_BOUND] if user else []
        return subprocess.Popen(
            [*apart, *command],
            env=self._environment(name),
            cwd=ROOT if name == "ec2" else "/",
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def _environment(self, name: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{POSTGRES}:{os.environ['PATH']}"
        image = {"PATH": path, "LANG": "C.UTF-8", "HOSTNAME": os.uname().nodename, "HOME": str(_HOME)}
        image |= {"AIRFLOW_HOME": str(_HOME), "TMPDIR": str(_TEMPORARY)}
        own = self._services[name].get("environment", {})
        return {**image, **own}

    def _command(self, name: str) -> list[str]:
        service = self._services[name]
        command: list[str] = service.get("command", [])
        if name == "postgres":  # what the image's entry point does
            return ["bash", "-euc", _POSTGRES]
        if name == "ec2":
            text = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
            entry: list[str] = json.loads(re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[-1])
            return [*entry, *command]
        return command

    def _make_places(self, name: str) -> None:
        for volume in self._services[name].get("volumes", []):
            source, target, *options = volume.split(":")
            if source.startswith("/") or target in self._places:
                continue
            self._places.add(target)
            place = Path(target)
            place.mkdir(parents=True, exist_ok=True)
            os.chown(place, _user(name), 0)
            if source.startswith("."):
                how = "bind,ro" if options == ["ro"] else "bind"
                subprocess.run(["mount", "-o", how, str(ROOT / source), target], check=True)


_PLACES = ("opt", "var/lib/postgresql", "var/lib/ec2")
_TEMPORARY, _HOME = Path("/opt/tmp"), Path("/opt/airflow")
_DONE = "service_completed_successfully"
_POSTGRES = """\
cd /var/lib/postgresql/data
{
    initdb --pgdata=. --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") --auth=scram-sha-256
} >/opt/tmp/initdb.log
{
    until pg_isready --quiet --host=127.0.0.1; do sleep 0.1; done
    PGPASSWORD=$POSTGRES_PASSWORD createdb --host=127.0.0.1 --username="$POSTGRES_USER" "$POSTGRES_DB"
} &
exec postgres -D . -c listen_addresses='*' -c unix_socket_directories=/opt/tmp
"""


def _user(name: str) -> int:
    """Return the user that an image runs as."""
    return {"ec2": 0, "postgres": pwd.getpwnam("nobody").pw_uid}.get(name, AIRFLOW_UID)


def _settle(folder: Path, names: Sequence[str]) -> None:
    """Make the places and the names that the containers have, in this process's own namespaces."""
    for place in _PLACES:
        (folder / "places" / place).mkdir(parents=True)
        os.makedirs(f"/{place}", exist_ok=True)
    for name, text in {
        "hosts": "".join(f"127.0.0.1 {name}\n" for name in ("localhost", *names)),
        "passwd": Path("/etc/passwd").read_text() + f"airflow:x:{AIRFLOW_UID}:0::/opt/airflow:/bin/bash\n",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
        subprocess.run(["mount", "--bind", str(folder / name), f"/etc/{name}"], check=True)
    for place in _PLACES:
        subprocess.run(["mount", "--bind", str(folder / "places" / place), f"/{place}"], check=True)
    for own, user in ((_TEMPORARY, 0), (_HOME, AIRFLOW_UID)):
        own.mkdir()
        os.chown(own, user, 0)
    _TEMPORARY.chmod(0o1777)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["hostname", "container"], check=True)


def _job(api: Api, dag_id: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Run a DAG's rank job, and return what is to be told of it."""
    deadline = time.monotonic() + READY_S
    while api.get(f"/api/v2/dags/{dag_id}") is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the DAG processor has not found {dag_id}")
        time.sleep(0.5)
    api.unpause(dag_id)
    run_id = api.trigger(dag_id, conf)
    state = api.wait(dag_id, run_id, READY_S)
    states = api.states(dag_id, run_id)
    result = api.xcom(dag_id, run_id, "shards.gather") if state == "success" else states
    return {"state": state, "result": result}


def main(profile: str, folder: Path) -> int:
    """Start all services of a profile, run the example DAGs, and print what was seen as JSON."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    settings = dict(line.partition("=")[::2] for line in example.splitlines() if re.match(r"\w+=", line))
    settings = {name: value or _secret() for name, value in settings.items()}
    services = {
        name: service
        for name, service in read(settings)["services"].items()
        if profile in service.get("profiles", [profile])
    }
    _settle(folder, [*services])
    containers = Containers(services, folder)
    api = Api(f"http://127.0.0.1:{settings['RANKVOL_PORT']}", {"admin": settings["RANKVOL_ADMIN_PASSWORD"]})
    try:
        containers.start()
        seen: dict[str, Any] = {"healthy_after_s": containers.healthy_after_s}
        dags = ["flights_by_rank", *(["flights_on_aws"] if profile == "aws" else [])]
        seen["runs"] = {dag_id: _job(api, dag_id, {"nodes": 2}) for dag_id in dags}
        seen["groups"] = api.get("/rankvol/api/groups")
        everywhere = [part for conn in ("rankvol_default", "aws_default")[: len(dags)] for part in ("--conn-id", conn)]
        seen["left"] = containers.execute("scheduler", ["rankvol", "ls", *everywhere]).strip()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the services' logs tell why
        sys.stderr.write(f"{exc!r}\n{containers.logs()}\n")
        return 1
    finally:
        containers.stop()
    sys.stdout.write(f"{json.dumps(seen)}\n")
    return 0


def _secret() -> str:
    """Return what ``openssl rand -base64 32 | tr '+/' '-_'`` prints."""
    import base64

    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))

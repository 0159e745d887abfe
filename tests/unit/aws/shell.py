"""The platform functions of a cloud's node, run by bash on this machine, with nothing in reach that could end it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from airflow_rankvol.engine.bootstrap import BootSpec, render
from airflow_rankvol.records import Role

#: A gather over no volumes: the whole script runs without a mount.
SPEC = BootSpec(
    role=Role.GATHER,
    rank=-1,
    nodes=1,
    attempt=1,
    key="0a1b2c3d",
    identity="identity",
    digest="digest",
    attachments=(),
    commands=("true",),
    files={},
    env={},
    secret_env={},
    gpus_per_node=0,
    lifetime_s=90,
)
# Says in a file that it was called, and with what.
_RECORD = 'printf "%s\\n" "${0##*/} $*" >>"$CALLS"\n'
# Powering off is the end of the script that asked for it.
_OFF = _RECORD + 'kill -KILL "$PPID"\n'
_STUBS = {
    "shutdown": _OFF,
    "poweroff": _OFF,
    "reboot": _OFF,
    "systemctl": _RECORD,
    "systemd-run": _RECORD,
    # What waits for the end of the output (rv_run) is ended itself once that is there.
    "sleep": '[ "$1" != 10 ] || exec /bin/sleep 10\n',
    "hostname": "echo '10.9.8.7 fe80::1 '\n",
}


@dataclass
class Shell:
    """A place for one node: stand-ins for what would end this machine, and what the node's variables point to."""

    home: Path
    stubs: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    platform: str = "ec2"

    @property
    def console(self) -> Path:
        """The serial console."""
        return self.home / "console"

    @property
    def calls(self) -> list[str]:
        """The stand-ins that were called, each with its arguments."""
        path = self.home / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, commands: str = "", *, spec: BootSpec = SPEC, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the whole script, or its functions and then these commands instead.

        Args:
            more: shell variables of this run.
        """
        return subprocess.run(
            ["bash", self.write(commands, spec=spec)],
            env=self.environment(more),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,  # a script may end all of its process group
        )

    def write(self, commands: str = "", *, spec: BootSpec = SPEC) -> str:
        """Write the script that ``run`` runs, and return its path."""
        script = render(spec, self.platform)
        if commands:
            script = script.removesuffix("rv_main\n").removesuffix("rv_main_once\n") + commands
        path = self.home / "script.sh"
        path.write_text(script)
        self.console.touch()
        return str(path)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a script; makes the stand-ins."""
        tools = self.home / "bin"
        tools.mkdir(exist_ok=True)
        for name, body in {**_STUBS, **self.stubs}.items():
            tool = tools / name
            tool.write_text(f"#!/bin/bash\n{body}")
            tool.chmod(0o755)
        places = {"RV_HOME": "home", "RV_WORK": "work", "RV_RANKS": "ranks", "RV_SYSTEMD": "systemd", "CALLS": "calls"}
        (self.home / "home").mkdir(exist_ok=True)
        return {
            "PATH": f"{tools}:{os.environ['PATH']}",
            **{name: str(self.home / place) for name, place in places.items()},
            "RV_CONSOLE": str(self.console),
            # Nothing listens there, and nothing may be asked outside this machine.
            "RV_IMDS": "http://127.0.0.1:9",
            "RV_IMDS_WAIT": "0",
            "RV_METADATA": "http://127.0.0.1:9",
            "RV_METADATA_WAIT": "0",
            "RV_ONCE": str(self.home / "once"),
            "RV_INIT": str(self.home / "no-cloud-init"),
            **self.variables,
            **(more or {}),
        }

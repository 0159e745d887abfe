"""Where runs are killed: the double with other people's things on it, and processes that die when told to."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clouds.aws.backend.kit import SETTLED_S, ZONE
from tests.clouds.aws.client import Double
from tests.clouds.aws.crash.way import OWNER, Journal, OnlyClock, Way, clients_of

_ROOT = Path(__file__).resolve().parents[4]
#: A task that was killed is not tried again at once; EC2's listings show by then what it did last.
NOTICED_S = 5.0


@dataclass(frozen=True)
class Point:
    """A call at which the process dies: the nth of its action."""

    service: str
    action: str
    nth: int

    def __str__(self) -> str:
        return f"{self.action} {self.nth}"


class Nursery:
    """Processes that do ways, and die when told to."""

    def __init__(self, double: Double, log: Path, *options: str) -> None:
        self._double = double
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.clouds.aws.crash.nursery", double.url, *options],
            cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip

    def begin(self, journal: Path) -> int:
        """Let a new process go on from a journal, and return its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{journal}\n")
        self._process.stdin.flush()
        return self._number()

    def ends(self) -> int:
        """Return the wait status of the process."""
        return self._number()

    def hangs(self) -> bool:
        """Wait until a call of the process hangs; False when the process has ended without."""
        while not self._double("held"):
            assert self._process.stdout is not None
            if select.select([self._process.stdout], [], [], 0.01)[0]:
                return False
        return True

    def _number(self) -> int:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("RANKVOL "):
                return int(line.split()[1])
        raise AssertionError(f"the nursery has ended; see {self._log.name}")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._log.close()


@dataclass
class Scene:
    """The double with other people's things on it, and whoever runs there."""

    double: Double
    nursery: Nursery
    folder: Path
    real: bool = False
    number: int = 0

    def __post_init__(self) -> None:
        # Clients take longer to make than most of what they are used for.
        self.ec2, self.ssm = self.double.boto3("ec2"), self.double.boto3("ssm")
        self.clients = clients_of(self.double, OnlyClock(self.double))
        self.clients.get("ec2")

    def new(self) -> Path:
        """Be as new, and return the journal of a run that has not begun."""
        self.double.reset()
        if not self.real:
            self.double.freeze()
            self.double("end_nodes", script="tests.clouds.aws.crash.disks:end", after_s=2.0)
        self.number += 1
        return self.folder / f"journal-{self.number}.json"

    def dies(self, point: Point, when: str, journal: Path) -> None:
        """Let a run die at a point."""
        self.double.fault("hang", point.action, service=point.service, nth=point.nth, when=when)
        pid = self.nursery.begin(journal)
        assert self.nursery.hangs(), f"the run has ended before {point}"
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(self.nursery.ends()) == signal.SIGKILL
        self.double("clear_faults")  # and drop what hangs, without an answer
        self.double.advance(NOTICED_S)

    def after(self, journal: Path) -> Way:
        """Return the run as those see it who come after the one that died."""
        return Way(self.double, Journal(journal), self.clients._clients)


def strangers(scene: Scene) -> dict[str, Any]:
    """Create volumes and an instance that are not ours, though they look like it; return what they are."""
    double, ec2 = scene.double, scene.ec2
    named = [{"Name": f"data-volume-{rank}"} for rank in range(2)]
    other = {"rankvol:owner": "somebody", "rankvol:key": "0a1b2c3d", "rankvol:rank": "0", "rankvol:attempt": "0"}
    for tags in (*named, {"Name": "data-volume-0", **other}, {"Name": "rankvol", "rankvol:owner": OWNER}):
        ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3", TagSpecifications=specified("volume", tags))
    image = scene.ssm.get_parameter(Name="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64")
    ec2.run_instances(
        ImageId=image["Parameter"]["Value"], InstanceType="m7i.large", MinCount=1, MaxCount=1,
        TagSpecifications=specified("instance", {"Name": "rankvol-0a1b2c3d-r0-a1", **other}),
    )  # fmt: skip
    double.advance(SETTLED_S)
    double("clear_calls")
    return double.state()


def specified(kind: str, tags: dict[str, str]) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": name, "Value": value} for name, value in tags.items()]}]


def ours(double: Double, theirs: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return the volumes and instances that are left of the run, once time has passed."""
    double.advance(300)
    state = double.state()
    for kind in ("volumes", "instances"):
        now = {item: state[kind].get(item) for item in theirs[kind]}
        assert now == theirs[kind], f"somebody else's {kind} were touched"
    return (
        set(state["volumes"]) - set(theirs["volumes"]),
        {
            item
            for item, view in state["instances"].items()
            if item not in theirs["instances"] and view["State"]["Name"] != "terminated"
        },
    )


def made_twice(double: Double) -> dict[str, set[str]]:
    """Return the names under which more than one volume or instance was made."""
    found: dict[str, set[str]] = defaultdict(set)
    for call in double.calls():
        if call["action"] in ("CreateVolume", "RunInstances") and call["made"]:
            tags = {tag["Key"]: tag["Value"] for tag in call["params"]["TagSpecifications"][0]["Tags"]}
            found[tags["Name"]].update(call["made"])
    return {name: ids for name, ids in found.items() if len(ids) > 1}

"""The script that a node runs: what to do as shell variables, the platform's functions, and the common body.

Pure: the same wish always gives the same text. The text is kept short because EC2 takes at most 16 KiB of
user data.
"""

from __future__ import annotations

import base64
import gzip
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath

from airflow_rankvol.engine.staging import StagedFile
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import Attachment, Role
from airflow_rankvol.spec.templates import ReportChannel

_SAFE = re.compile(r"[A-Za-z0-9._-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The platforms that share platform_cloud.sh, and what begins the work where it is not rv_main.
_CLOUDS = ("ec2", "gce")
_MAIN = {"gce": "rv_main_once"}

# Below the SSM agent, stderr is kept for the report, and stdout goes to a file: more than a slow console takes, but not
# as much as fills the boot disk. Unbuffered where that can be had, so that CloudWatch shows a line soon.
_SSM_OUTPUT = (
    'if [ -n "${RV_TURN-}" ]; then',
    "exec {RV_STDERR}>&2",
    "RV_SHOW=rv_show_much",
    "fi",
    "rv_show_much() {",
    "trap '' PIPE TERM",
    "if command -v stdbuf >/dev/null; then stdbuf -o0 head -c 64M; else head -c 64M; fi",
    "exec cat >/dev/null",
    "}",
)


@dataclass(frozen=True, slots=True)
class BootSpec:
    """What one node has to do.

    Args:
        rank: the node's rank, -1 for gather.
        key: the run group's key; its log and record lie in ``.rankvol/<key>/`` on the first volume.
        identity: what a completion record must carry to count as this run's, the same for all its ranks.
        digest: hash of what decides the result; a record of another digest is not reused.
        attachments: the node's volumes in the order of the mounts, for gather rank by rank.
        files: by their name in the working directory: contents, or where the node fetches them.
        secret_env: secret ids by variable, fetched on the node.
        lifetime_s: seconds after which the node ends, whatever it does.
        rendezvous: report ready, and start the commands on the message for all nodes.
        reuse: return an existing completion record instead of computing; never with ``rendezvous``.
        missing: for gather, ranks that are left out because they did not succeed.
        allow_missing: for gather, go on without those. A rank that is not left out must have its record all the same.
        destination: for gather, where files go once the commands have succeeded; empty for nowhere.
        collect: the globs that say which files do, relative to each volume.
        parts: how many nodes share the gathering.
        report: the channel of its report, where the platform has a choice.
        report_output: bucket and prefix (``s3://…``) that its output is kept in; empty for nowhere.
        report_log_group: the CloudWatch log group that its output goes to; empty for none.
    """

    role: Role
    rank: int
    nodes: int
    attempt: int
    key: str
    identity: str
    digest: str
    attachments: tuple[Attachment, ...]
    commands: tuple[str, ...]
    files: Mapping[str, bytes | StagedFile]
    env: Mapping[str, str]
    secret_env: Mapping[str, str]
    gpus_per_node: int
    lifetime_s: float
    rendezvous: bool = False
    reuse: bool = True
    missing: tuple[int, ...] = ()
    allow_missing: bool = False
    destination: str = ""
    collect: tuple[str, ...] = ()
    parts: int = 1
    report: ReportChannel = ReportChannel.CONSOLE
    report_output: str = ""
    report_log_group: str = ""

    def __post_init__(self) -> None:
        # These go into JSON, paths and patterns on the node as they are.
        for field in ("key", "identity", "digest"):
            if not _SAFE.fullmatch(getattr(self, field)):
                raise ConfigError(f"{field} {getattr(self, field)!r}: expected letters, digits and ._- only")
        for name in (*self.env, *self.secret_env):
            if not _VARIABLE.fullmatch(name):
                raise ConfigError(f"environment variable {name!r}: expected letters, digits and underscores")
        for name in self.files:
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts:
                raise ConfigError(f"file {name!r}: expected a relative path without '..'")


def render(spec: BootSpec, platform: str) -> str:
    """Return the bash script for one node.

    Args:
        spec: what the node has to do.
        platform: names the functions to use, those of ``platform_<platform>.sh``.
    """
    by_ssm = platform == "ec2" and spec.report is ReportChannel.SSM
    lines = [
        "#!/bin/bash",
        "set -u",
        *_variables(spec),
        *(_ssm_variables(spec) if by_ssm else ()),
        *_functions(spec),
        *((_source("platform_cloud.sh"),) if platform in _CLOUDS else ()),
        _source(f"platform_{platform}.sh"),
        _source("bootstrap.sh"),
        *_collection(spec, platform),
        *((_source("report_ssm.sh"), "rv_main_by_ssm\n") if by_ssm else (f"{_MAIN.get(platform, 'rv_main')}\n",)),
    ]
    return "\n".join(lines)


def _variables(spec: BootSpec) -> list[str]:
    numbers = {
        "RANK": spec.rank,
        "NODES": spec.nodes,
        "ATTEMPT": spec.attempt,
        "GPUS": spec.gpus_per_node,
        "LIFETIME": int(spec.lifetime_s),
        "RENDEZVOUS": int(spec.rendezvous),
        "REUSE": int(spec.reuse and not spec.rendezvous),
        "ALLOW_MISSING": int(spec.allow_missing),
    }
    texts = {
        "ROLE": str(spec.role),
        "KEY": spec.key,
        "IDENTITY": spec.identity,
        "DIGEST": spec.digest,
        # Hexadecimal, rank 0 is the lowest bit: of a thousand ranks a list would fill a seventh of EC2's user data.
        "LEFT_OUT": f"{sum(1 << rank for rank in spec.missing):x}",
    }
    lists: dict[str, Iterable[object]] = {
        "IDS": (item.volume_id for item in spec.attachments),
        "NAMES": (item.name for item in spec.attachments),
        "PATHS": (item.path for item in spec.attachments),
        "OF": (item.rank for item in spec.attachments),
        "MAY_FORMAT": (int(item.may_format) for item in spec.attachments),
        "READ_ONLY": (int(item.read_only) for item in spec.attachments),
        "SECRET_NAMES": spec.secret_env.keys(),
        "SECRET_IDS": spec.secret_env.values(),
    }
    return [
        " ".join(f"RV_{name}={value}" for name, value in numbers.items()),
        " ".join(f"RV_{name}={shlex.quote(value)}" for name, value in texts.items()),
        *(f"RV_{name}=({shlex.join(map(str, values))})" for name, values in lists.items()),
    ]


def _ssm_variables(spec: BootSpec) -> list[str]:
    bucket, _, prefix = spec.report_output.removeprefix("s3://").partition("/")
    texts = {"BUCKET": bucket, "PREFIX": f"{prefix.strip('/')}/".lstrip("/"), "LOG_GROUP": spec.report_log_group}
    return [
        " ".join(f"RV_SSM_{name}={shlex.quote(value)}" for name, value in texts.items()),
        *_SSM_OUTPUT,
    ]


def _functions(spec: BootSpec) -> list[str]:
    folders = sorted({str(PurePosixPath(name).parent) for name in spec.files} - {"."})
    commands = "".join(f"{command}\n" for command in spec.commands).encode()
    return [
        "rv_files() {",
        *(f'mkdir -p "$RV_WORK"/{shlex.quote(folder)} &&' for folder in folders),
        *(_file(name, content) for name, content in spec.files.items()),
        f'rv_unpack "$RV_HOME/commands.sh" {_pack(commands)}',
        "}",
        "rv_user_env() { :",
        *(f"export {name}={shlex.quote(value)}" for name, value in spec.env.items()),
        "}",
    ]


def _collection(spec: BootSpec, platform: str) -> list[str]:
    """Return what only a gather node with a destination needs."""
    if not spec.destination:
        return []
    return [
        f"RV_PARTS={spec.parts} RV_DESTINATION={shlex.quote(spec.destination)}",
        f"RV_COLLECT=({shlex.join(spec.collect)})",
        *((_source("upload_gce.sh"),) if platform == "gce" else ()),
        _source("collect.sh"),
    ]


def _file(name: str, content: bytes | StagedFile) -> str:
    target = f'"$RV_WORK"/{shlex.quote(name)}'
    if isinstance(content, StagedFile):
        return f"rv_fetch {target} {shlex.quote(content.url)} {content.sha256} &&"
    return f"rv_unpack {target} {_pack(content)} &&"


def _pack(content: bytes) -> str:
    # Without a time stamp, so that the same content always gives the same text.
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


@cache
def _source(name: str) -> str:
    """Return a shell source of ours without its comments and blank lines."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"

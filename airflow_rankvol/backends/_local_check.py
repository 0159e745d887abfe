"""What the local backend refuses before anything is created."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_rankvol.backends import _local_disk as disk
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import ReportChannel

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan, PlannedVolume

log = logging.getLogger(__name__)
_GIB = 1 << 30
_CLOUD_FIELDS = (
    *("machine_type", "image", "zones", "subnets", "security_groups", "instance_profile", "key_name"),
    *("spot", "max_price", "root_size", "root_type", "tags"),
    *("service_account", "scopes", "network", "network_tags", "external_ip", "accelerator"),
)


def check(plan: Plan, state_dir: Path, mode: str) -> None:
    """Refuse what this machine cannot do, or would do differently from what was asked.

    What only tunes a cloud (types, IOPS, zones) is ignored with a line in the log, so that one job file runs
    on every backend.

    Raises:
        ConfigError: names the field, what was found and what is possible.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"the local backend needs Linux, found {sys.platform}; use another connection")
    chosen = disk.pick_mode(state_dir) if mode == "auto" else mode
    reason = disk.why_no_images() if mode == "image" else ""
    if reason:
        raise ConfigError(f"mode 'image' does not work on this machine: {reason}. Use mode 'auto' or 'directory'")
    for volume in plan.volumes():
        _check_volume(volume, chosen)
    for name, path in plan.job.secret_env.items():
        check_secret(name, path)
    if plan.job.destination:
        _check_destination(plan.job.destination)
    _tell_ignored(plan)
    _warn_of_space(plan, state_dir)


def _check_volume(volume: PlannedVolume, mode: str) -> None:
    template = volume.template
    where = f"volume {volume.name}"
    for field in ("snapshot", "image"):
        value = getattr(template, field)
        if value:
            raise ConfigError(f"{where}: {field}={value!r}; volumes of the local backend start blank. Leave it out")
    if volume.reclaim == "snapshot":
        raise ConfigError(f"{where}: reclaim='snapshot'; the local backend has no snapshots. Use 'retain' to keep it")
    if mode == "image" and volume.size_gib < disk.MIN_IMAGE_GIB:
        raise ConfigError(f"{where}: size {template.size}; an ext4 image needs at least 8MB. Ask for more")


def _check_destination(destination: str) -> None:
    """Refuse a destination that gather could not write to, or that only its own node would see."""
    where = f"destination: {destination!r}"
    if not destination.startswith("/"):
        raise ConfigError(f"{where}; the local backend copies to a directory of this machine: 'file:///path'")
    if destination == "/ranks" or destination.startswith("/ranks/"):
        raise ConfigError(f"{where} lies where the gather node has the volumes; choose another directory")
    folder = Path(destination)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing == Path("/"):  # a node would make it on a root of its own, which goes with it
        raise ConfigError(f"{where}: there is no {Path(*folder.parts[:2])}. Make it, or choose another directory")
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{where}: {existing} is no directory that user {os.geteuid()} may write to")


def check_secret(name: str, path: str) -> None:
    """Refuse a secret that is no private file of this user.

    Args:
        name: the variable that it is for.
        path: the secret's id, here a path.
    """
    expected = "expected an absolute path of a regular file that is yours, with mode 0600"
    try:
        found = os.lstat(path)
    except OSError as exc:
        raise ConfigError(f"secret_env.{name}: {path!r}: {exc.strerror}; {expected}") from exc
    wrong = [
        text
        for text, holds in (
            ("a relative path", not os.path.isabs(path)),
            ("no regular file", not stat.S_ISREG(found.st_mode)),
            (f"of user {found.st_uid}", found.st_uid != os.geteuid()),
            (f"mode {stat.S_IMODE(found.st_mode):04o}", stat.S_IMODE(found.st_mode) not in (0o600, 0o400)),
        )
        if holds
    ]
    if wrong:
        raise ConfigError(f"secret_env.{name}: {path!r} is {', '.join(wrong)}; {expected}")


def _tell_ignored(plan: Plan) -> None:
    node = plan.job.node
    # Each of these is false where it was not asked for.
    ignored = {f"node.{field}" for field in _CLOUD_FIELDS if getattr(node, field)}
    if node.report is not ReportChannel.CONSOLE:
        ignored.add("node.report")
    if plan.job.staging:
        ignored.add("staging (files of any size travel with the node's script here)")
    for volume in plan.volumes():
        fields = ("type", "iops", "throughput", "kms_key", "tags")
        ignored |= {f"volume_template.{field}" for field in fields if getattr(volume.template, field)}
        if "encrypted" in volume.template.model_fields_set and volume.template.encrypted:
            ignored.add("volume_template.encrypted")
    if ignored:
        log.info("ignored on the local backend: %s", ", ".join(sorted(ignored)))


def _warn_of_space(plan: Plan, state_dir: Path) -> None:
    existing = next(folder for folder in (state_dir, *state_dir.parents) if folder.exists())
    free_gib = shutil.disk_usage(existing).free / _GIB
    wanted_gib = sum(volume.size_gib for volume in plan.volumes())
    if wanted_gib > free_gib:
        log.warning(
            "the volumes ask for %.0f GiB and %s has %.0f GiB free; they take space only as they fill",
            wanted_gib,
            existing,
            free_gib,
        )

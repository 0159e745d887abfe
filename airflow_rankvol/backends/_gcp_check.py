"""What Google Cloud refuses before anything is created: bounds, names, labels, rights."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from airflow_rankvol.backends._found import Found, FoundVolume, by_name, check_owners, check_subnets, zones_of
from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_check_nodes import check_nodes
from airflow_rankvol.backends._gcp_creation import check_link, global_link
from airflow_rankvol.backends._gcp_labels import check_labels, description_of
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._gcp_places import Places, region_of
from airflow_rankvol.backends._gcp_rights import check_rights
from airflow_rankvol.backends._gcp_staging import GcsStaging
from airflow_rankvol.backends._gcp_types import DEFAULT_TYPE, check_bounds
from airflow_rankvol.backends._gcp_view import volume_of
from airflow_rankvol.backends._gcp_volumes import Volumes
from airflow_rankvol.backends._gcp_zones import choose_zone
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import Tags
from airflow_rankvol.spec.templates import NodeTemplate, ReclaimPolicy, VolumeTemplate

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan, PlannedVolume

log = logging.getLogger(__name__)

#: Discovery document, Disk.name and Instance.name.
NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
#: A description's length is not documented; this is what the console takes.
MAX_DESCRIPTION = 2048
_SECRET = re.compile(
    r"secretmanager:[A-Za-z0-9_-]+(/versions/[A-Za-z0-9_-]+)?"
    r"|projects/[^/]+/(locations/[a-z0-9-]+/)?secrets/[A-Za-z0-9_-]+(/versions/[A-Za-z0-9_-]+)?"
)
_KMS = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+(/cryptoKeyVersions/\d+)?")
_AWS_FIELDS = ("security_groups", "instance_profile", "key_name", "max_price", "report_output", "report_log_group")
#: Disk type → the quota that it counts against (Compute Engine's documentation, "Allocation quotas").
_QUOTAS = {
    "pd-standard": "DISKS_TOTAL_GB",
    "pd-balanced": "SSD_TOTAL_GB",
    "pd-ssd": "SSD_TOTAL_GB",
    "pd-extreme": "SSD_TOTAL_GB",
    "hyperdisk-balanced": "HDB_TOTAL_GB",
    "hyperdisk-extreme": "HDX_TOTAL_GB",
    "hyperdisk-throughput": "HDT_TOTAL_GB",
}


def check(plan: Plan, gce: Gce, places: Places, staging: GcsStaging) -> None:
    """Refuse what this project cannot do.

    Raises:
        ConfigError: names the field, what was found and what is possible.
        AuthDenied: a right is missing.
    """
    _check_texts(plan)
    _check_templates(plan)
    _check_secrets(plan)
    _check_staging(plan, staging)
    _check_destination(plan)
    _tell_ignored(plan)
    check_rights(plan, gce)
    _check_sources(plan, gce)
    found = _found(plan, gce, places)
    check_owners(plan, found)
    check_subnets(plan, found, _zones_of_subnets)
    zones = zones_of(plan, found, lambda: choose_zone(plan, places))
    check_nodes(plan, places, zones, _kinds(plan, found))
    _warn_of_quotas(plan, gce, zones)


def _templates(plan: Plan) -> Iterator[tuple[VolumeTemplate, PlannedVolume]]:
    """Return each mount's template with one of its volumes: the ranks' differ in nothing but their names."""
    seen: set[int] = set()
    for volume in plan.volumes():
        if volume.mount_index not in seen:
            seen.add(volume.mount_index)
            yield volume.template, volume


def _check_texts(plan: Plan) -> None:
    run = plan.identity
    text = description_of(Tags(owner=run.owner, dag=run.dag_id, run=run.run_id, group=run.group, key=plan.key))
    if len(text) > MAX_DESCRIPTION:
        raise ConfigError(
            f"owner, DAG id, run id and group make a description of {len(text)} characters; Compute Engine takes "
            f"{MAX_DESCRIPTION}. Use shorter ones"
        )


def _check_templates(plan: Plan) -> None:
    for template, volume in _templates(plan):
        where = f"volume {volume.name}"
        check_bounds(template, where)
        if volume.reclaim is ReclaimPolicy.SNAPSHOT:
            raise ConfigError(f"{where}: reclaim='snapshot' is not there yet on Google Cloud. Use 'retain' to keep it")
        if template.kms_key and not _KMS.fullmatch(template.kms_key):
            raise ConfigError(
                f"{where}: kms_key={template.kms_key!r} was found; expected "
                "projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY"
            )
        check_labels(template.tags, where)
    for volume in plan.volumes():
        if not NAME.fullmatch(volume.name):
            raise ConfigError(
                f"volume {volume.name}: a disk's name has 1 to 63 lower-case letters, digits and dashes, the first a "
                "letter, the last no dash. Choose another name"
            )


def _check_secrets(plan: Plan) -> None:
    job = plan.job
    for name, secret in job.secret_env.items():
        if not _SECRET.fullmatch(secret):
            raise ConfigError(
                f"secret_env.{name}: {secret!r} was found; expected secretmanager:NAME or "
                "projects/PROJECT/secrets/NAME, with /versions/VERSION or without"
            )
    for where, template in (("node", job.node), ("gather_node", job.gather_node)):
        if job.secret_env and template is not None and not template.service_account:
            raise ConfigError(
                f"{where}.service_account is not set; the node reads secret_env by it. Name one that may access "
                f"{', '.join(job.secret_env.values())} (role Secret Manager Secret Accessor)"
            )


def _check_staging(plan: Plan, staging: GcsStaging) -> None:
    place = plan.job.staging
    if place and not place.startswith("gs://"):
        raise ConfigError(
            f"staging: {place!r} was found; nodes on Google Cloud fetch files from Cloud Storage: 'gs://bucket/prefix'"
        )
    if place and plan.job.files:
        staging.check_place(place)


def _check_destination(plan: Plan) -> None:
    job = plan.job
    if not job.destination:
        return
    if not job.destination.startswith("gs://"):
        raise ConfigError(
            f"destination: {job.destination!r}; nodes on Google Cloud copy results to Cloud Storage: "
            "'gs://bucket/prefix'"
        )
    where, template = ("gather_node", job.gather_node) if job.gather_node else ("node", job.node)
    if not template.service_account:
        raise ConfigError(
            f"{where}.service_account is not set; the gather node writes to {job.destination} by it. Name one that may "
            "create objects there (role Storage Object User)"
        )


def _tell_ignored(plan: Plan) -> None:
    nodes = {"node": plan.job.node, "gather_node": plan.job.gather_node}
    ignored = [
        f"{where}.{field}" for where, node in nodes.items() if node for field in _AWS_FIELDS if getattr(node, field)
    ]
    if ignored:
        log.warning("ignored on Google Cloud, because they are AWS': %s", ", ".join(sorted(ignored)))


def _check_sources(plan: Plan, gce: Gce) -> None:
    for template, volume in _templates(plan):
        for kind, name in (("snapshots", template.snapshot), ("images", template.image)):
            link = global_link(gce, kind, name)
            if link is None:
                continue
            check_link(f"volume {volume.name}: {kind.removesuffix('s')}", str(name), kind, "dataset-1")
            raw = gce.find(link.removeprefix("projects"), "check", str(name))
            if raw is None:
                raise ConfigError(
                    f"volume {volume.name}: there is no {link}. `gcloud compute {kind} list` shows what project "
                    f"{gce.project} has; another project's is named by its link, projects/PROJECT/global/{kind}/NAME"
                )
            if template.size_gib < int(raw.get("diskSizeGb") or 0):
                raise ConfigError(
                    f"volume {volume.name}: size {template.size}; {name} needs at least {raw['diskSizeGb']} GiB"
                )


def _found(plan: Plan, gce: Gce, places: Places) -> dict[str, FoundVolume]:
    """Return the plan's volumes that are there. One is adopted by its name, which several zones may have."""
    names = [volume.name for volume in plan.volumes()]
    found = by_name(volume_of(raw) for raw in Volumes(gce, Memory(), places).named(names, "check", "names"))
    for name in plan.volume_names:
        ids = found.get(name, {})
        if len(ids) > 1:
            raise ConfigError(
                f"volume {name}: {len(ids)} disks have that name ({', '.join(sorted(ids))}); expected one at most. "
                "Remove the others, or choose another name for the volume in the job"
            )
    return {name: next(iter(volumes.values())) for name, volumes in found.items() if len(volumes) == 1}


def _kinds(plan: Plan, found: Found) -> dict[str, str]:
    """Return the types of the plan's volumes, each with one that has it; what is there keeps its own."""
    kinds: dict[str, str] = {}
    for wanted in plan.volumes():
        there = found.get(wanted.name)
        if there:
            kinds.setdefault(there.type, there.label)
        else:
            kinds.setdefault(wanted.template.type or DEFAULT_TYPE, f"volume {wanted.name}")
    return dict(sorted(kinds.items()))


def _zones_of_subnets(template: NodeTemplate) -> Collection[str]:
    """Return the zones that a mapping names; a single subnet is its region's, which the check of nodes looks at."""
    return template.subnets if isinstance(template.subnets, dict) else ()


def _warn_of_quotas(plan: Plan, gce: Gce, zones: dict[int, str]) -> None:
    """Say what may not fit. What a cleared run has already is in the usage, so nothing is refused."""
    wanted: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for slot in plan.slots:
        region = wanted[region_of(zones[slot.rank])]
        region["INSTANCES"] += 1
        for volume in slot.volumes:
            kind = _QUOTAS.get(volume.template.type or DEFAULT_TYPE)
            if kind:
                region[kind] += math.ceil(volume.template.size_gib)
    for name, metrics in wanted.items():
        for quota in (gce.find(f"regions/{name}", "check", name) or {}).get("quotas") or ():
            left = float(quota.get("limit", 0)) - float(quota.get("usage", 0))
            if metrics.get(str(quota.get("metric")), 0) > left:
                log.warning(
                    "quota %s of region %s has %g left of %g; the job asks for %g",
                    quota["metric"], name, left, quota["limit"], metrics[str(quota["metric"])],
                )  # fmt: skip

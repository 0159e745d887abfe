"""What AWS refuses before anything is created: bounds, names, rights."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from airflow_rankvol.backends._aws_calls import Ec2, code
from airflow_rankvol.backends._aws_check_nodes import check_nodes
from airflow_rankvol.backends._aws_creation import creation, volume_tags
from airflow_rankvol.backends._aws_launch import Machine, node_tags, root_tags, shape
from airflow_rankvol.backends._aws_places import Places
from airflow_rankvol.backends._aws_run_command import RunCommand
from airflow_rankvol.backends._aws_staging import S3Staging
from airflow_rankvol.backends._aws_types import check_bounds
from airflow_rankvol.backends._aws_view import filters, tag_list, volume_of
from airflow_rankvol.backends._aws_zones import choose_zone
from airflow_rankvol.backends._found import FoundVolume, by_name, check_owners, check_subnets, zones_of
from airflow_rankvol.backends.base import NodeRequest, VolumeRequest
from airflow_rankvol.errors import BackendError, ConfigError
from airflow_rankvol.records import Tags
from airflow_rankvol.spec.fields import MAX_TAG_VALUE
from airflow_rankvol.spec.templates import NodeTemplate, ReclaimPolicy, VolumeTemplate

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan, PlannedVolume

log = logging.getLogger(__name__)

#: EC2 User Guide, "Tag restrictions".
MAX_TAGS = 50
_NOT_OURS = ("service_account", "scopes", "network", "network_tags", "external_ip", "accelerator")
_SECRET = re.compile(r"(arn:[\w-]+:(secretsmanager|ssm):\S+|secretsmanager:\S+|ssm:/?\S+|/\S+)")


def check(plan: Plan, ec2: Ec2, places: Places, staging: S3Staging) -> None:
    """Refuse what this account and region cannot do.

    Raises:
        ConfigError: names the field, what was found and what is possible.
        AuthDenied: a right to create volumes or nodes is missing.
    """
    tags = _tags(plan)
    _tell_ignored(plan)
    _check_tag_values(tags)
    _check_templates(plan, tags)
    _check_secrets(plan)
    _check_staging(plan, staging)
    _check_destination(plan)
    _check_reports(plan, ec2)
    _check_snapshots(plan, ec2)
    found = _found(plan, ec2)
    check_owners(plan, found)
    check_subnets(plan, found, lambda template: _zones_of_subnets(template, places))
    zones = zones_of(plan, found, lambda: choose_zone(plan, places))
    machines = check_nodes(plan, places, zones)
    _try_volumes(plan, ec2, tags, zones)
    for template, machine in machines:
        _try_node(ec2, template, machine, tags)


def _tags(plan: Plan) -> Tags:
    run = plan.identity
    return Tags(owner=run.owner, dag=run.dag_id, run=run.run_id, group=run.group, key=plan.key)


def _tell_ignored(plan: Plan) -> None:
    nodes = {"node": plan.job.node, "gather_node": plan.job.gather_node}
    ignored = [f"{where}.{name}" for where, node in nodes.items() if node for name in _NOT_OURS if getattr(node, name)]
    if ignored:
        log.warning("ignored on AWS, because they are Google Cloud's: %s", ", ".join(ignored))


def _check_tag_values(tags: Tags) -> None:
    for name, value in tags.to_dict().items():
        if len(value) > MAX_TAG_VALUE:
            raise ConfigError(
                f"tag {name} would have {len(value)} characters ({value[:40]!r}…); EC2 takes {MAX_TAG_VALUE}. Use a "
                "shorter DAG id, run id or group"
            )


def _check_templates(plan: Plan, tags: Tags) -> None:
    for template, volume in _templates(plan):
        where = f"volume {volume.name}"
        check_bounds(template, where)
        if "Name" in template.tags:
            raise ConfigError(
                f"{where}: tag 'Name' is the volume's name, which the job gives it. Use another key in tags"
            )
        if template.image:
            raise ConfigError(f"{where}: image={template.image!r}; an EBS volume starts blank or from a snapshot")
        if volume.reclaim is ReclaimPolicy.SNAPSHOT:
            raise ConfigError(f"{where}: reclaim='snapshot' is not there yet on AWS. Use 'retain' to keep the volume")
        count = len(volume_tags(_volume_request(volume, None, tags)))
        if count > MAX_TAGS:
            raise ConfigError(f"{where}: {count} tags, ours included; EC2 takes {MAX_TAGS}. Leave some out of tags")


def _templates(plan: Plan) -> Iterator[tuple[VolumeTemplate, PlannedVolume]]:
    """Return each mount's template with one of its volumes: the ranks' differ in nothing but their names."""
    seen: set[int] = set()
    for volume in plan.volumes():
        if volume.mount_index not in seen:
            seen.add(volume.mount_index)
            yield volume.template, volume


def _check_secrets(plan: Plan) -> None:
    job = plan.job
    for name, secret in job.secret_env.items():
        if not _SECRET.fullmatch(secret):
            raise ConfigError(
                f"secret_env.{name}: {secret!r} was found; expected an ARN of Secrets Manager or SSM, "
                "secretsmanager:NAME, ssm:NAME or /NAME"
            )
    for where, template in (("node", job.node), ("gather_node", job.gather_node)):
        if job.secret_env and template is not None and not template.instance_profile:
            raise ConfigError(
                f"{where}.instance_profile is not set; the node reads secret_env by it. Name a profile that may read "
                f"{', '.join(job.secret_env.values())}"
            )


def _check_staging(plan: Plan, staging: S3Staging) -> None:
    place = plan.job.staging
    if place and not place.startswith("s3://"):
        raise ConfigError(f"staging: {place!r} was found; nodes on EC2 fetch files from S3: 's3://bucket/prefix'")
    if place and plan.job.files:
        staging.check_place(place)


def _check_destination(plan: Plan) -> None:
    job = plan.job
    if not job.destination:
        return
    if not job.destination.startswith("s3://"):
        raise ConfigError(f"destination: {job.destination!r}; nodes on EC2 copy results to S3: 's3://bucket/prefix'")
    where, template = ("gather_node", job.gather_node) if job.gather_node else ("node", job.node)
    if not template.instance_profile:
        raise ConfigError(
            f"{where}.instance_profile is not set; the gather node writes to {job.destination} by it. Name a profile "
            "that may put objects there"
        )


def _check_reports(plan: Plan, ec2: Ec2) -> None:
    for where, template in (("node", plan.job.node), ("gather_node", plan.job.gather_node)):
        if template is not None:
            RunCommand(ec2).check(template, where)


def _check_snapshots(plan: Plan, ec2: Ec2) -> None:
    wanted = [(str(template.snapshot), template, volume) for template, volume in _templates(plan) if template.snapshot]
    if not wanted:
        return
    ids = sorted({snapshot for snapshot, _, _ in wanted})
    found = ec2.pages(
        "DescribeSnapshots", "Snapshots", "check", ", ".join(ids), Filters=filters(snapshot_id=ids), MaxResults=1000
    )
    sizes = {raw["SnapshotId"]: raw["VolumeSize"] for raw in found}
    for snapshot, template, volume in wanted:
        if snapshot not in sizes:
            raise ConfigError(f"volume {volume.name}: there is no snapshot {snapshot} in region {ec2.clients.region}")
        if template.size_gib < sizes[snapshot]:
            raise ConfigError(
                f"volume {volume.name}: size {template.size}; snapshot {snapshot} needs at least {sizes[snapshot]} GiB"
            )


def _found(plan: Plan, ec2: Ec2) -> dict[str, FoundVolume]:
    """Return the plan's volumes that are there. One is adopted by its name; EC2 lets many have the same."""
    raws = ec2.volumes_named(frozenset(plan.volume_names), "check", "names")
    if len(plan.volume_names) < len(list(plan.volumes())):
        # What was made of the others carries a key of theirs: of a run that is cleared, or in dag scope.
        raws += ec2.volumes("check", "volumes", filters(tag_owner=plan.identity.owner, tag_key=plan.keys))
    found = by_name(volume_of(raw) for raw in raws)
    for name in plan.volume_names:
        ids = found.get(name, {})
        if len(ids) > 1:
            raise ConfigError(
                f"volume {name}: {len(ids)} volumes have that name ({', '.join(sorted(ids))}); expected one at most. "
                "Rename the others, or the volume in the job"
            )
    return {name: next(iter(volumes.values())) for name, volumes in found.items()}


def _zones_of_subnets(template: NodeTemplate, places: Places) -> Collection[str]:
    subnets = template.subnets
    return subnets if isinstance(subnets, dict) else places.subnet_zones([subnets or ""]).values()


def _volume_request(volume: PlannedVolume, zone: str | None, tags: Tags) -> VolumeRequest:
    return VolumeRequest(volume.name, zone, volume.template, tags, token="check")  # noqa: S106 - an idempotency token


def _try_volumes(plan: Plan, ec2: Ec2, tags: Tags, zones: dict[int, str]) -> None:
    for _, volume in _templates(plan):
        parameters = creation(_volume_request(volume, None, tags), zones[volume.rank])
        _dry_run(ec2, "CreateVolume", volume.name, parameters)


def _try_node(ec2: Ec2, template: NodeTemplate, machine: Machine, tags: Tags) -> None:
    request = NodeRequest("check", machine.zone, template, tags, (), "", 0.0, "check")
    kinds = (("instance", node_tags(request)), ("volume", root_tags(request)))
    specification = [{"ResourceType": kind, "Tags": tag_list(found)} for kind, found in kinds]
    parameters = {**shape(template, machine), "MinCount": 1, "MaxCount": 1, "TagSpecifications": specification}
    _dry_run(ec2, "RunInstances", f"{machine.type} in {machine.zone}", parameters)


def _dry_run(ec2: Ec2, action: str, resource: str, parameters: dict[str, Any]) -> None:
    """Ask whether a call would be allowed. The token is left out: a dry run must not use one up."""
    wanted = {name: value for name, value in parameters.items() if name != "ClientToken"}
    try:
        ec2.call(action, "check", resource, **wanted, DryRun=True)
    except BackendError as exc:
        if code(exc) != "DryRunOperation":  # "Request would have succeeded, but DryRun flag is set"
            raise

"""What the volumes and the nodes of a job look like, apart from their names."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.fields import (
    Alternatives,
    Duration,
    Model,
    NotNegative,
    Positive,
    Price,
    Size,
    Tags,
    Text,
    Texts,
    plain_text,
)
from airflow_rankvol.spec.naming import Naming, Scope
from airflow_rankvol.spec.sizes import parse_size_gib

__all__ = ["PARTIAL", "Naming", "NodeTemplate", "ReclaimPolicy", "ReportChannel", "Scope", "VolumeTemplate"]

#: Validation context of a template that a base will complete: its fields are checked, their combination not.
PARTIAL = {"partial": True}


class ReclaimPolicy(StrEnum):
    """What becomes of a volume at the end of its job."""

    DELETE = "delete"
    DELETE_ALWAYS = "delete_always"
    RETAIN = "retain"
    SNAPSHOT = "snapshot"


class VolumeTemplate(Model):
    """One volume, whatever its rank.

    Sizes are kept in one spelling (``1024GB`` is ``1TB``), so that equal templates compare equal. ``iops``
    counts operations per second, ``throughput`` MiB per second. ``snapshot`` and ``image`` name what the
    volume starts from; it starts blank without them. ``expiry`` is how long a volume stays whose results were
    not collected.
    """

    size: Size = "10GB"
    type: Text | None = None
    iops: Positive | None = None
    throughput: Positive | None = None
    encrypted: bool = True
    kms_key: Text | None = None
    snapshot: Text | None = None
    image: Text | None = None
    tags: Tags = Field(default_factory=dict)
    naming: Naming = Naming.SUFFIX
    scope: Scope = Scope.RUN
    reclaim: ReclaimPolicy | None = None
    expiry: Duration = timedelta(hours=24)
    delete_adopted: bool = False

    @property
    def size_gib(self) -> int | float:
        """The size in GiB, an int where it is a whole number."""
        return parse_size_gib(self.size)

    @property
    def effective_reclaim(self) -> ReclaimPolicy:
        """The reclaim policy, or its scope's default: ``delete`` for run, ``retain`` for dag and global."""
        if self.reclaim is not None:
            return self.reclaim
        return ReclaimPolicy.DELETE if self.scope is Scope.RUN else ReclaimPolicy.RETAIN

    @model_validator(mode="after")
    def _check_combination(self, info: ValidationInfo) -> Self:
        if info.context and info.context.get("partial"):
            return self
        if self.snapshot and self.image:
            raise ConfigError("snapshot and image are both set; a volume starts from one of them")
        if self.kms_key and not self.encrypted:
            raise ConfigError("kms_key is set with encrypted=False; a key needs an encrypted volume")
        if self.delete_adopted and self.scope is not Scope.GLOBAL:
            raise ConfigError(
                f"delete_adopted is set with scope '{self.scope}'; only 'global' volumes are ever adopted"
            )
        if self.delete_adopted and self.reclaim is ReclaimPolicy.RETAIN:
            raise ConfigError("delete_adopted contradicts reclaim='retain'; say reclaim='delete', or leave one out")
        return self


class ReportChannel(StrEnum):
    """How a node's report reaches the backend, where there is a choice."""

    CONSOLE = "console"
    SSM = "ssm"


def _subnets(value: object) -> object:
    """Take one subnet, or one for every zone."""
    if value is None or isinstance(value, str):
        return value if value is None else plain_text(value)
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{value!r} was found; a subnet, or a mapping of zones to subnets, is expected")
    for zone, subnet in value.items():
        if not isinstance(zone, str) or not isinstance(subnet, str):
            raise ConfigError(f"zone {zone!r} has the subnet {subnet!r}; texts are expected")
        plain_text(zone)
        plain_text(subnet)
    return dict(value)


class NodeTemplate(Model):
    """One node, whatever its rank.

    Rank r lies in ``zones[r % len(zones)]``; without ``zones``, those of ``subnets`` count. ``machine_type`` is one
    type, or several in the order of preference (``"c7i.xlarge, m7i.xlarge"``): the next is taken where one cannot be
    had. ``subnets`` is one subnet, or a mapping of zones to theirs. ``instance_profile`` is the identity that the
    node's commands and secrets use, ``key_name`` the key pair that may log in. ``spot`` asks for spare capacity, for
    at most ``max_price`` an hour. ``root_size`` and ``root_type`` are those of the disk that the node boots from.
    On Google Cloud a node has the identity ``service_account``, limited to ``scopes``, lies in ``network``, which knows
    it by ``network_tags``, has a public address with ``external_ip``, and ``gpus_per_node`` of ``accelerator``.
    ``report`` is the channel that the node reports through; with ``ssm``, the commands' output is kept in
    ``report_output`` (``s3://bucket/prefix``) and in the CloudWatch log group ``report_log_group``. ``lifetime`` caps a
    node whatever its commands do; ``boot_timeout`` is how long it may take to come up and to get its volumes.
    """

    machine_type: Alternatives | None = None
    image: Text | None = None
    zones: Texts = ()
    subnets: Annotated[str | dict[str, str] | None, BeforeValidator(_subnets)] = None
    security_groups: Texts = ()
    instance_profile: Text | None = None
    key_name: Text | None = None
    spot: bool = False
    max_price: Price | None = None
    service_account: Text | None = None
    scopes: Texts = ()
    network: Text | None = None
    network_tags: Texts = ()
    external_ip: bool = False
    accelerator: Text | None = None
    root_size: Size | None = None
    root_type: Text | None = None
    report: ReportChannel = ReportChannel.CONSOLE
    report_output: Text | None = None
    report_log_group: Text | None = None
    gpus_per_node: NotNegative = 0
    lifetime: Duration = timedelta(hours=24)
    boot_timeout: Duration = timedelta(minutes=10)
    tags: Tags = Field(default_factory=dict)

    @property
    def machine_types(self) -> tuple[str, ...]:
        """The machine types in the order of preference; none where the backend has to choose."""
        return tuple(self.machine_type.split(", ")) if self.machine_type else ()

    @property
    def root_size_gib(self) -> int | float | None:
        """The boot disk's size in GiB, an int where it is a whole number; None where the image decides."""
        return None if self.root_size is None else parse_size_gib(self.root_size)

    @property
    def effective_zones(self) -> tuple[str, ...]:
        """The zones that ranks go round: ``zones``, or those that ``subnets`` names."""
        return self.zones or (tuple(self.subnets) if isinstance(self.subnets, dict) else ())

    def zone_of(self, rank: int) -> str | None:
        """The zone of a rank, or None where the backend may choose."""
        zones = self.effective_zones
        return zones[rank % len(zones)] if zones else None

    def subnet_of(self, zone: str | None) -> str | None:
        """The subnet of a node in a zone, or None where the backend may choose."""
        return self.subnets.get(zone or "") if isinstance(self.subnets, dict) else self.subnets

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.scopes and not self.service_account:
            raise ConfigError("scopes is set without service_account; scopes limit what a service account may use")
        if self.accelerator and not self.gpus_per_node:
            raise ConfigError("accelerator is set with gpus_per_node=0; say how many of them a node gets")
        return self

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.max_price and not self.spot:
            raise ConfigError("max_price is set with spot=False; only spot nodes have a maximum price")
        if self.report is not ReportChannel.SSM:
            for name in ("report_output", "report_log_group"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name} is set with report={str(self.report)!r}; only Run Command keeps output. Set "
                        "report='ssm', or leave it out"
                    )
        if isinstance(self.subnets, dict):
            without = [zone for zone in self.zones if zone not in self.subnets]
            if without:
                raise ConfigError(
                    f"subnets has none for zone {', '.join(without)}; found some for {', '.join(self.subnets)}. "
                    "Add it, or leave the zone out of zones"
                )
        return self

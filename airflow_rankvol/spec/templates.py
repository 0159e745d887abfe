"""What the volumes and the nodes of a job look like, apart from their names."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.fields import Duration, Model, NotNegative, Positive, Size, Tags, Text
from airflow_rankvol.spec.naming import Naming, Scope
from airflow_rankvol.spec.sizes import parse_size_gib

__all__ = ["PARTIAL", "Naming", "NodeTemplate", "ReclaimPolicy", "Scope", "VolumeTemplate"]

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


def _zones(value: object) -> object:
    return tuple(zone.strip() for zone in value.split(",")) if isinstance(value, str) else value


class NodeTemplate(Model):
    """One node, whatever its rank.

    Rank r lies in ``zones[r % len(zones)]``. ``lifetime`` caps a node whatever its commands do;
    ``boot_timeout`` is how long it may take to come up and to get its volumes.
    """

    machine_type: Text | None = None
    image: Text | None = None
    zones: Annotated[tuple[Text, ...], BeforeValidator(_zones)] = ()
    gpus_per_node: NotNegative = 0
    lifetime: Duration = timedelta(hours=24)
    boot_timeout: Duration = timedelta(minutes=10)
    tags: Tags = Field(default_factory=dict)

    def zone_of(self, rank: int) -> str | None:
        """The zone of a rank, or None where the backend may choose."""
        return self.zones[rank % len(self.zones)] if self.zones else None

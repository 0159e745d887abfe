"""What the contract's bodies have on every cloud's double: a volume lies in a zone and takes whole GiB."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from airflow_rankvol.backends.base import NodeRequest, VolumeRequest
from airflow_rankvol.engine.bootstrap import BootSpec
from airflow_rankvol.records import Volume
from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate
from tests.contract.support import Lab, until


def token(text: str) -> str:
    """Return an idempotency token, as the engine makes them: one for each thing that is asked for."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class CloudLab(Lab):
    """A lab on a double."""

    def volume(self, rank: int = 0, name: str = "data", size: str = "1GB") -> Volume:
        tags = self.group.tags(rank=rank)
        template = VolumeTemplate(size=size)
        made = self.backend.create_volume(
            VolumeRequest(f"{name}-{rank}", None, template, tags, token(f"{self.key}{name}{rank}"))
        )
        until(lambda: self._state(made) not in ("", "creating"), f"{made.label} never came up")
        return made

    def _state(self, volume: Volume) -> str:
        seen = self.see().volume(volume.id)
        return str(seen.state) if seen else ""

    def request(self, spec: BootSpec) -> NodeRequest:
        plain = super().request(spec)
        zones = [v.zone for v in self.see().volumes if v.id in {item.volume_id for item in spec.attachments}]
        return replace(plain, zone=next(iter(zones), None), template=self.template(), token=token(plain.name))

    def template(self) -> NodeTemplate:
        """Return the template of the lab's nodes, which have an identity."""
        raise NotImplementedError

    def clear(self) -> None:
        super().clear()
        until(lambda: not self._left(), f"left: {self._left()}")

    def _left(self) -> list[str]:
        """Return what exists, whoever asked for it."""
        raise NotImplementedError

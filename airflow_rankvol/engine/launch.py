"""From a job to the requests that launch its nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from airflow_rankvol.backends.base import NodeRequest, Stager
from airflow_rankvol.engine.bootstrap import BootSpec, render
from airflow_rankvol.engine.staging import FETCH_S, StagedFile, key_of, sha256, to_stage
from airflow_rankvol.engine.views import gang_nodes, own_node, rank_of
from airflow_rankvol.engine.whose import check_still_ours
from airflow_rankvol.engine.work import Work, node_name, record_identity
from airflow_rankvol.errors import ConfigError, GatherIncomplete
from airflow_rankvol.plan import job_digest
from airflow_rankvol.records import Attachment, Observation, Role, Slot, ranks_text, to_iso
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.spec.naming import interpolate_braces, variables
from airflow_rankvol.spec.templates import NodeTemplate


@dataclass(frozen=True, slots=True)
class Launcher:
    """What is needed to launch any node of one job; lives in the task, never in a trigger.

    Args:
        files: content of every file of the job by its name on the node.
        slots: every rank's slot for gather and when the nodes start together, else only the task's own.
        succeeded: for gather, the ranks whose tasks succeeded; None stands for all. Only their volumes are read: what
            an earlier attempt of a rank that failed later left there does not count.
        stager: the backend's; None where a start script takes files of any size.
    """

    job: RankJob
    files: Mapping[str, bytes]
    slots: tuple[Slot, ...]
    platform: str
    succeeded: frozenset[int] | None = None
    stager: Stager | None = None

    def requests(self, work: Work, observation: Observation) -> list[NodeRequest]:
        """Return the launch request of this work's node; in a gang that has it, those of all nodes that are missing."""
        if work.role is Role.GATHER:
            return [self._gather(work, observation)]
        slots = work.slots
        if work.rendezvous and own_node(work, observation):
            there = {rank_of(node) for node in gang_nodes(work, observation)}
            slots = tuple(slot for slot in self.slots if slot.rank not in there)
        return [self._rank(work, slot, observation) for slot in slots]

    def _rank(self, work: Work, slot: Slot, observation: Observation) -> NodeRequest:
        job = self.job
        check_still_ours(work, slot, observation)
        attachments = tuple(
            Attachment(
                volume_id=volume.id,
                name=volume.name,
                path=volume.path,
                rank=slot.rank,
                may_format=not volume.adopted and self._made_blank(work, volume.id, observation),
            )
            for volume in slot.volumes
        )
        spec = BootSpec(
            role=Role.RANK,
            rank=slot.rank,
            nodes=slot.nodes,
            attempt=work.attempt,
            key=work.group.key,
            identity=record_identity(work.group),
            digest=job_digest(job, self.files),
            attachments=attachments,
            commands=self._texts(job.commands, slot),
            files=self.files,
            env={name: self._text(value, slot) for name, value in job.env.items()},
            secret_env=dict(job.secret_env),
            gpus_per_node=job.node.gpus_per_node,
            lifetime_s=work.lifetime_s,
            rendezvous=work.rendezvous,
            reuse=not work.rendezvous,
        )
        return self._request(work, spec, slot.rank, slot.zone, job.node)

    def _gather(self, work: Work, observation: Observation) -> NodeRequest:
        job = self.job
        template = job.gather_node or job.node
        missing = self._left_out(work, observation)
        for slot in work.slots:
            if slot.rank not in missing:
                check_still_ours(work, slot, observation)
        attachments = tuple(
            Attachment(volume_id=v.id, name=v.name, path=v.path, rank=slot.rank, read_only=True)
            for slot in work.slots
            if slot.rank not in missing
            for v in slot.volumes
        )
        spec = BootSpec(
            role=Role.GATHER,
            rank=work.rank,
            nodes=work.nodes,
            attempt=work.attempt,
            key=work.group.key,
            identity=record_identity(work.group),
            digest=job_digest(job, self.files),
            attachments=attachments,
            commands=tuple(interpolate_braces(text, rank=0, nodes=work.nodes) for text in job.gather),
            files=self.files,
            env={**self._gather_env(work.nodes), "GATHER_PART": str(work.part), "GATHER_PARTS": str(work.parts)},
            secret_env=dict(job.secret_env),
            gpus_per_node=template.gpus_per_node,
            lifetime_s=work.lifetime_s,
            missing=missing,
            allow_missing=job.allow_missing,
            destination=job.destination or "",
            collect=job.collect,
            parts=work.parts,
        )
        return self._request(work, spec, work.rank, work.slots[0].zone, template)

    def _left_out(self, work: Work, observation: Observation) -> tuple[int, ...]:
        absent = {slot.rank for slot in work.slots if any(not observation.volume(v.id) for v in slot.volumes)}
        if self.succeeded is None:
            return tuple(sorted(absent))
        if absent & self.succeeded:
            ranks = sorted(absent & self.succeeded)
            raise GatherIncomplete(
                f"rank {ranks_text(ranks)} had succeeded, but its volume is gone. Clear the whole task group to "
                "compute everything again",
                missing=ranks,
            )
        return tuple(slot.rank for slot in self.slots if slot.rank not in self.succeeded)

    def _request(self, work: Work, spec: BootSpec, rank: int, zone: str | None, template: NodeTemplate) -> NodeRequest:
        name = node_name(work.group, work.role, rank, work.attempt, work.handout)
        spec = replace(
            spec,
            report=template.report,
            report_output=template.report_output or "",
            report_log_group=template.report_log_group or "",
        )
        tags = work.group.tags(
            rank=rank,
            attempt=work.attempt,
            handout=work.handout,
            role=str(work.role),
            expiry=to_iso(work.deadline),
            scope="run",
        )
        return NodeRequest(
            name=name,
            zone=zone,
            template=template,
            tags=tags,
            attachments=spec.attachments,
            script=self._script(work, spec),
            lifetime_s=work.lifetime_s,
            token=hashlib.sha256(f"{work.group.owner}/{name}".encode()).hexdigest(),
        )

    def _script(self, work: Work, spec: BootSpec) -> str:
        """Render a node's script; where it is too long with the small files in it, all of them are staged."""
        if self.stager is None or not self.job.staging:
            return self._checked(spec)
        try:
            return self._checked(self._staged(work, spec, to_stage(self.files)))
        except ConfigError:
            return self._checked(self._staged(work, spec, self.files))

    def _checked(self, spec: BootSpec) -> str:
        script = render(spec, self.platform)
        if self.stager:
            self.stager.check_script(script)
        return script

    def _staged(self, work: Work, spec: BootSpec, names: Collection[str]) -> BootSpec:
        files: dict[str, bytes | StagedFile] = dict(self.files)
        for name in names:
            content = self.files[name]
            assert self.stager is not None  # noqa: S101 - _script asks
            assert self.job.staging is not None  # noqa: S101
            key = key_of(work.group.owner, content)
            url = self.stager.stage(self.job.staging, key, content, work.boot_timeout_s + FETCH_S)
            files[name] = StagedFile(url, sha256(content))
        return replace(spec, files=files)

    @staticmethod
    def _made_blank(work: Work, volume_id: str, observation: Observation) -> bool:
        """Say whether this very run created the volume blank; nothing else may ever be formatted."""
        volume = observation.volume(volume_id)
        tags = volume.tags if volume else None
        return bool(volume and tags and volume.blank and tags.key in work.group.keys and tags.made_by(work.group))

    def _gather_env(self, nodes: int) -> dict[str, str]:
        """Return the variables that make sense without a rank; those that mention one are left out."""
        return {
            name: interpolate_braces(value, rank=0, nodes=nodes)
            for name, value in self.job.env.items()
            if all(found.quantity != "rank" for found in variables(value, braces_only=True))
        }

    def _text(self, text: str, slot: Slot) -> str:
        return interpolate_braces(text, rank=slot.rank, nodes=slot.nodes)

    def _texts(self, texts: tuple[str, ...], slot: Slot) -> tuple[str, ...]:
        return tuple(self._text(text, slot) for text in texts)

"""Which node holds which volume: one at a time, and only while it lives."""

from __future__ import annotations

from airflow_rankvol.backends import _local_disk as disk
from airflow_rankvol.backends._local_life import Lives
from airflow_rankvol.backends._local_store import NodeFile, Store, VolumeFile
from airflow_rankvol.backends.base import NodeRequest
from airflow_rankvol.errors import BackendError, FinalError, NotReady, VolumeBusy, VolumeConflict
from airflow_rankvol.records import Tags


class Holding:
    """Enforces single attachment. Whoever takes or deletes a volume holds the store's lock."""

    def __init__(self, store: Store, lives: Lives) -> None:
        self._store = store
        self._lives = lives

    def of(self, volume_id: str) -> NodeFile | None:
        """Return the live node that holds a volume; a dead one holds nothing."""
        nodes = (node for node in self._store.nodes() if volume_id in node.volumes)
        return next((node for node in nodes if self._lives.is_live(node)), None)

    def take(self, request: NodeRequest) -> list[VolumeFile]:
        """Return the volumes that a new node asks for.

        Raises:
            FinalError: one does not exist.
            VolumeConflict: a live node of another run holds one.
            VolumeBusy: a live node of this run holds one, or the kernel is still flushing it.
        """
        found = []
        for attachment in request.attachments:
            volume = self._store.volume(attachment.volume_id)
            if volume is None:
                raise _error(FinalError, "create_node", f"{attachment.name} ({attachment.volume_id})", "no such volume")
            self.check_free(volume, "create_node", asked_by=request.tags)
            found.append(volume)
        return found

    def check_free(self, volume: VolumeFile, verb: str, *, asked_by: Tags | None = None) -> None:
        """Raise VolumeBusy when a live node holds the volume, VolumeConflict when it is of another run."""
        for node_id, broken in self._store.broken_nodes().items():
            if self._lives.may_run(node_id):  # and nothing tells which volumes it holds
                raise broken
        holder = self.of(volume.id)
        if holder is None:
            loops = disk.loops_of(disk.disk_path(self._store.volume_dir(volume.id), volume.mode))
            if loops:
                raise _error(VolumeBusy, verb, _label(volume), f"{', '.join(loops)} still uses its image")
            return
        tags = Tags.from_dict(holder.tags)
        owner = f"node {holder.name} ({holder.id}) of run {tags.run if tags else '?'}"
        if asked_by and tags and (tags.dag, tags.run) != (asked_by.dag, asked_by.run):
            text = f"held by the live {owner}, expected free. Wait for that run to end"
            raise _error(VolumeConflict, verb, _label(volume), text)
        raise _error(
            VolumeBusy,
            verb,
            _label(volume),
            f"held by the live {owner}, expected free. Delete that node first",
        )

    def attach(self, volume_id: str, node_id: str) -> None:
        """Succeed when the node holds the volume already."""
        volume, node = self._store.volume(volume_id), self._store.node(node_id)
        if volume is None or node is None:
            missing = volume_id if volume is None else node_id
            raise _error(FinalError, "attach", missing, "it does not exist")
        holder = self.of(volume_id)
        if holder is None:
            text = f"node {node.name} ({node_id}) did not get it at its launch, or has ended"
            raise _error(NotReady, "attach", _label(volume), text)
        if holder.id != node_id:
            self.check_free(volume, "attach")


def _label(volume: VolumeFile) -> str:
    return f"volume {volume.name} ({volume.id})"


def _error(kind: type[BackendError], verb: str, resource: str, text: str) -> BackendError:
    return kind(text, backend="local", verb=verb, resource=resource)

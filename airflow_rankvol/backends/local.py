"""A small cloud on this machine: volumes are ext4 images or directories, nodes are processes.

Everything lies below one state directory, outlives the process that made it, and can be used by several at
once.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from airflow_rankvol.backends import _local_disk as disk
from airflow_rankvol.backends import _local_linux as linux
from airflow_rankvol.backends import _local_trash as trash
from airflow_rankvol.backends._local_holding import Holding
from airflow_rankvol.backends._local_launch import prepare, seen, start
from airflow_rankvol.backends._local_life import Lives
from airflow_rankvol.backends._local_log import read_part
from airflow_rankvol.backends._local_store import NodeFile, Store, VolumeFile, mapped, new_id, write_json
from airflow_rankvol.backends._local_tags import tag
from airflow_rankvol.backends.base import Clock, Guard, LogPart, NodeRequest, Selector, VolumeRequest
from airflow_rankvol.errors import BackendError, VolumeConflict
from airflow_rankvol.records import Group, Node, NodeState, Observation, Tags, Volume, to_iso

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan
    from airflow_rankvol.spec.templates import NodeTemplate

Mode = Literal["auto", "image", "directory"]
Isolation = Literal["auto", "namespace", "process"]


class LocalBackend:
    """Volumes and nodes on this machine.

    Args:
        state_dir: where everything lies.
        mode: what new volumes are: ``image`` (a size that holds; needs root and loop devices), ``directory``,
            or ``auto``, which tries. A volume keeps the mode that it was made in.
        isolation: whether a node has mounts and pids of its own: ``namespace``, ``process`` (it has not), or
            ``auto``, which tries.
    """

    name = "local"
    platform = "local"
    supports_rendezvous = True
    concurrency = 1
    listing_lag_s = 0.0
    stager = None  # a start script is a file here, of any size

    def __init__(
        self,
        state_dir: Path,
        mode: Mode = "auto",
        clock: Clock | None = None,
        poll_interval_s: float = 0.2,
        isolation: Isolation = "auto",
    ) -> None:
        self.state_dir = Path(state_dir).absolute()
        self.mode = mode
        self.clock = clock or Clock()
        self.poll_interval_s = poll_interval_s
        #: Reading costs nothing here, but showing does.
        self.log_interval_s: float | None = 5 * poll_interval_s
        self.isolation = isolation
        self.store = Store(self.state_dir)
        self.lives = Lives(self.store)
        self.holding = Holding(self.store, self.lives)

    def __repr__(self) -> str:
        return f"LocalBackend({str(self.state_dir)!r}, mode={self.mode!r})"

    def default_owner(self) -> str:
        """Return an owner that stands for the state directory."""
        return f"local-{hashlib.sha256(os.fsencode(self.state_dir.resolve())).hexdigest()[:12]}"

    @property
    def where(self) -> str:
        """The state directory."""
        return str(self.state_dir)

    def check(self, plan: Plan) -> None:
        """Refuse what this machine cannot do, or would do differently from what was asked."""
        from airflow_rankvol.backends._local_check import check

        check(plan, self.state_dir, self.mode)

    def max_volumes(self, template: NodeTemplate) -> int | None:  # noqa: ARG002 - every node here is alike
        """Return how many volumes a node can hold: any number here."""
        return None

    def choose_zone(self, plan: Plan) -> None:
        """Return None: a machine has no zones."""

    def observe(self, group: Group) -> Observation:
        """Return the group's volumes and nodes, and the volumes of ``group.names``."""

        def ours(raw: Mapping[str, str]) -> bool:
            return raw.get("rankvol:owner") == group.owner and raw.get("rankvol:key") in group.keys

        nodes = self.store.nodes()
        volumes = [item for item in self.store.volumes() if ours(item.tags) or item.name in group.names]
        return self._observation(volumes, [item for item in nodes if ours(item.tags)], nodes)

    def list_owned(self, selector: Selector) -> Observation:
        """Return what carries the owner's tags; clear what dead processes left on their way in or out."""
        with mapped("list_owned", str(self.state_dir)):
            self.store.sweep()
        wanted = {"rankvol:owner": selector.owner, "rankvol:dag": selector.dag, "rankvol:run": selector.run}

        def ours(raw: Mapping[str, str]) -> bool:
            return all(value is None or raw.get(tag) == value for tag, value in wanted.items())

        nodes = self.store.nodes()
        volumes = [item for item in self.store.volumes() if ours(item.tags)]
        return self._observation(volumes, [item for item in nodes if ours(item.tags)], nodes)

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create a blank volume; the one of the same name and key is returned when it exists."""
        template = request.template
        with mapped("create_volume", request.name):
            mode = self._new_mode()
            with self.store.lock():
                found = self._by_name(request.name)
                if found is None:
                    self.store.sweep()
                    found = VolumeFile(
                        id=new_id("vol"),
                        name=request.name,
                        size_gib=template.size_gib,
                        type=template.type or mode,
                        created_at=to_iso(self.clock.now()),
                        mode=mode,
                        tags=request.tags.to_dict(),
                    )
                    self._add(found)
                elif not _same_owner(Tags.from_dict(found.tags), request.tags):
                    raise VolumeConflict(
                        f"the name is taken by {found.id} with the tags {dict(found.tags)}; expected "
                        f"none, or key {request.tags.key!r}. Choose another name, or scope='global'",
                        backend=self.name,
                        verb="create_volume",
                        resource=request.name,
                    )
        return found.seen(self.holding.of(found.id))

    def add_untagged_volume(self, name: str, size_gib: float) -> Volume:
        """Create a blank volume as somebody does by hand: without our tags, to be adopted by its name."""
        mode = self._new_mode()
        with mapped("add_untagged_volume", name), self.store.lock():
            if self._by_name(name):
                raise VolumeConflict("the name is taken", backend=self.name, verb="create_volume", resource=name)
            item = VolumeFile(new_id("vol"), name, size_gib, mode, to_iso(self.clock.now()), mode, {})
            self._add(item)
        return item.seen(None)

    def delete_volume(self, volume_id: str, guard: Guard) -> None:
        """Delete a volume; absent is success."""
        with mapped("delete_volume", volume_id):
            with self.store.lock():
                item = self.store.volume(volume_id)
                if item is None:
                    return
                guard.check(tags=Tags.from_dict(item.tags), name=item.name, backend=self.name, verb="delete_volume")
                self.holding.check_free(item, "delete_volume")
                gone = self.store.discard(self.store.volume_dir(volume_id))
            reason = trash.remove(gone)
        if reason:
            text = f"deleted, but its files in {gone} cannot be removed ({reason}). Remove them by hand"
            raise BackendError(text, backend=self.name, verb="delete_volume", resource=item.name)

    def tag_volumes(
        self, volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None
    ) -> frozenset[str]:
        """Set tags on volumes of ours; return the ids of those that are gone."""
        with mapped("tag_volumes", ", ".join(volume_ids)), self.store.lock():
            return tag(self.store, volume_ids, tags, held_by)

    def create_node(self, request: NodeRequest) -> Node:
        """Launch a node with its volumes attached; the one of that name is returned when it exists."""
        with mapped("create_node", request.name):
            with self.store.lock():
                nodes = self.store.nodes()
                known = next((item for item in nodes if item.name == request.name), None)
                if known is not None:
                    return seen(self.store, self.lives, known)
                self.store.sweep()
                volumes = self.holding.take(request)
                made = prepare(self, request, volumes, {item.address for item in nodes})
            # Without the lock: starting takes 30 ms, and a gang starts many at once.
            start(self, made, request.lifetime_s)
        return seen(self.store, self.lives, made)

    def delete_node(self, node_id: str, guard: Guard) -> None:
        """End a node and everything that runs on it; absent is success."""
        item = self.store.node(node_id)
        if item is None:
            return
        guard.check(tags=Tags.from_dict(item.tags), name=item.name, backend=self.name, verb="delete_node")
        with mapped("delete_node", node_id):
            self.lives.end(node_id, self.store.node_dir(node_id))
            with self.store.lock():
                if self.store.node(node_id) is None:
                    return
                self.store.discard(self.store.node_dir(node_id))
            self.store.sweep()

    def attach(self, volume_id: str, node_id: str) -> None:
        """Succeed when the volume is attached there; nodes of this backend get their volumes at launch."""
        self.holding.attach(volume_id, node_id)

    def tell_nodes(self, node_ids: Sequence[str], message: Mapping[str, str]) -> None:
        """Hand variables to nodes that wait for their peers."""
        lines = (f"{name} {base64.b64encode(value.encode()).decode()}\n" for name, value in message.items())
        text = "".join(lines)
        with mapped("tell_nodes", ", ".join(node_ids)), self.store.lock():
            for node_id in node_ids:
                if self.store.node(node_id) is not None:
                    linux.write(str(self.store.node_dir(node_id) / "go"), text)

    def boot_trouble(self, node_id: str, late_since: datetime) -> str:  # noqa: ARG002 - a process that runs is up
        """Return nothing: a node that runs has come up."""
        return ""

    def read_report(self, node_id: str) -> str | None:
        """Return the node's report."""
        try:
            return (self.store.node_dir(node_id) / "report.json").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def holds_result(self, volume_id: str, key: str) -> bool | None:
        """Say whether a completion record lies on a volume that no live node has."""
        with self.store.lock():
            item = self.store.volume(volume_id)
            if item is None:
                return None
            self.holding.check_free(item, "holds_result")
            return disk.holds_record(disk.disk_path(self.store.volume_dir(volume_id), item.mode), key)

    def read_log(self, node_id: str, position: int) -> LogPart:
        """Return what the node wrote to its console from a position on."""
        with mapped("read_log", node_id):
            return read_part(self.store.node_dir(node_id), position)

    def log_text(self, node_id: str) -> str:
        """Return everything that the node wrote to its console."""
        try:
            return (self.store.node_dir(node_id) / "console.log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _observation(
        self, volumes: Sequence[VolumeFile], nodes: Sequence[NodeFile], everyone: Sequence[NodeFile]
    ) -> Observation:
        """Show volumes and nodes at one moment: one look at each node tells its state and what it holds."""
        wanted = {item.id for item in nodes}
        names = {item.id for item in volumes}
        relevant = [item for item in everyone if item.id in wanted or names & set(item.volumes)]
        views = {item.id: seen(self.store, self.lives, item) for item in relevant}
        live = (item for item in relevant if views[item.id].state is not NodeState.ENDED)
        holders = {volume_id: item for item in live for volume_id in item.volumes}
        return Observation(
            volumes=tuple(item.seen(holders.get(item.id)) for item in volumes),
            nodes=tuple(views[item.id] for item in nodes),
        )

    def _by_name(self, name: str) -> VolumeFile | None:
        found = next((item for item in self.store.volumes() if item.name == name), None)
        for broken in self.store.broken_volumes().values():
            if found is None:  # the name may be that volume's
                raise broken
        return found

    def _add(self, item: VolumeFile) -> None:
        with self.store.incoming("volumes", item.id) as folder:
            disk.make_disk(folder, item.mode, item.size_gib)
            write_json(folder / "volume.json", item)

    def _new_mode(self) -> str:
        return disk.pick_mode(self.state_dir) if self.mode == "auto" else self.mode


def _same_owner(found: Tags | None, wanted: Tags) -> bool:
    return found is not None and (found.owner, found.key) == (wanted.owner, wanted.key)

"""EBS volumes: created once, deleted only when ours, attached where they belong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.backends._aws_calls import PAGE, Ec2, code
from airflow_rankvol.backends._aws_claims import check_claim
from airflow_rankvol.backends._aws_creation import creation, volume_tags
from airflow_rankvol.backends._aws_memory import Memory, Raw
from airflow_rankvol.backends._aws_places import DEVICES, Places
from airflow_rankvol.backends._aws_used_up import AGAIN_S, UsedUp
from airflow_rankvol.backends._aws_view import (
    devices_of,
    instance_state,
    name_of,
    our_tags,
    tag_list,
    tags_dict,
    volume_of,
)
from airflow_rankvol.backends.base import Guard, VolumeRequest
from airflow_rankvol.errors import BackendError, FinalError, NotOurs, NotReady, VolumeBusy, VolumeConflict
from airflow_rankvol.records import Tags, Volume


@dataclass(frozen=True, slots=True)
class Volumes:
    """The verbs of volumes."""

    ec2: Ec2
    memory: Memory
    places: Places
    used_up: UsedUp

    def create(self, request: VolumeRequest) -> Volume:
        """Create a volume, or return the one of that name and key."""
        found = self._find(request, known=True)
        if found is not None:
            return volume_of(found)
        raw = self._create(request, request.zone or self._zone(request.tags))
        raw = {**raw, "Tags": raw.get("Tags") or tag_list(volume_tags(request))}
        self.memory.made_volume(raw)
        return volume_of(raw)

    def delete(self, volume_id: str, guard: Guard) -> None:
        """Start deleting a volume of ours."""
        raw = self.memory.volume(volume_id) or self.ec2.volume(volume_id, "delete_volume")
        if raw is None:
            return
        name = name_of(raw) or volume_id
        guard.check(tags=our_tags(raw), name=name, backend="aws", verb="delete_volume")
        try:
            self.ec2.call("DeleteVolume", "delete_volume", f"{name} ({volume_id})", VolumeId=volume_id)
        except BackendError as exc:
            # EC2 does not know a volume for a moment after it was made: then it is not gone.
            if code(exc) != "InvalidVolume.NotFound" or self.memory.just_made(volume_id):
                raise
        self.memory.forget_volume(volume_id)

    def tag(self, volume_ids: Sequence[str], tags: Mapping[str, str]) -> frozenset[str]:
        """Set tags on volumes of ours; return the ids of those that are gone."""
        known = {volume_id: self.memory.volume(volume_id) for volume_id in volume_ids}
        unknown = [volume_id for volume_id, raw in known.items() if raw is None]
        known |= self._look(unknown)
        ids = self._ours(known)
        try:
            self._tag(ids, tags)
        except BackendError as exc:
            if code(exc) != "InvalidVolume.NotFound":
                raise
            # One that is gone spoils the call for all of them; one that is new may not be known yet.
            left = self._ours(self._look(ids))
            gone = set(ids) - set(left)
            if not gone or any(map(self.memory.just_made, gone)):
                raise
            self._tag(left, tags)
            ids = left
        return frozenset(volume_ids).difference(ids)

    def claim(self, volume_ids: Sequence[str], tags: Mapping[str, str], held_by: str) -> None:
        """Set tags on volumes of ours while nobody else has them: EC2 cannot compare and set at once.

        So they are looked at right before, and once more right after, for what another one set in between.
        """
        found = self._look(volume_ids)
        check_claim(self.memory, volume_ids, filter(None, found.values()), held_by, tags)
        self._tag(self._ours(found), tags)
        # Not by _look: what was set, EC2 may show a moment later, and the memory knows it already.
        after = self.ec2.volumes_by("volume-id", volume_ids, "tag_volumes", ", ".join(volume_ids))
        check_claim(self.memory, volume_ids, after, held_by, tags)

    def attach(self, volume_id: str, node_id: str) -> None:
        """Attach a volume to a running node, unless that is done or under way."""
        node = self.memory.node(node_id) or self.ec2.node(node_id, "attach")
        volume = self.memory.volume(volume_id) or self.ec2.volume(volume_id, "attach")
        under_way = self.memory.attaching(volume_id)
        if under_way and under_way.node_id == node_id:
            return
        if volume is None or node is None or instance_state(node) != "running":
            state = "absent" if node is None else instance_state(node)
            raise _error(NotReady, "attach", volume_id, f"node {node_id} is {state}, the volume "
                         f"{'absent' if volume is None else volume.get('State')}; it is tried again")  # fmt: skip
        holder = volume_of(volume).attached_to
        if holder == node_id:
            return
        if holder:
            raise _error(VolumeBusy, "attach", volume_id, f"it is attached to {holder}; expected it to be free")
        _check_zone(volume, node)
        self._attach(volume_id, node)

    def _find(self, request: VolumeRequest, *, known: bool) -> Raw | None:
        """Return the volume of a request's name and key; look EC2 up unless a short while ago somebody did.

        Names of run and dag scope hold their key, so one look-up finds all of a group; other names are looked up one
        by one, unless ``observe`` did that for all of them.
        """
        key = request.tags.key
        name = f"name:{request.name}"
        what, pattern = (f"key:{key}", f"*{key}*") if key in request.name else (name, request.name)
        if not known or (self.memory.is_due(what) and self.memory.is_due(name)):
            self.memory.saw_volumes(
                self.ec2.volumes("create_volume", request.name, [{"Name": "tag:Name", "Values": [pattern]}])
            )
            self.memory.looked_up([what])
        return self._seen(request)

    def _seen(self, request: VolumeRequest) -> Raw | None:
        named = self.memory.volumes_named(request.name)
        for raw in named:
            tags = our_tags(raw)
            if tags is not None and (tags.owner, tags.key) == (request.tags.owner, request.tags.key):
                return _alive(raw, request.name)
        if named:
            raise _error(
                VolumeConflict, "create_volume", request.name,
                f"the name is taken by {named[0]['VolumeId']} with the tags {tags_dict(named[0])}; expected none, or "
                f"key {request.tags.key!r}. Choose another name, or scope='global'",
            )  # fmt: skip
        return None

    def _create(self, request: VolumeRequest, zone: str) -> Raw:
        """Create under the oldest token that is not used up: what it has made already, EC2 returns.

        An earlier try's token that answers with a mismatch stands for a volume that is gone, since the parameters are
        the same in every try; unless the job has changed while EC2 did not list what was made of it before. What
        outlives runs has no earlier ones: there another run's parameters are others.
        """
        for token in request.earlier:
            if self.used_up.is_refused(token):
                continue
            try:
                return self._call(request, creation(request, zone, token))
            except BackendError as exc:
                if code(exc) != "IdempotentParameterMismatch":
                    return self._refused(request, creation(request, zone, token), exc)
                self.used_up.refuse(token, request.name)
        parameters = creation(request, zone)
        if self.used_up.is_refused(parameters["ClientToken"]):
            return self._again(request, parameters)
        try:
            return self._call(request, parameters)
        except BackendError as exc:
            return self._refused(request, parameters, exc)

    def _call(self, request: VolumeRequest, parameters: dict[str, Any]) -> Raw:
        return self.ec2.call("CreateVolume", "create_volume", request.name, **parameters)

    def _refused(self, request: VolumeRequest, parameters: dict[str, Any], refusal: BackendError) -> Raw:
        """Return the volume that exists although its creation was refused, or raise why it was."""
        # At the storage quota the same token can be refused although its volume exists.
        if code(refusal) not in ("IdempotentParameterMismatch", "VolumeLimitExceeded", "MaxIOPSLimitExceeded"):
            raise refusal
        if code(refusal) == "IdempotentParameterMismatch":
            self.used_up.refuse(parameters["ClientToken"], request.name)
            return self._again(request, parameters)
        found = self._find(request, known=False)
        if found is None:
            raise refusal
        return found

    def _again(self, request: VolumeRequest, parameters: dict[str, Any]) -> Raw:
        """Return the volume that a refused token stands for, or create it under another token; NotReady before that."""
        token = parameters["ClientToken"]

        def another() -> dict[str, Any]:
            again = self.used_up.next_token(token)
            if again is None:
                raise _not_yet(request.name)
            return {**parameters, "ClientToken": again}

        if self.used_up.next_token(token) is None:
            self.used_up.look()
        found = self._seen(request)
        if found is not None:
            return found
        again = another()["ClientToken"]
        try:
            return self.ec2.call_once("CreateVolume", "create_volume", request.name, another)
        except BackendError as exc:
            if code(exc) != "IdempotentParameterMismatch":
                raise
            self.used_up.refuse(again, request.name)
            raise _not_yet(request.name) from exc  # somebody else has just made it

    def _zone(self, tags: Tags) -> str:
        return self.places.zone_for(tags.owner, tags.dag, tags.group)

    def _look(self, volume_ids: Sequence[str]) -> dict[str, Raw | None]:
        found = self.ec2.volumes_by("volume-id", list(volume_ids), "tag_volumes", ", ".join(volume_ids))
        self.memory.saw_volumes(found)
        return {raw["VolumeId"]: raw for raw in found}

    @staticmethod
    def _ours(known: Mapping[str, Raw | None]) -> list[str]:
        for volume_id, raw in known.items():
            if raw is not None and our_tags(raw) is None:
                text = "refused: it carries no tags of ours, and adopted volumes are never tagged"
                raise _error(NotOurs, "tag_volumes", f"{name_of(raw)} ({volume_id})", text)
        return [volume_id for volume_id, raw in known.items() if raw is not None]

    def _tag(self, volume_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        for start in range(0, len(volume_ids), PAGE):
            ids = list(volume_ids[start : start + PAGE])
            self.ec2.call("CreateTags", "tag_volumes", ", ".join(ids), Resources=ids, Tags=tag_list(tags))
        self.memory.retag_volumes(volume_ids, tags)

    def _attach(self, volume_id: str, node: Raw) -> None:
        node_id, used = node["InstanceId"], devices_of(node)
        device = self.memory.attach(volume_id, node_id, lambda taken: _free_device(used | taken, node_id))
        parameters = {"VolumeId": volume_id, "InstanceId": node_id, "Device": device}
        try:
            self.ec2.call("AttachVolume", "attach", volume_id, **parameters)
        except BackendError as exc:
            if code(exc) == "InvalidParameterValue" and "in use" in str(exc):
                # The name stays reserved for a while, but no volume is on its way to it.
                self.memory.attach(f"{node_id} {device}", node_id, lambda _taken: device)
                self.memory.not_attaching(volume_id)
                text = f"device {device} of {node_id} is taken, which EC2 does not show yet; the next name is tried"
                raise _error(NotReady, "attach", volume_id, text) from exc
            self.memory.not_attaching(volume_id)
            if code(exc) != "VolumeInUse" or not self._holds(volume_id, node_id):
                raise

    def _holds(self, volume_id: str, node_id: str) -> bool:
        """Say whether a volume is, or is being, attached to a node: asked of EC2 now."""
        raw = self.ec2.volume(volume_id, "attach")
        if raw is not None:
            self.memory.saw_volumes([raw])
        return raw is not None and volume_of(raw).attached_to == node_id


def _not_yet(name: str) -> BackendError:
    text = "its token was used before, and no volume is listed yet; it is looked for, and made anew within"
    return _error(NotReady, "create_volume", name, f"{text} {AGAIN_S:.0f} s")


def _alive(raw: Raw, name: str) -> Raw:
    if raw.get("State") == "deleting":
        text = "the volume of that name is being deleted; it is made again once that one is gone"
        raise _error(NotReady, "create_volume", name, text)
    return raw


def _check_zone(volume: Raw, node: Raw) -> None:
    there, here = volume.get("AvailabilityZone"), node.get("Placement", {}).get("AvailabilityZone")
    if there and here and there != here:
        text = (
            f"the volume is in zone {there}, node {node['InstanceId']} in {here}; EBS attaches only within a zone. Set "
            f"NodeTemplate.zones to {there!r}, or give the job a volume of its own"
        )
        raise _error(FinalError, "attach", f"{name_of(volume)} ({volume['VolumeId']})", text)


def _free_device(used: set[str], node_id: str) -> str:
    free: Iterator[str] = (device for device in DEVICES if device not in used)
    found = next(free, None)
    if found is None:
        raise _error(FinalError, "attach", node_id, f"all {len(DEVICES)} device names are used; attach fewer volumes")
    return found


def _error(kind: type[BackendError], verb: str, resource: str, text: str) -> BackendError:
    return kind(text, backend="aws", verb=verb, resource=resource)

"""Attaching and detaching: one volume, one running instance, one zone, one device name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.clouds.aws.catalog import Catalog
from tests.clouds.aws.errors import Ec2Error, invalid, missing
from tests.clouds.aws.model import Attachment, Instance, Volume
from tests.clouds.aws.nodes import Nodes
from tests.clouds.aws.volumes import attachment_view
from tests.clouds.aws.world import World
from tests.clouds.common.stuck import Stuck

# ebsug/device_naming, for HVM images: /dev/sd[a-z] and /dev/xvd[a-z], and /dev/xvd[a-d][a-z] for more volumes; of these
# "/dev/xvddx is the last allowed" (csi, pkg/cloud/devicemanager/device_names.go), which EBS documents nowhere.
_DEVICE = re.compile(r"/dev/(sd[a-z]|xvd[a-z]|xvd[a-c][a-z]|xvdd[a-x])")


def check_device(device: str) -> None:
    """Refuse what is no name of a device."""
    if not _DEVICE.fullmatch(device):
        raise invalid(f"Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name.")


class Attachments:
    """AttachVolume and DetachVolume, and what becomes of them."""

    def __init__(self, world: World, catalog: Catalog, nodes: Nodes, stuck: Stuck) -> None:
        self._world = world
        self._catalog = catalog
        self._nodes = nodes
        self._stuck = stuck

    def of(self, instance: Instance) -> list[Volume]:
        """Return the volumes that an instance has, in the order of their attachment."""
        return [self._world.volumes[a.volume_id] for a in instance.attachments]

    def attach_volume(self, params: dict[str, Any]) -> dict[str, Any]:
        """AttachVolume."""
        for name in ("VolumeId", "InstanceId", "Device"):
            if not params.get(name):
                raise missing(name)
        volume = self._world.find(self._world.volumes, params["VolumeId"])
        instance = self._world.find(self._world.instances, params["InstanceId"])
        check_device(params["Device"])
        self._check(volume, instance, params["Device"])
        return attachment_view(self.bind(volume, instance, params["Device"]))

    def _check(self, volume: Volume, instance: Instance, device: str) -> None:
        if volume.zone != instance.zone:
            raise Ec2Error(
                "InvalidVolume.ZoneMismatch",
                f"The volume '{volume.id}' is not in the same availability zone as instance '{instance.id}'",
            )
        if volume.attachment:
            raise Ec2Error("VolumeInUse", f"{volume.id} is already attached to an instance")
        if volume.state != "available":
            raise Ec2Error("IncorrectState", f"{volume.id} is not 'available'.")
        # A stopped instance would do for EC2 (API:AttachVolume); no node of ours is ever stopped, so that is a bug.
        if instance.state != "running":
            raise Ec2Error("IncorrectState", f"Instance '{instance.id}' is not 'running'.")
        there = self.of(instance)
        if any(v.attachment and v.attachment.device == device for v in there):
            raise invalid(f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use")
        if len(there) >= self._catalog.max_attachments(instance.type):
            raise Ec2Error(
                "AttachmentLimitExceeded",
                f"Attachment limit of {len(there)} volumes exceeded for instance '{instance.id}' ({instance.type})",
            )

    def bind(self, volume: Volume, instance: Instance, device: str) -> Attachment:
        """Start attaching: the device name is taken at once."""
        attachment = Attachment(volume.id, instance.id, device, self._world.now())
        attachment.begin(self._world.now)
        volume.attachment = attachment
        volume.state = "in-use"
        instance.attachments = (*instance.attachments, attachment)
        self._world.agenda.after(self._world.settings.attach_s, lambda: self._plug(volume, attachment))
        return attachment

    def _plug(self, volume: Volume, attachment: Attachment) -> None:
        if attachment.state != "attaching" or volume.attachment is not attachment:
            return
        if self._hangs(attachment, "attaching", lambda: self._plug(volume, attachment)):
            return
        self._nodes.attach(volume, attachment, lambda: self._attached(volume, attachment))

    def _attached(self, volume: Volume, attachment: Attachment) -> None:
        if volume.attachment is attachment and attachment.state == "attaching":
            attachment.state = "attached"

    def detach_volume(self, params: dict[str, Any]) -> dict[str, Any]:
        """DetachVolume: the volume stays in use until the node has let go of it."""
        if not params.get("VolumeId"):
            raise missing("VolumeId")
        volume = self._world.find(self._world.volumes, params["VolumeId"])
        if params.get("InstanceId"):
            self._world.find(self._world.instances, params["InstanceId"])
        attachment = volume.attachment
        if attachment is None:
            raise Ec2Error("IncorrectState", f"Volume '{volume.id}' is in the '{volume.state}' state.")
        self._check_detach(attachment, params)
        attachment.state = "detaching"
        force = bool(params.get("Force"))
        self._world.agenda.after(self._world.settings.detach_s, lambda: self._unplug(volume, attachment, force))
        return attachment_view(attachment)

    def _check_detach(self, attachment: Attachment, params: dict[str, Any]) -> None:
        wanted = params.get("InstanceId")
        if wanted not in (None, attachment.instance_id) or params.get("Device") not in (None, attachment.device):
            # csi, isAWSErrorInvalidAttachmentNotFound: detaching from an instance that does not hold the volume.
            raise Ec2Error(
                "InvalidAttachment.NotFound",
                f"The volume '{attachment.volume_id}' is not attached to instance '{wanted}' as '{attachment.device}'",
            )
        instance = self._world.instances[attachment.instance_id]
        if attachment.device == instance.root_device and instance.state != "stopped":
            raise Ec2Error("OperationNotPermitted", "Unable to detach root volume from a running instance")
        if attachment.state in ("detaching", "busy") and not params.get("Force"):
            raise Ec2Error("IncorrectState", f"Volume '{attachment.volume_id}' is in the 'detaching' state.")  # [U]

    def _unplug(self, volume: Volume, attachment: Attachment, force: bool) -> None:
        if volume.attachment is not attachment:
            return
        if not force and self._hangs(attachment, "detaching", lambda: self._unplug(volume, attachment, force)):
            return
        self._nodes.detach(volume, attachment, force, lambda: self.unbind(volume, attachment))

    def _hangs(self, attachment: Attachment, state: str, go_on: Callable[[], None]) -> bool:
        # A root volume comes and goes with its instance.
        is_root = attachment.device == self._world.instances[attachment.instance_id].root_device
        return not is_root and self._stuck.holds(attachment.volume_id, state, go_on)

    def unbind(self, volume: Volume, attachment: Attachment) -> None:
        """Let the volume be free."""
        if volume.attachment is attachment:
            attachment.state = "detached"
            volume.attachment = None
            instance = self._world.instances[attachment.instance_id]
            instance.attachments = tuple(a for a in instance.attachments if a is not attachment)
            volume.state = "available"

"""What an instance's metadata service says (ec2ug/ec2-instance-metadata)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

from tests.clouds.aws.client import NODE_KEY
from tests.clouds.aws.model import Instance
from tests.clouds.aws.world import ACCOUNT, REGION, World
from tests.clouds.common.clock import as_datetime

_META = "/latest/meta-data/"
_DOCUMENT = "/latest/dynamic/instance-identity/document"
_ISO = "%Y-%m-%dT%H:%M:%SZ"


class Metadata:
    """The content of one instance's metadata service, asked anew at every request."""

    def __init__(self, world: World, instance: Instance) -> None:
        self._world = world
        self._instance = instance

    def __call__(self, path: str) -> bytes | None:
        """Return what stands at a path; None where there is nothing."""
        with self._world.lock:
            self._world.agenda.settle()
            if path == "/latest/user-data":
                return self._instance.user_data or None
            if path == _DOCUMENT:
                return json.dumps(self._document()).encode()
            if not path.startswith(_META):
                return None
            found = self._meta(path.removeprefix(_META).removesuffix("/"))
        return None if found is None else found.encode()

    def _document(self) -> dict[str, str]:
        i = self._instance
        return {
            "accountId": ACCOUNT,
            "availabilityZone": i.zone,
            "imageId": str(i.facts["ImageId"]),
            "instanceId": i.id,
            "instanceType": i.type,
            "privateIp": i.address,
            "region": REGION,
        }

    def _meta(self, name: str) -> str | None:
        i = self._instance
        plain = {
            "ami-id": str(i.facts["ImageId"]),
            "ami-launch-index": str(i.launch_index),
            "hostname": f"ip-{i.address.replace('.', '-')}.ec2.internal",
            "instance-id": i.id,
            "instance-life-cycle": "spot" if i.spot else "on-demand",
            "instance-type": i.type,
            "local-hostname": f"ip-{i.address.replace('.', '-')}.ec2.internal",
            "local-ipv4": i.address,
            "placement/availability-zone": i.zone,
            "placement/region": REGION,
        }
        if name in plain:
            return plain[name]
        for prefix, answer in self._trees():
            if name == prefix or name.startswith(f"{prefix}/"):
                return answer(name.removeprefix(prefix).removeprefix("/"))
        return None

    def _trees(self) -> tuple[tuple[str, Callable[[str], str | None]], ...]:
        return (
            ("tags/instance", self._tag),
            ("spot", self._spot),
            ("iam/security-credentials", self._credentials),
        )

    def _tag(self, key: str) -> str | None:
        """Answer with a tag, or with all keys (ec2ug/work-with-tags-in-IMDS)."""
        if not self._instance.metadata_tags:
            return None
        tags = self._world.tags_of(self._instance)
        return tags.get(key) if key else "\n".join(tags)

    def _spot(self, name: str) -> str | None:
        """Answer with the notice of an interruption (ec2ug/spot-instance-termination-notices); 404 without one."""
        at = self._instance.spot_action_at
        if at is None:
            return None
        when = as_datetime(at).strftime(_ISO)
        if name == "instance-action":
            return json.dumps({"action": "terminate", "time": when})
        return when if name == "termination-time" else None

    def _credentials(self, role: str) -> str | None:
        profile = self._instance.facts["IamInstanceProfile"]
        if profile is None:
            return None
        name = profile["Arn"].rpartition("/")[2]
        if not role:
            return str(name)
        now = as_datetime(self._world.now())
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": now.strftime(_ISO),
                "Type": "AWS-HMAC",
                "AccessKeyId": NODE_KEY,
                "SecretAccessKey": "testing",
                "Token": f"{self._instance.id}",
                "Expiration": (now + timedelta(hours=6)).strftime(_ISO),
            }
        )

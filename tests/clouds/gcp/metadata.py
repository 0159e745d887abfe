"""What an instance's metadata server says (gce/metadata/predefined-metadata-keys)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.clouds.gcp.model import PROJECT, PROJECT_NUMBER, Instance
from tests.clouds.gcp.views import GUEST_ATTRIBUTES
from tests.clouds.gcp.world import World

_ROOT = "/computeMetadata/v1/"
#: Begins the access tokens of nodes, by which the double's records tell them from everybody else.
NODE_TOKEN = "node-token-"


class Metadata:
    """The content of one instance's metadata server, asked anew at every request."""

    def __init__(self, world: World, instance: Instance) -> None:
        self._world = world
        self._instance = instance

    def __call__(self, path: str) -> bytes | None:
        """Return what stands at a path; None where there is nothing."""
        if not path.startswith(_ROOT):
            return None
        with self._world.lock:
            self._world.agenda.settle()
            found = self._found(path.removeprefix(_ROOT).removesuffix("/"))
        return None if found is None else found.encode()

    def write(self, namespace: str, key: str, value: str | None) -> bool:
        """Set or delete a guest attribute; say whether the instance may have any."""
        with self._world.lock:
            if self._instance.metadata.get(GUEST_ATTRIBUTES, "").upper() != "TRUE":
                return False
            self._instance.guest_attributes.pop((namespace, key), None)
            if value is not None:
                self._instance.guest_attributes[namespace, key] = value
            return True

    def _found(self, name: str) -> str | None:
        i = self._instance
        plain = {
            "project/project-id": PROJECT,
            "project/numeric-project-id": PROJECT_NUMBER,
            "instance/id": str(i.id),
            "instance/name": i.name,
            "instance/hostname": f"{i.name}.{i.zone}.c.{PROJECT}.internal",
            "instance/zone": f"projects/{PROJECT_NUMBER}/zones/{i.zone}",
            "instance/machine-type": f"projects/{PROJECT_NUMBER}/machineTypes/{i.machine_type}",
            "instance/network-interfaces/0/ip": i.address,
            "instance/preempted": "TRUE" if i.preempted else "FALSE",
            "instance/attributes": "\n".join(i.metadata),
        }
        if name in plain:
            return plain[name]
        for prefix, answer in self._trees():
            if name.startswith(prefix):
                return answer(name.removeprefix(prefix))
        return None

    def _trees(self) -> tuple[tuple[str, Callable[[str], str | None]], ...]:
        return (
            ("instance/attributes/", self._instance.metadata.get),
            ("instance/guest-attributes/", self._guest_attribute),
            ("instance/service-accounts", self._account),
        )

    def _guest_attribute(self, path: str) -> str | None:
        namespace, _, key = path.partition("/")
        return self._instance.guest_attributes.get((namespace, key))

    def _account(self, path: str) -> str | None:
        accounts: list[dict[str, Any]] = self._instance.facts["serviceAccounts"]
        if not accounts:
            return "" if not path else None
        account, (_, _, field) = accounts[0], path.removeprefix("/").partition("/")
        token = {"access_token": f"{NODE_TOKEN}{self._instance.name}", "expires_in": 3599, "token_type": "Bearer"}
        return {
            "": "\n".join(("default/", f"{account['email']}/")),
            "email": account["email"],
            "scopes": "\n".join(account.get("scopes", ())),
            "token": json.dumps(token),
        }.get(field)

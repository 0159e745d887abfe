"""What the provider promises of each of its calls, in whichever test: a call that breaks it fails the test."""

from __future__ import annotations

from typing import Any

AGENT = "airflow-rankvol"


def broken(agent: str, action: str, body: Any) -> list[str]:
    """Return how a call of the provider's breaks a promise: a volume must never go with its node.

    It has to be said each time: who leaves it to a default relies on that of an API that others change.
    """
    if agent != AGENT or not isinstance(body, dict):
        return []
    disks = {"instances.insert": body.get("disks") or (), "instances.attachDisk": [body]}.get(action, ())
    return [
        f"compute:{action}: the disk {disk.get('source')} may go with the instance: autoDelete is "
        f"{disk.get('autoDelete')!r}, expected False"
        for disk in disks
        if not disk.get("boot") and disk.get("autoDelete") is not False
    ]

"""One process of the double for the tests of a worker; as new, and with its clock stopped, for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.clouds.gcp.client import ZONE, Double, Refused, Rest

# Longer than any state takes by default.
SETTLED_S = 1.0
IMAGE = "projects/debian-cloud/global/images/family/debian-13"


def boot(kind: str = "pd-balanced", zone: str = ZONE, **params: Any) -> dict[str, Any]:
    """Return a boot disk that goes with its instance."""
    new = {"sourceImage": IMAGE, "diskType": f"zones/{zone}/diskTypes/{kind}", **params}
    return {"boot": True, "autoDelete": True, "initializeParams": new}


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    with Double(tmp_path_factory.mktemp("double")) as double:
        yield double


@pytest.fixture
def double(process: Double) -> Iterator[Double]:
    """The double with a clock that only ``advance`` moves; what it did wrong itself fails the test."""
    process.reset()
    process.freeze()
    yield process
    process.release(answer=False)
    assert process.bugs() == []


@pytest.fixture(scope="session")
def _rest(process: Double) -> Rest:
    return process.rest()


@pytest.fixture
def api(double: Double, _rest: Rest) -> Rest:
    return _rest


@pytest.fixture
def done(api: Rest, double: Double) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Let an operation come to its end, and return it."""

    def settle(operation: dict[str, Any]) -> dict[str, Any]:
        double.advance(SETTLED_S)
        zone = operation["zone"].rpartition("/")[2]
        found: dict[str, Any] = api.get(f"zones/{zone}/operations/{operation['name']}")
        assert found["status"] == "DONE"
        return found

    return settle


@pytest.fixture
def make_disk(api: Rest, done: Any) -> Callable[..., str]:
    """Create a disk that is ready; returns its name."""

    def make(name: str = "disk", zone: str = ZONE, **fields: Any) -> str:
        body = {"name": name, "sizeGb": "10", **fields}
        if "type" in body and "/" not in body["type"]:
            body["type"] = f"zones/{zone}/diskTypes/{body['type']}"
        assert "error" not in done(api.post(f"zones/{zone}/disks", body))
        return name

    return make


def wish(name: str = "node", *disks: str, zone: str = ZONE, machine: str = "n2-standard-2", **fields: Any) -> Any:
    """Return the body of an instances.insert with existing disks."""
    attached = [{"source": f"zones/{zone}/disks/{disk}", "deviceName": disk} for disk in disks]
    return {
        "name": name,
        "machineType": f"zones/{zone}/machineTypes/{machine}",
        "disks": [boot(zone=zone), *attached],
        "networkInterfaces": [{}],
        **fields,
    }


@pytest.fixture
def launch(api: Rest, done: Any) -> Callable[..., str]:
    """Launch an instance that runs; returns its name."""

    def make(name: str = "node", *disks: str, zone: str = ZONE, **fields: Any) -> str:
        assert "error" not in done(api.post(f"zones/{zone}/instances", wish(name, *disks, zone=zone, **fields)))
        return name

    return make


@pytest.fixture
def refuses() -> Callable[..., AbstractContextManager[None]]:
    """Expect an error by its reason, its status and a part of its text."""

    @contextmanager
    def expect(reason: str, status: int, text: str = "") -> Iterator[None]:
        with pytest.raises(Refused) as caught:
            yield
        assert (caught.value.reason, caught.value.status) == (reason, status), caught.value
        assert text in caught.value.message

    return expect

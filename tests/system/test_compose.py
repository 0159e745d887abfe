"""docker-compose.yaml: what can be said of it without an engine, and its services run by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system import by_hand
from tests.system.compose import FILE, ROOT, in_order, read, variables_of

SECRETS = ("RANKVOL_ADMIN_PASSWORD", "RANKVOL_POSTGRES_PASSWORD", "RANKVOL_FERNET_KEY", "RANKVOL_API_SECRET_KEY",
           "RANKVOL_JWT_SECRET")  # fmt: skip
FILLED = dict.fromkeys(SECRETS, "s3cret")
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture
def services() -> dict[str, Any]:
    return dict(read(FILLED)["services"])


def test_it_fits_the_compose_specification() -> None:
    """By the specification's own schema, which check-jsonschema brings."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_has_every_component_in_the_order_of_a_start(services: dict[str, Any]) -> None:
    wanted = {"postgres", "init", "processes", "api-server", "scheduler", "triggerer", "dag-processor", "ec2"}
    order = in_order(services)
    assert set(order) == wanted
    for earlier, later in (("postgres", "init"), ("init", "api-server"), ("api-server", "scheduler"),
                           ("processes", "triggerer")):  # fmt: skip
        assert order.index(earlier) < order.index(later)


def test_every_service_says_whether_it_is_well(services: dict[str, Any]) -> None:
    """All but the one that ends; and who waits for another waits until that is so."""
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"init"}
    needs = [needed for service in services.values() for needed in service.get("depends_on", {}).values()]
    assert {needed["condition"] for needed in needs} == {"service_healthy", "service_completed_successfully"}


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_has_a_default(secret: str) -> None:
    assert EXAMPLE[secret] == ""
    with pytest.raises(ValueError, match=f"{secret}: see .env.example"):
        read({**FILLED, secret: ""})


def test_the_example_of_settings_names_every_variable_with_its_default() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert set(EXAMPLE) == variables_of(text)
    for name, default in EXAMPLE.items():
        assert default == "" or f"${{{name}:-{default}}}" in text


def test_only_the_double_with_its_nodes_is_privileged_and_only_when_asked_for(services: dict[str, Any]) -> None:
    for name, service in services.items():
        special = {key for key in ("privileged", "cap_add", "devices", "security_opt") if service.get(key)}
        assert special == ({"privileged"} if name == "ec2" else set())
        assert service.get("profiles", []) == (["aws"] if name == "ec2" else [])


def test_nothing_listens_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:4566:4566", "127.0.0.1:8080:8080"]


def test_what_is_written_is_on_volumes_of_the_file(services: dict[str, Any]) -> None:
    """And all who start nodes of this machine, or look at them, see the same processes and volumes."""
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    named = {name for name in used if not name.startswith((".", "/"))}
    assert named == set(read(FILLED)["volumes"])
    assert used - named == {"./dags", "/dev"}
    for name in ("api-server", "scheduler", "triggerer"):
        assert services[name]["pid"] == "service:processes"
        assert "rankvol:/opt/airflow/rankvol" in services[name]["volumes"]


def test_what_the_images_copy_is_there(services: dict[str, Any]) -> None:
    files = {service["build"]["dockerfile"] for service in services.values() if "build" in service}
    assert files == {"docker/airflow.Dockerfile", "docker/ec2.Dockerfile"}
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        for copied in re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", text, re.MULTILINE):
            assert all((ROOT / path).exists() for path in copied.split())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(by_hand.why_not()), reason=by_hand.why_not())
def test_each_services_command_works_in_compose_order(tmp_path: Path) -> None:
    """By hand: Airflow on PostgreSQL becomes well, and runs example DAGs on this machine and on the double of AWS."""
    done = by_hand.run("aws", tmp_path)
    assert done.returncode == 0, done.stderr[-8000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(seen["healthy_after_s"]))  # noqa: T201
    assert set(seen["healthy_after_s"]) == set(read(FILLED)["services"])
    assert {dag: run["state"] for dag, run in seen["runs"].items()} == {
        "flights_by_rank": "success",
        "flights_on_aws": "success",
    }
    local, aws = (run["result"] for run in seen["runs"].values())
    names = ("rows", "ranks", "carriers", "cancelled", "mean_arr_delay")
    assert [local[name] for name in names] == [aws[name] for name in names]
    assert local["rows"] == 336_776
    assert {group["dag"] for group in seen["groups"]["groups"]} == set(seen["runs"])
    assert seen["groups"]["problems"] == []
    assert seen["left"].splitlines()[-1] == "none"

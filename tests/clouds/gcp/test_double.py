"""The double as a whole: speed, its end, the services beside Compute Engine, and the clients that people have."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clouds.gcp.client import ZONE, Double, Rest
from tests.clouds.gcp.conftest import wish
from tests.clouds.gcp.promises import AGENT

DISKS, INSTANCES = f"zones/{ZONE}/disks", f"zones/{ZONE}/instances"


def test_256_disks_and_instances_by_16_threads_take_seconds(double: Double) -> None:
    double.freeze(False)
    double.settings(rate_scale=0)

    def some(rest: Rest, ranks: range) -> None:
        for n in ranks:
            labels = {"group": "g", "rank": str(n)}
            operation = rest.post(DISKS, {"name": f"disk-{n}", "sizeGb": "10", "labels": labels})
            while rest.get(f"zones/{ZONE}/operations/{operation['name']}")["status"] != "DONE":
                time.sleep(0.02)
            metadata = {"items": [{"key": "startup-script", "value": "x" * 8_000}]}
            rest.post(INSTANCES, wish(f"node-{n}", f"disk-{n}", labels=labels, metadata=metadata))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda k: some(double.rest(), range(k, 256, 16)), range(16)))
    calls = double.calls()
    rest = double.rest()
    started = time.monotonic()
    found = rest.get("aggregated/instances", filter="labels.group=g")["items"][f"zones/{ZONE}"]["instances"]
    assert len(found) == 256
    assert time.monotonic() - started < 5
    assert sorted(c["took_s"] for c in calls)[len(calls) // 2] < 0.25


def test_the_process_ends_on_sigterm_while_calls_hang_and_leaves_only_its_log(tmp_path: Path) -> None:
    double = Double(tmp_path / "double").start()
    pid, url = double.pid, double.url
    double.fault("hang", "disks.list", times=-1)
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(double.rest().get, DISKS)
        double.wait_held()
        double.stop()
        assert caller.exception(10) is not None
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/_double/health", timeout=5)
    assert [p.name for p in (tmp_path / "double").iterdir()] == ["double.log"]
    assert (tmp_path / "double/double.log").read_text() == ""


def test_a_bug_of_the_double_is_told_to_everybody(tmp_path: Path) -> None:
    with Double(tmp_path / "double") as double:
        double.settings(quotas={"PLATES": 1.0})
        with pytest.raises(Exception, match="doubleHasABug"):
            double.rest().get("regions/us-central1")
        assert "PLATES" in double.bugs()[0]


@pytest.mark.parametrize(
    ("promise", "kept"), [({"autoDelete": False}, True), ({"autoDelete": True}, False), ({}, False)]
)
def test_a_volume_of_the_provider_that_may_go_with_its_node_fails_the_test(
    double: Double, make_disk: Any, done: Any, promise: dict[str, bool], kept: bool
) -> None:
    make_disk("first")
    make_disk("second")
    ours, body = double.rest(AGENT), wish("node", "first")
    body["disks"][1] |= promise
    done(ours.post(f"zones/{ZONE}/instances", body))
    ours.post(f"zones/{ZONE}/instances/node/attachDisk", {"source": f"zones/{ZONE}/disks/second", **promise})
    found = double.bugs()
    double.reset()
    assert [text.partition(": ")[0] for text in found] == (
        [] if kept else ["compute:instances.insert", "compute:instances.attachDisk"]
    )


def test_a_reset_makes_it_new(api: Rest, double: Double, make_disk: Any, launch: Any) -> None:
    launch("node", make_disk())
    double("deny", actions=["*"])
    double.reset()
    assert double.state() == {"disks": {}, "instances": {}, "operations": {}}
    assert double.counts() == {}
    assert "items" not in api.get(DISKS)


def test_objects_are_uploaded_listed_and_read(api: Rest, double: Double, refuses: Any) -> None:
    """storage/docs/json_api; with Google's own client, as people have it."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage  # type: ignore[import-untyped]  # it has no types

    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]  # nor has this
    client = storage.Client("rankvol-test", nobody, client_options={"api_endpoint": double.url})
    bucket = client.bucket("bucket")
    content = bytes(range(256)) * 10 + b"\r\n--x\n"
    bucket.blob("a/b c.bin").upload_from_string(content, content_type="text/x", retry=None)
    bucket.blob("a/b c.bin").reload()
    assert bucket.blob("a/b c.bin").download_as_bytes() == content
    assert [b.name for b in client.list_blobs("bucket", prefix="a/")] == ["a/b c.bin"]
    assert bucket.blob("absent").exists() is False
    big = bucket.blob("big", chunk_size=256 * 1024)
    with big.open("wb", retry=None) as file:  # in parts, since the size is not known at the beginning
        file.write(b"x" * 700_000)
    assert big.download_as_bytes() == b"x" * 700_000
    bucket.blob("big").delete()
    assert [b.name for b in client.list_blobs("bucket")] == ["a/b c.bin"]
    with refuses("conditionNotMet", 412):
        api("POST", "/upload/storage/v1/b/bucket/o", None, uploadType="media", name="a/b c.bin", ifGenerationMatch=0)
    with refuses("notFound", 404):
        api.get("/storage/v1/b/absent/o")
    client.close()


def test_objects_are_listed_by_folders_and_in_pages(api: Rest) -> None:
    for name in ("a/1", "a/2", "b", "c"):
        api("POST", "/upload/storage/v1/b/bucket/o", None, uploadType="media", name=name)
    found = api.get("/storage/v1/b/bucket/o", delimiter="/")
    assert ([o["name"] for o in found["items"]], found["prefixes"]) == (["b", "c"], ["a/"])
    first = api.get("/storage/v1/b/bucket/o", maxResults=3)
    rest = api.get("/storage/v1/b/bucket/o", pageToken=first["nextPageToken"])
    assert [o["name"] for o in rest["items"]] == ["c"]


def test_a_signed_url_holds_until_it_expires(api: Rest, double: Double) -> None:
    api("POST", "/upload/storage/v1/b/bucket/o", {"a": 1}, uploadType="media", name="a b")
    now = datetime.fromtimestamp(double("clock"), UTC)
    query = {
        "X-Goog-Algorithm": "GOOG4-RSA-SHA256",
        "X-Goog-Credential": "who",
        "X-Goog-Date": f"{now:%Y%m%dT%H%M%SZ}",
        "X-Goog-Expires": "60",
        "X-Goog-Signature": "00",
    }
    place = f"{double.url}/bucket/a%20b"
    assert requests.get(place, params=query, timeout=9).json() == {"a": 1}
    assert requests.get(place, timeout=9).status_code == 403
    double.advance(60)
    assert requests.get(place, params=query, timeout=9).status_code == 400


def test_secrets_are_read_by_version(api: Rest, double: Double, refuses: Any) -> None:
    assert [double("secret", name="s", value=value) for value in ("old", "new")] == [1, 2]
    place = "/v1/projects/rankvol-test/secrets/s/versions"
    found = {v: base64.b64decode(api.get(f"{place}/{v}:access")["payload"]["data"]) for v in ("1", "latest")}
    assert found == {"1": b"old", "latest": b"new"}
    assert api.get(f"{place}/latest:access")["name"].endswith("/secrets/s/versions/2")
    for name, version in (("s", "3"), ("absent", "latest")):
        with refuses("notFound", 404):
            api.get(f"/v1/projects/rankvol-test/secrets/{name}/versions/{version}:access")
    double("deny", actions=["secretmanager.*"])
    with refuses("forbidden", 403, "secretmanager.versions.access"):
        api.get(f"{place}/latest:access")
    assert double.counts() == {"secretmanager:projects.secrets.versions.access": 6}


def test_other_services_are_throttled_in_their_own_words(api: Rest, double: Double, refuses: Any) -> None:
    double.fault("throttle", "objects.*", service="storage")
    with refuses("rateLimitExceeded", 429):
        api.get("/storage/v1/b/bucket/o")


def test_a_service_account_signs_its_tokens_and_urls(api: Rest, double: Double) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud import storage
    from google.oauth2.service_account import Credentials

    double.freeze(False)
    load: Any = Credentials.from_service_account_info
    account = load(double.service_account(), scopes=["https://www.googleapis.com/auth/cloud-platform"])
    session: Any = AuthorizedSession(account)  # type: ignore[no-untyped-call]
    assert session.get(f"{double.url}/compute/v1/projects/rankvol-test/zones").status_code == 200
    session.close()
    assert double.actions(account.token) == ["compute:zones.list"]
    api("POST", "/upload/storage/v1/b/bucket/o", {"a": 1}, uploadType="media", name="a b")
    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]  # nor has this
    client = storage.Client("rankvol-test", nobody, client_options={"api_endpoint": double.url})
    url = (
        client.bucket("bucket")
        .blob("a b")
        .generate_signed_url(60, version="v4", credentials=account, api_access_endpoint=double.url)
    )
    assert requests.get(url, timeout=9).json() == {"a": 1}
    client.close()


@pytest.mark.slow
def test_a_connection_of_airflows_leads_to_the_double(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in double.env().items():
        monkeypatch.setenv(name, value)
    code = (
        "from airflow.providers.google.common.hooks.base_google import GoogleBaseHook as H\n"
        "from google.auth.transport.requests import AuthorizedSession as S\n"
        "h = H('google_cloud_default'); c, p = h.get_credentials_and_project_id()\n"
        "u = h.extras['endpoint_url']\n"
        "print(p, S(c).get(f'{u}/compute/v1/projects/{p}/zones').status_code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("rankvol-test 200"), done.stderr
    assert double.counts() == {"compute:zones.list": 1}

"""How a described disk becomes a volume."""

from __future__ import annotations

import json
from importlib.resources import files

from airflow_rankvol.backends._gcp_view import DISK_FIELDS, volume_of

# Of sources, but none by itself: its id, its key, the name of a part of it.
_ABOUT = ("Id", "EncryptionKey", "DeviceName", "Policy")


def test_a_disk_is_blank_only_if_it_has_none_of_the_sources_that_compute_engine_knows() -> None:
    """What is not blank is never formatted."""
    text = (files("googleapiclient.discovery_cache") / "documents" / "compute.v1.json").read_text(encoding="utf-8")
    fields = json.loads(text)["schemas"]["Disk"]["properties"]
    sources = [name for name in fields if name.startswith("source") and not name.endswith(_ABOUT)]
    raw = {"name": "data-0", "zone": "zones/us-central1-a", "sizeGb": "10", "status": "READY"}
    assert len(sources) >= 6
    assert volume_of(raw).blank
    assert not [name for name in sources if volume_of({**raw, name: "of-something"}).blank]
    assert not set(sources).difference(DISK_FIELDS.split(","))

#!/usr/bin/env -S python3 -I
"""Stands in for the Google Cloud CLI on a node of the double: ``gcloud storage cp --recursive 'DIRECTORY/*' gs://…/``.

Runs on the node, so it has the standard library alone, and the node's metadata server.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import urllib.request
from urllib.parse import quote

TOKEN = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"


def main() -> None:
    """Copy files."""
    match sys.argv[1:]:
        case ["storage", "cp", "--recursive", pattern, place] if place.startswith("gs://") and place.endswith("/"):
            bucket, _, prefix = place.removeprefix("gs://").partition("/")
        case _:
            sys.exit(f"gcloud: this node does not provide: gcloud {' '.join(sys.argv[1:])}")
    base = os.environ["CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE"].replace("/storage/", "/upload/storage/")
    with urllib.request.urlopen(urllib.request.Request(TOKEN, headers={"Metadata-Flavor": "Google"})) as answer:
        token = json.load(answer)["access_token"]
    for path in sorted(glob.glob(pattern)):
        with open(path, "rb") as file:
            content = file.read()
        url = f"{base}b/{bucket}/o?uploadType=media&name={quote(prefix + os.path.basename(path), safe='')}"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(url, content, headers, method="POST")).close()


if __name__ == "__main__":
    main()

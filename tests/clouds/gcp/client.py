"""Starting, stopping and steering the double from tests."""

from __future__ import annotations

import functools
import json
from typing import Any

from tests.clouds.common.client import Process
from tests.clouds.gcp.model import PROJECT

UNIVERSE = "double.invalid"
ZONE, OTHER_ZONE = "us-central1-a", "us-central1-b"


class Double(Process):
    """One process of the double of Google Cloud; control.py lists the verbs that have no method here."""

    package = "tests.clouds.gcp"

    def actions(self, access_key: str = "") -> list[str]:
        """Return every ``service:method`` called since the start with that token; anonymous calls have none."""
        found: list[str] = self("actions", access_key=access_key)
        return found

    def permissions(self) -> list[str]:
        """Return every permission that was needed since the start."""
        found: list[str] = self("permissions")
        return found

    def connection_extra(self) -> dict[str, Any]:
        """Return the extra of an Airflow connection of type ``google_cloud_platform`` that leads here."""
        return {"project": PROJECT, "endpoint_url": self.url, "is_anonymous": True, "num_retries": 0}

    def env(self) -> dict[str, str]:
        """Return the environment of a process whose calls to Google lead here."""
        connection = json.dumps({"conn_type": "google_cloud_platform", "extra": self.connection_extra()})
        return {
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": connection,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "STORAGE_EMULATOR_HOST": self.url,
            "NO_GCE_CHECK": "true",
        }

    def service_account(self) -> dict[str, Any]:
        """Return the key file of a service account, which signs its own tokens, and URLs.

        Its universe is not Google's, because google-auth asks iamcredentials.googleapis.com about accounts of that one.
        """
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": _private_key(),
            "client_email": f"tester@{PROJECT}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",  # a key file has to have one; nobody asks there
            "universe_domain": UNIVERSE,
        }

    def rest(self, agent: str = "tests") -> Rest:
        """Return a plain client for the double's APIs; it does not retry."""
        return Rest(self.url, agent)


@functools.cache
def _private_key() -> str:
    """Return a key that nobody else has: it takes a moment to make."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made = generate_private_key(65_537, 2048)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Refused(Exception):
    """An error that the double answered."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        self.status = status
        self.reason: str = error["errors"][0]["reason"]
        self.message: str = error["message"]
        self.error = error
        super().__init__(f"{status} {self.reason}: {self.message}")


class Rest:
    """Calls of Compute Engine's by path, and one word for each that tests often need."""

    def __init__(self, url: str, agent: str) -> None:
        import requests

        self.url = url
        self._session = requests.Session()
        self._session.headers["User-Agent"] = agent

    def __call__(self, http: str, path: str, body: Any = None, **query: Any) -> Any:
        """Do a call; ``path`` is what comes after the project, or is whole when it begins with a slash."""
        where = path if path.startswith("/") else f"/compute/v1/projects/{PROJECT}/{path}"
        answer = self._session.request(http, self.url + where, json=body, params=query, timeout=60)
        if answer.status_code >= 400:
            raise Refused(answer.status_code, answer.json()["error"])
        return answer.json() if answer.content else None

    def get(self, path: str, **query: Any) -> Any:
        """Read something."""
        return self("GET", path, **query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Create or change something."""
        return self("POST", path, body, **query)

    def delete(self, path: str, **query: Any) -> Any:
        """Delete something."""
        return self("DELETE", path, **query)

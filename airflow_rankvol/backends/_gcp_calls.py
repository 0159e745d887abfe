"""Compute Engine's calls with our errors: every answer becomes one of our tree here, and lists are read to the end."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from airflow_rankvol.backends._gcp_connection import READ_S, Session
from airflow_rankvol.backends._gcp_errors import answered, code, no_answer, of_answer, of_operation
from airflow_rankvol.backends._rate import Rates
from airflow_rankvol.errors import AuthDenied, BackendError, NotReady, RetryableError

#: Compute Engine's "Rate quotas": 1,500 a minute for each group of methods, in a project and region, by default. What a
#: bucket holds and what comes back in a minute never make more than that in any minute.
RATES = Rates("gcp", "Compute Engine", other=(300.0, 20.0))
#: A page holds at most as many (discovery document, maxResults).
PAGE = 500
#: The warning of a scope that has nothing to list; with any other one, something may be missing (ibid., warning.code).
NOTHING = "NO_RESULTS_ON_PAGE"
#: Filters cost, and what is filtered out has a quota (ibid.; Compute Engine's "API rate quotas").
LIST_QUOTA = "LIST_OVERHEAD_QUOTA_EXCEED"
#: zoneOperations.wait answers within two minutes (discovery document); so many seconds on top for the way.
WAIT_S = 120.0 + READ_S
#: As many times it is asked before the engine gets to say whether to go on: it may answer at once (ibid.).
WAITS = 3

Raw = dict[str, Any]

_REGION = re.compile(r"(?:zones/([a-z]+-[a-z]+[0-9]+)-[a-z0-9]+|regions/([a-z]+-[a-z]+[0-9]+))(?:/|$)")


class Gce:
    """Calls in one project, for all threads of this process.

    A path is what comes after the project, such as ``zones/us-central1-a/disks``; one that begins with a slash names
    another project itself: ``/debian-cloud/global/images/…``.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def project(self) -> str:
        """The project's id."""
        return self.session.project

    def link(self, path: str) -> str:
        """Return what the API takes for a resource of this project."""
        return f"projects/{self.project}/{path}"

    def call(self, http: str, path: str, verb: str, resource: str, *, body: Any = None, **query: Any) -> Raw:
        """Do a call once.

        Args:
            verb: the backend's verb, for errors.
            resource: the name of what it is about, for errors.
            query: parameters; None leaves one out.

        Raises:
            BackendError: what Google answered; ``code`` tells its code.
        """
        self.session.limiter().acquire(_bucket(http, path))
        where = path if path.startswith("/") else f"/{self.project}/{path}"
        url = f"{self.session.base('compute')}/compute/v1/projects{where}"
        return self.fetch(http, url, verb, resource, body=body, query=query, action=_action(http, path))

    def fetch(
        self,
        http: str,
        url: str,
        verb: str,
        resource: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        action: str = "",
    ) -> Raw:
        """Do a call of any of Google's APIs by its whole URL, once; as ``call``."""
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        wanted = {name: value for name, value in (query or {}).items() if value is not None}
        # With a requestId, the same call does nothing a second time (discovery document).
        again = http == "GET" or "requestId" in wanted
        read_s = WAIT_S if url.endswith("/wait") else READ_S
        try:
            answer = self.session.request(http, url, query=wanted, body=body, read_s=read_s, again=again)
        except (RequestException, GoogleAuthError) as exc:
            raise self._renewed(no_answer(exc, verb, resource)) from exc
        try:
            found = answer.json() if answer.content else {}
        except ValueError:
            found = None
        if answer.status_code < 400 and isinstance(found, dict):
            return found
        error = of_answer(answer.status_code, found, answer.text)
        raise self._renewed(answered(error, verb, resource, action or f"{http} {url}")) from error

    def _renewed(self, error: BackendError) -> BackendError:
        """Return an error; one of rights or credentials has the connection sign in anew with the next call."""
        if isinstance(error, AuthDenied):
            self.session.sign_anew()
        return error

    def find(self, path: str, verb: str, resource: str, **query: Any) -> Raw | None:
        """Return what is at a path; None where there is nothing."""
        try:
            return self.call("GET", path, verb, resource, **query)
        except BackendError as exc:
            if code(exc) != "notFound":
                raise
            return None

    def pages(self, path: str, verb: str, resource: str, **query: Any) -> Iterator[Raw]:
        """Return the pages of a list."""
        token: str | None = None
        while True:
            answer = self.call("GET", path, verb, resource, maxResults=PAGE, pageToken=token, **query)
            yield answer
            token = answer.get("nextPageToken")
            if not token:
                return

    def everywhere(
        self,
        kind: str,
        verb: str,
        resource: str,
        *,
        filter_: str,
        fields: str = "",
        known: Collection[str] | None = None,
        regional: bool = False,
    ) -> list[Raw]:
        """Return the resources of a kind in all zones that pass a filter.

        Args:
            fields: which fields of each are wanted; all where it is empty.
            known: the only zones that count; all where it is None.
            regional: whether a region's own are wanted, too.

        Raises:
            RetryableError: a zone could not be reached, or was listed only in part: what is not listed may exist.
        """
        mask = f"nextPageToken,unreachables,warning,items/*/warning,items/*/{kind}({fields})" if fields else None
        found: list[Raw] = []
        for page in self.pages(f"aggregated/{kind}", verb, resource, filter=filter_, fields=mask):
            _check_whole(page, known, (verb, resource), regional=regional)
            for name, scope in (page.get("items") or {}).items():
                if regional or name.startswith("zones/"):
                    found += scope.get(kind) or ()
        return found

    def listed(self, path: str, verb: str, resource: str, **query: Any) -> list[Raw]:
        """Return the resources of a list that is not of all zones.

        Raises:
            RetryableError: it was listed only in part.
        """
        found: list[Raw] = []
        for page in self.pages(path, verb, resource, **query):
            _check_missed(_own_warning(page), (verb, resource))
            found += page.get("items") or ()
        return found

    def wait(self, operation: Raw, verb: str, resource: str) -> Raw:
        """Return a zone's operation once it is done; Google does the waiting.

        Raises:
            BackendError: the one that it ended with; NotReady where it goes on.
        """
        zone, name = str(operation.get("zone", "")).rpartition("/")[2], operation["name"]
        for _ in range(WAITS):
            if operation.get("status") == "DONE":
                break
            operation = self.call("POST", f"zones/{zone}/operations/{name}/wait", verb, resource)
        error = of_operation(operation)
        if error is not None:
            raise answered(error, verb, resource, str(operation.get("operationType", "operation"))) from error
        if operation.get("status") != "DONE":
            text = f"operation {name} in {zone} is {operation.get('status')}; it is asked again"
            raise NotReady(text, backend="gcp", verb=verb, resource=resource)
        return operation


def any_of(field: str, values: Sequence[str]) -> str:
    """Return a filter that takes resources whose field is one of the values."""
    return " OR ".join(f'({field} = "{value}")' for value in sorted(values))


def all_of(*filters: str) -> str:
    """Return a filter that takes what passes all of the given ones; empty ones do not count."""
    return " AND ".join(f"({wanted})" for wanted in filters if wanted)


def _check_whole(page: Raw, known: Collection[str] | None, where: tuple[str, str], *, regional: bool) -> None:
    """Raise where a page of a list of all zones says that it may lack something.

    Args:
        known, regional: as ``everywhere`` has them.
    """
    items: Mapping[str, Raw] = page.get("items") or {}
    told = dict.fromkeys(map(str, page.get("unreachables") or ()), "UNREACHABLE")
    told |= {name: str(scope["warning"].get("code")) for name, scope in items.items() if scope.get("warning")}
    missed = {
        name.rpartition("/")[2]: code
        for name, code in told.items()
        if code != NOTHING
        and (regional or "regions/" not in name)
        and (known is None or name.rpartition("/")[2] in known)
    }
    # Which zones its own warning means, it does not tell for sure.
    _check_missed({**missed, **_own_warning(page)}, where)


def _own_warning(page: Raw) -> dict[str, str]:
    own = str((page.get("warning") or {}).get("code", NOTHING))
    return {"the whole list": own} if own != NOTHING else {}


def _check_missed(missed: Mapping[str, str], where: tuple[str, str]) -> None:
    if missed:
        found = ", ".join(f"{place} ({code})" for place, code in sorted(missed.items()))
        step = " Ask for more of the quota 'Filtered list cost overhead', or list less" if LIST_QUOTA in found else ""
        raise RetryableError(
            f"Compute Engine warns that its list lacks something: {found}. What is not listed may be there; it is "
            f"tried again.{step}",
            backend="gcp", verb=where[0], resource=where[1],
        )  # fmt: skip


def _bucket(http: str, path: str) -> str:
    """Return the name of the rate quota that a call counts against: its group of methods, and its region."""
    found = _REGION.search(path)
    region = (found[1] or found[2]) if found else "global"
    parts = path.strip("/").split("/")
    if "operations" in parts:
        group = "operation reads"
    elif http != "GET":
        group = "changes"
    else:
        group = "lists" if parts[0] == "aggregated" or len(parts) in (1, 3) else "reads"
    return f"{group} in {region}"


def _action(http: str, path: str) -> str:
    """Return a call's name for errors, such as ``disks.insert``."""
    parts = [part for part in path.split("/") if part]
    if path.startswith("/"):
        del parts[0]
    if parts[0] == "aggregated":
        return f"{parts[1]}.aggregatedList"
    if parts[0] in ("zones", "regions") and len(parts) > 2:
        del parts[:2]
    elif parts[0] == "global":
        del parts[0]
    if len(parts) > 2:
        return f"{parts[0]}.{parts[-1] if parts[0] != 'images' else parts[1]}"
    words = {"POST": "insert", "DELETE": "delete", "GET": "list" if len(parts) == 1 else "get"}
    return f"{parts[0]}.{words.get(http, http)}"

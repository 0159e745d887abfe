"""Extra links of a task: its volumes and its node in the cloud's console, and its group on our page.

Airflow asks a link for its URL in the worker that ends or defers the task, stores that as an XCom, and shows it from
there (``finalize`` of Airflow 3.3.2's ``task_runner.py``). So there is a link while a node runs, and no page of the UI
asks a cloud. The forms of the URLs are those of the amazon and google providers' own links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from airflow_rankvol.backends.base import Backend

#: A link to more than that shows the first ones: the id of a volume has 21 characters, and browsers bound a URL.
MAX_LISTED = 200
#: The page's name in the UI, and the route of its tab on a DAG run.
PAGE_NAME = "Rank volumes"
RUN_ROUTE = "rankvol_run"
#: The console's domain by partition (the amazon provider's ``BaseAwsLink.get_aws_domain``).
_AWS_DOMAINS = {"aws": "aws.amazon.com", "aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}


@dataclass(frozen=True, slots=True)
class Shown:
    """What a task's links lead to: ids as its backend gives them."""

    backend: Backend
    volume_ids: tuple[str, ...] = ()
    node_ids: tuple[str, ...] = ()


class _ConsoleLink(BaseOperatorLink):
    """A link whose URL is made from what the operator has put into its attribute ``shown``."""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL; empty on this machine, and where the task came to nothing that could be shown.

        A task that goes on in another process knows nothing to show: what its first process stored stays.
        """
        shown: Shown | None = getattr(operator, "shown", None)
        if shown is not None:
            return self.url(shown)
        from airflow.sdk.execution_time.xcom import XCom

        return str(XCom.get_value(key=self.xcom_key, ti_key=ti_key) or "")

    def url(self, shown: Shown) -> str:
        """Return the URL for what is shown."""
        raise NotImplementedError


class VolumesInConsole(_ConsoleLink):
    """The task's volumes in the console of EC2 or Compute Engine."""

    name = "Volumes in the cloud's console"

    def url(self, shown: Shown) -> str:
        """Return the URL of the one volume, or of a list."""
        return _url(shown.backend, shown.volume_ids, _AWS_VOLUMES, _GCP_DISKS)


class NodeInConsole(_ConsoleLink):
    """The task's node in the console of EC2 or Compute Engine; of a gather in parts, all of them."""

    name = "Node in the cloud's console"

    def url(self, shown: Shown) -> str:
        """Return the URL of the one node, or of a list."""
        return _url(shown.backend, shown.node_ids, _AWS_NODES, _GCP_NODES)


class GroupOnPage(BaseOperatorLink):
    """The run's groups on the page of this package: the tab of the DAG run."""

    name = PAGE_NAME

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow asks so
        """Return the URL of the tab, below ``[api] base_url``."""
        from airflow.configuration import conf

        base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
        return f"{base}/dags/{quote(ti_key.dag_id, safe='')}/runs/{quote(ti_key.run_id, safe='')}/plugin/{RUN_ROUTE}"


_AWS_VOLUMES = {"one": "VolumeDetails:volumeId=", "many": "Volumes:volumeId=:"}
_AWS_NODES = {"one": "InstanceDetails:instanceId=", "many": "Instances:instanceId=:"}
_GCP_DISKS = {"one": "disksDetail/zones/{zone}/disks/{name}", "many": "disks"}
_GCP_NODES = {"one": "instancesDetail/zones/{zone}/instances/{name}", "many": "instances"}


def _url(backend: Backend, ids: Sequence[str], aws: Mapping[str, str], gcp: Mapping[str, str]) -> str:
    """Return the URL for resources of a backend; empty without any, or where there is no console."""
    known = [resource_id for resource_id in dict.fromkeys(ids) if resource_id]
    # The adapters are not imported for their types: with them would come their SDKs.
    place: Any = backend
    if known and backend.name == "aws":
        return _aws_url(place.clients.region, place.clients.partition, known, aws)
    if known and backend.name == "gcp":
        return _gcp_url(place.session.project, known, gcp)
    return ""


def _aws_url(region: str, partition: str, ids: Sequence[str], page: Mapping[str, str]) -> str:
    domain = _AWS_DOMAINS.get(partition)
    if domain is None:
        return ""
    listed = [quote(resource_id, safe="") for resource_id in ids[:MAX_LISTED]]
    where = page["one" if len(listed) == 1 else "many"] + ",:".join(listed)
    return f"https://console.{domain}/ec2/home?region={quote(region, safe='')}#{where}"


def _gcp_url(project: str, ids: Sequence[str], page: Mapping[str, str]) -> str:
    """Return the URL of one resource, or of the project's list: the console's address bar has no filter by name."""
    path = page["many"]
    if len(ids) == 1:
        zone, _, name = ids[0].partition("/")
        path = page["one"].format(zone=quote(zone, safe=""), name=quote(name, safe=""))
    return f"https://console.cloud.google.com/compute/{path}?project={quote(project, safe='')}"

"""The last task of a rank job with a destination: tells Airflow that new files are there.

Gather cannot do it: a task that ends in the triggerer produces no asset event, neither of its ``outlets`` nor by
``outlet_events`` (``models/trigger.py`` of Airflow 3.3.2 only sets its state; events are registered where a worker
reports success). So the marker after gather, which the group has anyway, becomes a task that a worker runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import Asset, BaseOperator, BaseOperatorLink

from airflow_rankvol._base_operator import resolved
from airflow_rankvol._lineage import lineage_of
from airflow_rankvol.links import GroupOnPage
from airflow_rankvol.templating import shield

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage  # type: ignore[import-not-found]
    from airflow.sdk import Context

_SUMMARY = {"destination", "files", "bytes", "manifest"}


class AnnounceDestination(BaseOperator):
    """Emit an event of the destination's asset, with the group's facts as its ``extra``.

    Args:
        destination: the job's; its asset is known when the DAG file is read unless it is a template.
        volume_group: the job's group.
        result, collected: what gather returned, and the ranks that are in it.

    Returns:
        The event's ``extra``: ``{"dag", "run", "group", "destination", "ranks"}``, and ``files`` and ``bytes`` where
        gather's result is its summary of the copies.
    """

    template_fields: Sequence[str] = ("destination",)
    operator_extra_links: Sequence[BaseOperatorLink] = (GroupOnPage(),)
    ui_color = "#dbe9f6"

    def __init__(
        self,
        *,
        destination: Any,
        volume_group: str,
        result: Any = None,
        collected: Any = None,
        outlets: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.volume_group = volume_group
        # Not templated: a gather whose commands gave null has pushed no result.
        self.result = result
        self.collected = collected
        self.asset = asset_of(destination, self.dag_id, volume_group)
        self.outlets = [self.asset, *outlets]
        self._facts: dict[str, Any] = {}

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Render as the job's tasks do, with ``${{ … }}`` shielded from Jinja."""
        return super().render_template(shield(content) if isinstance(content, str) else content, *args, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Attach the facts to the event that the end of this task is."""
        ti = context["ti"]
        facts: dict[str, Any] = {
            "dag": ti.dag_id,
            "run": ti.run_id,
            "group": self.volume_group,
            "destination": str(self.destination),
            "ranks": list(resolved(self.collected, context) or ()),
            **_sums(resolved(self.result, context)),
        }
        context["outlet_events"][self.asset].extra.update(facts)
        self._facts = facts
        return facts

    def get_openlineage_facets_on_start(self) -> OperatorLineage:
        """Return the destination, which is written by now, without its figures."""
        return lineage_of({"group": self.volume_group}, str(self.destination))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage:  # noqa: ARG002 - it asks so
        """Return the destination with the numbers of files and bytes, and the facts of the event."""
        return lineage_of(self._facts, str(self.destination))


def asset_of(destination: Any, dag_id: str, group_id: str) -> Asset:
    """Return the asset of a destination: its own URI, or the group's where only a run knows the destination.

    A template mostly names the run. An asset for each of them would grow Airflow's database, and no DAG could name one
    as its schedule.
    """
    text = destination if isinstance(destination, str) else ""
    if text and "{{" not in text and "{%" not in text:
        try:
            return Asset(uri=f"file://{text}" if text.startswith("/") else text)
        except ValueError:
            pass  # no URI that Airflow takes; whether it is a destination at all, the plan task says
    return Asset(uri=f"rankvol://{quote(dag_id, safe='')}/{quote(group_id, safe='')}")


def _sums(result: Any) -> dict[str, int]:
    """Return the numbers of files and bytes, where a result is gather's summary or the list of its parts'."""
    parts = result if isinstance(result, list) else [result]
    if not parts or not all(isinstance(part, Mapping) and set(part) == _SUMMARY for part in parts):
        return {}
    return {name: sum(part[name] for part in parts) for name in ("files", "bytes")}

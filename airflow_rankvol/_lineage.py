"""What OpenLineage is told of a task, where Airflow's provider for it is installed.

The provider asks an operator for these facets in the worker that begins or ends the task
(``airflow.providers.openlineage.extractors.base.DefaultExtractor``). A task that ends in the triggerer is ended by no
worker: of ranks and gather there is the begin, and the end is part of the DAG run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage  # type: ignore[import-not-found]

#: The facet's key, and who defines it: https://openlineage.io/docs/spec/facets/#custom-facet-naming
FACET = "rankvol"


class TellsLineage:
    """A task of a rank job that tells OpenLineage what its group is."""

    volume_group: str | None
    task_id: str
    nodes: Any
    conn_id: str

    def get_openlineage_facets_on_start(self) -> OperatorLineage:
        """Return the group's facts, and those of the rank where the task is one rank's."""
        slot = getattr(self, "slot", None)
        facts = {
            "group": self.volume_group or self.task_id.rpartition(".")[0],
            "nodes": self.nodes,
            "conn_id": self.conn_id,
            # A mapped task's slot is an XComArg until it is rendered.
            **({name: slot[name] for name in ("rank", "zone", "volumes")} if isinstance(slot, Mapping) else {}),
        }
        return lineage_of(facts)


def lineage_of(facts: Mapping[str, Any], destination: str = "") -> OperatorLineage:
    """Return the facts of a task's group as a run facet, and its destination as the output.

    Args:
        facts: JSON values; with a destination, its ``files`` and ``bytes`` where they are known.
        destination: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``file:///path`` or ``/path``.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    known = {name: value for name, value in facts.items() if value not in (None, "", [], ())}
    outputs = [_dataset(destination, facts)] if destination else []
    return OperatorLineage(run_facets={FACET: _facet_class()(known)}, outputs=outputs)


@cache
def _facet_class() -> Any:
    """Return the class of the run facet; its base is in a package that may not be there."""
    from attrs import define
    from openlineage.client.facet_v2 import RunFacet  # type: ignore[import-not-found]

    @define
    class RankVolumesRunFacet(RunFacet):  # type: ignore[misc]  # see above
        """A rank job's group, as one of its tasks knows it."""

        group: dict[str, Any]

    return RankVolumesRunFacet


def _dataset(destination: str, facts: Mapping[str, Any]) -> Any:
    """Return a destination by OpenLineage's names: https://openlineage.io/docs/spec/naming."""
    from openlineage.client.event_v2 import OutputDataset  # type: ignore[import-not-found]
    from openlineage.client.facet_v2 import output_statistics_output_dataset

    place = urlsplit(destination)
    in_bucket = place.scheme not in ("", "file")
    namespace = f"{place.scheme}://{place.netloc}" if in_bucket else "file"
    name = (place.path.strip("/") or "/") if in_bucket else place.path
    figures = {"size": facts.get("bytes"), "fileCount": facts.get("files")}
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(**figures)
    has_figures = any(value is not None for value in figures.values())
    return OutputDataset(
        namespace=namespace, name=name, outputFacets={"outputStatistics": statistics} if has_figures else {}
    )

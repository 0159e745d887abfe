"""The reaper as an operator: what `rankvol reap --yes` does, from inside Airflow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator
from pydantic import TypeAdapter

from airflow_rankvol._cli_output import render
from airflow_rankvol._reaping import REAP_COLUMNS, Place, Survey, cells, configured_conn_ids, look, place_of
from airflow_rankvol._runs import settled_state
from airflow_rankvol.engine.reap import ReapRules, RunState
from airflow_rankvol.errors import LeakError, RankVolError
from airflow_rankvol.spec.sizes import parse_duration

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_rankvol.engine.reap import RunStateOf

#: Every run of the reaper that could remove what it wanted to is an event of this asset, with its counts as ``extra``.
REAPED_ASSET = "rankvol://reaped"


class ReapRankVolumes(BaseOperator):
    """Remove what runs have left behind, by the rules of ``rankvol reap``, and report it.

    Whether a run lives is asked of Airflow's API; a run that has ended counts as live as long as a task of it, such as
    its teardown, is queued, runs or is deferred.

    Args:
        conn_ids: where to look, as a list or comma-separated; default: ``[rankvol] conn_ids``.
        dag_filter: only what belongs to the DAG of this id.
        older_than: leave what is younger, such as ``2h``.
        only_list: remove nothing, only report.

    Returns:
        ``{"removed", "failed", "to_remove", "kept", "live"}``: numbers of volumes and nodes; ``to_remove`` with
        ``only_list``, ``live`` for those of live runs. The same is the ``extra`` of an event of the asset
        ``rankvol://reaped``.

    Raises:
        LeakError: naming what could not be removed, and the connections that could not be looked into; all others were
            gone through before.
    """

    template_fields: Sequence[str] = ("conn_ids", "dag_filter", "older_than", "only_list")
    ui_color = "#f3e1d0"

    def __init__(
        self,
        *,
        conn_ids: Sequence[str] | str | None = None,
        dag_filter: str | None = None,
        older_than: Any = None,
        only_list: Any = False,
        outlets: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(outlets=[Asset(REAPED_ASSET), *outlets], **kwargs)
        self.conn_ids = conn_ids
        self.dag_filter = dag_filter
        self.older_than = older_than
        self.only_list = only_list

    def execute(self, context: Context) -> dict[str, int]:
        """Look through every connection, remove what goes, and report."""
        troubles: list[str] = []
        rules = ReapRules(older_than=parse_duration(self.older_than) if self.older_than else timedelta())
        only_list = TypeAdapter(bool).validate_python(self.only_list)
        surveys, _ = look(self._places(troubles), self._asking(context), rules, troubles.append)
        for found in surveys if not only_list else ():
            try:
                # Asked anew: a task may have been cleared since.
                found.reap(self._asking(context))
            except (RankVolError, OSError) as exc:
                troubles.append(f"{found.place.conn_id}: {exc}")
        rows = [row for found in surveys for row in found.rows()]
        counts = _counts(rows)
        self._report(rows, counts)
        self._raise(surveys, troubles)
        context["outlet_events"][Asset(REAPED_ASSET)].extra.update(counts)
        return counts

    def _places(self, troubles: list[str]) -> list[Place]:
        """Return where to look; a connection that is wrong must not keep the others from being looked into."""
        given = self.conn_ids.split(",") if isinstance(self.conn_ids, str) else self.conn_ids or ()
        conn_ids = [conn_id.strip() for conn_id in given if conn_id.strip()] or configured_conn_ids()
        places = []
        for conn_id in dict.fromkeys(conn_ids):
            try:
                places.append(place_of(conn_id, dag=self.dag_filter or None))
            except (RankVolError, OSError) as exc:
                troubles.append(f"{conn_id}: {exc}")
        return places

    def _asking(self, context: Context) -> RunStateOf:
        """Return how a run's state is told, now."""
        ti, log = context["ti"], self.log

        def state_of(dag: str, run: str) -> RunState:
            return settled_state(ti, dag, run, log)

        return state_of

    def _report(self, rows: Sequence[dict[str, Any]], counts: dict[str, int]) -> None:
        """Log what went and what stays; what belongs to live runs only as a number."""
        shown = [cells(row, ("conn_id", *REAP_COLUMNS)) for row in rows if not _is_live(row)]
        if shown:
            self.log.info("Left behind:\n%s", render(shown, "table"))
        self.log.info("%s", ", ".join(f"{name.replace('_', ' ')}: {number}" for name, number in counts.items()))

    def _raise(self, surveys: Sequence[Survey], troubles: Sequence[str]) -> None:
        problems = {label: why for found in surveys for label, why in found.problems.items()}
        if not problems and not troubles:
            return
        lines = [*(f"{label}: {why}" for label, why in problems.items()), *troubles]
        raise LeakError(
            "not everything that runs have left behind could be looked for and removed; the rest is done, and the next "
            "run tries again:\n" + "\n".join(lines),
            resources=list(problems),
        )


def _is_live(row: dict[str, Any]) -> bool:
    return bool(row["run_state"] == RunState.LIVE and row["action"] == "keep")


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    actions = ["live" if _is_live(row) else row["action"] for row in rows]
    return {
        "removed": actions.count("removed"),
        "failed": actions.count("failed"),
        "to_remove": actions.count("remove"),
        "kept": actions.count("keep"),
        "live": actions.count("live"),
    }

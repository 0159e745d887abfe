"""Goes on with a DAG run in a process of its own: ``worker.py DAG_FILE RUN_ID [die-in-create]``.

With ``die-in-create`` it dies by SIGKILL when create_volumes makes its third volume, after the other two.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.hooks import get_backend
from tests.airflow.harness import DagBench, Run, initialise


def die_in_create(run_id: str) -> None:
    kind = type(get_backend())
    create = kind.create_volume

    def dying(self, request):  # type: ignore[no-untyped-def]
        if request.tags.rank == 2:
            while len(self.list_owned(Selector(request.tags.owner, run=run_id)).volumes) < 2:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        return create(self, request)

    kind.create_volume = dying  # type: ignore[method-assign]


def main(path: str, run_id: str, how: str = "") -> None:
    spec = importlib.util.spec_from_file_location("worker_dag", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if how == "die-in-create":
        die_in_create(run_id)
    DagBench(initialise(), "worker").resume(Run(module.dag, run_id))


if __name__ == "__main__":
    main(*sys.argv[1:])

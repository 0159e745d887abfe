"""Goes on with a DAG run, and dies by SIGKILL when create_volumes makes its third volume."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys

from airflow_rankvol.backends.local import LocalBackend
from tests.airflow.harness import DagBench, Run, initialise


def main(path: str, run_id: str) -> None:
    spec = importlib.util.spec_from_file_location("killed_dag", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    create = LocalBackend.create_volume

    def dying(self: LocalBackend, request):  # type: ignore[no-untyped-def]
        if request.tags.rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return create(self, request)

    LocalBackend.create_volume = dying  # type: ignore[method-assign]
    DagBench(initialise(), "killed").resume(Run(module.dag, run_id))


if __name__ == "__main__":
    main(*sys.argv[1:])

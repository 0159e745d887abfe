"""Deleting a disk: the one that was looked at, whatever has its name by now."""

from __future__ import annotations

from airflow_rankvol.backends._gcp_calls import Gce
from airflow_rankvol.backends._gcp_errors import answered, code, of_operation
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._gcp_view import Raw, id_of, split
from airflow_rankvol.errors import BackendError


def delete_disk(gce: Gce, memory: Memory, raw: Raw, verb: str) -> None:
    """Start deleting a disk as it was just described; absent is success.

    disks.delete takes names, and names come again. The requestId is made of the disk's number, which does not: asking
    once more after a lost answer, from any process, is the same operation, and none of the disk that has the name then.

    Raises:
        BackendError: why it stays.
    """
    zone, name = split(id_of(raw))
    token = f"disks.delete/{raw.get('id')}"
    operation: Raw = {}
    for _ in range(2):
        try:
            operation = gce.call(
                "DELETE", f"zones/{zone}/disks/{name}", verb, id_of(raw), requestId=memory.request_id(token)
            )
        except BackendError as exc:
            if code(exc) != "notFound":
                raise
            return
        # One that is over at once is of a try before; where it had failed, it says nothing of now.
        if operation.get("status") != "DONE" or of_operation(operation) is None:
            return
        memory.spend(token)
    error = of_operation(operation)
    if error is not None:
        raise answered(error, verb, id_of(raw), "disks.delete") from error

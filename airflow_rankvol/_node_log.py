"""What nodes print, in the log of their task: as a group that Airflow folds, its secrets masked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_rankvol._readings import readings
from airflow_rankvol.engine.work import Work

if TYPE_CHECKING:
    from airflow_rankvol.engine.follow import Screen
    from airflow_rankvol.engine.launch import Launcher

#: Shorter lines of a secret are no secrets: they would hide what is none.
LEAST_LINE = 8


class Logger(Protocol):
    """As much of a task's logger as is needed here."""

    def info(self, event: Any, /, *args: Any) -> Any: ...

    def warning(self, event: Any, /, *args: Any) -> Any: ...


class NodeLog:
    """One group of lines for all nodes of a task; opened with the first line."""

    def __init__(self, log: Logger, works: Sequence[Work]) -> None:
        self._log = log
        self._works = works
        self._lock = threading.Lock()  # the parts of gather come from several threads
        self._open = False

    def of(self, work: Work) -> Screen:
        """Return where one node's output goes; where there are several, each line says whose it is."""
        return _Part(self, f"part {work.part}: " if len(self._works) > 1 else "")

    def show(self, lines: Sequence[str]) -> None:
        """Log lines of a node's output."""
        # As one text: a secret may have several lines, and Airflow masks one message after the other.
        text = masked("\n".join(lines))
        with self._lock:
            if not self._open:
                self._open = True
                nodes = ", ".join(work.node_name for work in self._works)
                whose = self._works[0].label if len(self._works) == 1 else self._works[0].role
                self._log.info("::group::Output of %s (%s)", whose, nodes)
            for line in text.split("\n"):
                self._log.info("%s", line)

    def warn(self, message: str) -> None:
        """Log why something cannot be shown."""
        self._log.warning("%s", message)

    def close(self) -> None:
        """End the group: what follows is of the task again."""
        with self._lock:
            if self._open:
                self._open = False
                self._log.info("::endgroup::")


@dataclass(frozen=True, slots=True)
class _Part:
    """One node's lines among those of others."""

    whole: NodeLog
    prefix: str

    def show(self, lines: Sequence[str]) -> None:
        self.whole.show([f"{self.prefix}{line}" for line in lines])

    def warn(self, message: str) -> None:
        self.whole.warn(message)


def masked(text: str) -> str:
    """Return a text without what Airflow masks in this process."""
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # imported there for others, but not listed

    return str(redact(text))


def secrets_of(launcher: Launcher) -> list[str]:
    """Return what Airflow masks in this process, the task's, and a node can print: it stands in what the node is given.

    A triggerer has not read the Variables and connections that templates of the task were rendered with, so it knows
    none of them by itself. A node may print a secret of several lines, such as a key, line by line: each is one, too.
    """
    from airflow.sdk._shared.secrets_masker import _secrets_masker

    known = _secrets_masker().replacer
    if known is None:
        return []
    found = {secret for text in _texts(launcher) for secret in known.findall(text)}
    lines = {line for secret in found for line in map(str.strip, secret.split("\n")) if len(line) >= LEAST_LINE}
    return sorted(found | lines)


def mask_lines(launcher: Launcher) -> None:
    """Mask in this process each line of what is masked here: the log may get one today and the next a moment later."""
    from airflow.sdk.log import mask_secret

    for secret in secrets_of(launcher):
        mask_secret(secret)


def _texts(launcher: Launcher) -> Iterator[str]:
    job = launcher.job
    env: Mapping[str, str] = job.env
    yield from (str(value) for value in env.values())
    yield from (*job.commands, *job.gather)
    for name, content in launcher.files.items():
        yield from readings(name, content)

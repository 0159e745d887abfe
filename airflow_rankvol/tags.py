"""The tags on every volume and node of ours: whose it is, and what may become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

TAG_PREFIX = "rankvol:"
#: Begins what stands for a text that a cloud could not keep, or that somebody has damaged; no id of Airflow's does.
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags that every volume and node of ours carries; the truth about whose it is.

    ``run`` is the run that created the resource. ``key`` is the hash of the group's identity. A node's ``attempt`` is
    the try it belongs to; a volume's is the try of create_volumes that handed it out, and 0 until then. A node's
    ``handout`` says which call of create_volumes its volumes came from: tries are counted anew, and on EC2 ended nodes
    are still listed, when a run was deleted in Airflow and another one has got its id. ``used_by`` is
    the key of the group that a volume was handed out to last, in run ``used_run`` of DAG ``used_dag``; only that one
    may mark it as collected or delete it. An empty ``expiry`` means never. ``collected`` holds the key of the run whose
    gather has this volume's results; ``kept`` when the teardown left a volume to its expiry.
    """

    owner: str
    dag: str
    run: str
    group: str
    key: str
    rank: int = -1
    attempt: int = 0
    handout: str = ""
    scope: str = "run"
    reclaim: str = "delete"
    expiry: str = ""
    collected: str = ""
    role: str = ""
    used_by: str = ""
    used_dag: str = ""
    used_run: str = ""
    kept: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the tags as strings under ``rankvol:…`` keys."""
        return {f"{TAG_PREFIX}{item.name}": str(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, str]) -> Tags | None:
        """Read tags back; None when the resource does not carry our owner and key."""
        if not raw.get(f"{TAG_PREFIX}owner") or not raw.get(f"{TAG_PREFIX}key"):
            return None
        values: dict[str, Any] = {item.name: raw.get(f"{TAG_PREFIX}{item.name}", "") for item in fields(cls)}
        try:
            values["rank"] = int(values["rank"] or -1)
            values["attempt"] = int(values["attempt"] or 0)
        except ValueError:
            return None  # somebody has changed them: nothing may be concluded from the rest
        return cls(**values)

    def made_by(self, group: Group) -> bool:
        """Say whether exactly this run's group created it; one schedule gives several DAGs the same run id."""
        return (self.owner, self.dag, self.run, self.group) == (group.owner, group.dag, group.run, group.group)

    def free_for(self, group: Group) -> bool:
        """Say whether a volume was handed out to nobody else since this run's group got it."""
        return self.used_by in ("", group.key)

    @property
    def user_is_known(self) -> bool:
        """Whether it can be told which run has the volume; if not, nobody can ask whether that run lives."""
        return not any(text.startswith(UNREADABLE) for text in (self.used_dag, self.used_run))

    def with_(self, **changes: Any) -> Tags:
        """Return a copy with some tags changed."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Group:
    """One run's volume group: everything that ``observe`` needs to find all of it in one batch.

    ``key`` marks nodes and run-scoped volumes, ``dag_key`` the volumes that outlive the run, and ``names``
    are the literal names of volumes in global scope.
    """

    owner: str
    dag: str
    run: str
    group: str
    key: str
    dag_key: str
    global_key: str
    names: tuple[str, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """All keys under which this group may own volumes."""
        return frozenset({self.key, self.dag_key, self.global_key})

    def tags(self, **changes: Any) -> Tags:
        """Return tags of this group's run, with the given ones changed."""
        base = Tags(owner=self.owner, dag=self.dag, run=self.run, group=self.group, key=self.key)
        return replace(base, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form for a trigger's fields."""
        return {**asdict(self), "names": list(self.names)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Group:
        """Read the plain form back."""
        return cls(**{**raw, "names": tuple(raw["names"])})

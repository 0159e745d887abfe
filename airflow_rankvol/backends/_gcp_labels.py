"""Tags as labels: Compute Engine takes 63 characters of ``[a-z0-9_-]`` where a run id may hold anything.

What does not fit stands escaped where that is short enough, else as a hash; the whole text of what never changes is in
the ``description``, which cannot be changed. What changes later has to come back from the labels alone: a long text is
spread over numbered labels, and only one that is too long even for those is left as its hash. Then nobody reads a run's
id from it, unless it is that of the run, or the DAG, that made the volume; so that run counts as one that lives.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import TAG_PREFIX, Tags
from airflow_rankvol.tags import UNREADABLE

PREFIX = "rankvol-"
#: Compute Engine's documentation, "Organize resources by using labels": 64 labels with 63 characters in key and value.
MAX_LABELS, MAX_CHARACTERS = 64, 63
#: A text is spread over at most as many labels: 312 bytes, so that Airflow's ids (250 characters) fit where they are
#: ASCII.
MAX_PARTS = 8

#: What is in the description as a whole.
LASTING = ("owner", "dag", "run", "group", "key")
_NAMES = tuple(item.name for item in fields(Tags))
_PLAIN = re.compile(r"[a-z0-9-]")
_ESCAPE = re.compile(r"_(_|[0-9a-f]{2})")
_SPREAD, _HASHED = "_z", "_h"
_PART_KEY = re.compile(r"rankvol-([a-z]+(?:-[a-z]+)*)(?:-([2-8]))?")
#: "International characters are allowed" (ibid.): what is no capital letter.
_KEY = re.compile(r"[^\W\d_A-Z][\w-]{0,62}")
_VALUE = re.compile(r"[\w-]{0,63}")
_MAX_BYTES = 128


def label_key(name: str) -> str:
    """Return the label of a tag: ``rankvol-used-by`` for ``used_by``."""
    return PREFIX + name.replace("_", "-")


def short(text: str) -> str:
    """Return what one label says of a text: itself where it fits, escaped where it must be, else its hash."""
    escaped = _escaped(text)
    return escaped if len(escaped) <= MAX_CHARACTERS else _hashed(text)


def spread(name: str, text: str) -> dict[str, str]:
    """Return the labels that hold a text as a whole; only its hash where even those are too short.

    Args:
        name: the tag's.
    """
    key = label_key(name)
    if not text:
        return {}
    escaped = _escaped(text)
    if len(escaped) <= MAX_CHARACTERS:
        return {key: escaped}
    packed = base64.b32encode(text.encode()).decode().rstrip("=").lower()
    count = -(-(len(packed) + 3) // MAX_CHARACTERS)
    if count > MAX_PARTS:
        return {key: _hashed(text)}
    whole = f"{_SPREAD}{count}{packed}"
    parts = [whole[at : at + MAX_CHARACTERS] for at in range(0, len(whole), MAX_CHARACTERS)]
    return {key if n == 1 else f"{key}-{n}": part for n, part in enumerate(parts, 1)}


def gather(name: str, labels: Mapping[str, str]) -> str:
    """Return the text that ``spread`` made labels of; ``UNREADABLE`` and a label where that cannot be told."""
    key = label_key(name)
    first = labels.get(key, "")
    if first.startswith(_HASHED):
        return UNREADABLE + first
    text = _packed(key, labels) if first.startswith(_SPREAD) else _plain(first)
    if text is None or any(labels.get(part) != found for part, found in spread(name, text).items()):
        return UNREADABLE + first
    return text


def _packed(key: str, labels: Mapping[str, str]) -> str | None:
    """Return the text of numbered labels; None where they hold none."""
    first = labels[key]
    count = int(first[2]) if first[2:3].isdecimal() else 0
    packed = (first[3:] + "".join(labels.get(f"{key}-{n}", "") for n in range(2, count + 1))).upper()
    try:
        return base64.b32decode(packed + "=" * (-len(packed) % 8)).decode()
    except (binascii.Error, ValueError):
        return None


def labels_of(tags: Tags, mine: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return all labels of a resource.

    Args:
        mine: the user's own.
    """
    found = dict(mine or {})
    for name, text in _texts(tags).items():
        found |= ({label_key(name): short(text)} if text else {}) if name in LASTING else spread(name, text)
    return found


def description_of(tags: Tags) -> str:
    """Return the description of a resource: the whole texts of what never changes."""
    texts = {name: getattr(tags, name) for name in LASTING}
    return json.dumps({"rankvol": texts}, ensure_ascii=False, separators=(",", ":"))


def tags_of(labels: Mapping[str, str], description: str) -> Tags | None:
    """Return the tags that labels and description make; None where they are not ours, or do not fit each other."""
    if not labels.get(label_key("owner")) or not labels.get(label_key("key")):
        return None
    try:
        lasting = json.loads(description)["rankvol"]
        texts = {name: lasting[name] for name in LASTING}
    except (ValueError, KeyError, TypeError):
        return None
    if any(not isinstance(text, str) or labels.get(label_key(name), "") != short(text) for name, text in texts.items()):
        return None
    texts |= {name: gather(name, labels) for name in _NAMES if name not in LASTING}
    # Most often the DAG, or the run, that made a volume has it; then a hash is enough.
    for used, made in (("used_dag", "dag"), ("used_run", "run")):
        if texts[used] == UNREADABLE + _hashed(texts[made]):
            texts[used] = texts[made]
    return Tags.from_dict({f"{TAG_PREFIX}{name}": text for name, text in texts.items()})


def changed(labels: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """Return a resource's labels with some ``rankvol:…`` tags set anew.

    Raises:
        ConfigError: a tag that never changes is among them.
    """
    names = {tag.removeprefix(TAG_PREFIX): text for tag, text in tags.items()}
    lasting = [name for name in names if name in LASTING or name not in _NAMES]
    if lasting:
        raise ConfigError(f"tag {lasting[0]!r}: it is set when a volume is made, and cannot be changed")
    keys = {label_key(name) for name in names}
    kept = {key: value for key, value in labels.items() if _base(key) not in keys}
    for name, text in names.items():
        kept |= spread(name, text)
    return kept


def check_labels(tags: Mapping[str, str], where: str) -> None:
    """Refuse a user's tags that cannot be labels.

    Raises:
        ConfigError: names the tag, and what a label may be.
    """
    for key, value in tags.items():
        wrong = _wrong_label(key, value)
        if wrong:
            raise ConfigError(f"{where}: tag {key!r} with the value {value!r} cannot be a label: {wrong}")
    left = _room(tags)
    if left < 0:
        raise ConfigError(
            f"{where}: {len(tags)} tags; of the {MAX_LABELS} labels that Compute Engine takes, {len(tags) + left} are "
            "free for them. Leave some out"
        )


def _wrong_label(key: str, value: str) -> str:
    """Say what keeps a user's tag from being a label; empty where nothing does."""
    if not _KEY.fullmatch(key) or key != key.lower() or len(key.encode()) > _MAX_BYTES:
        return "a label's key has 1 to 63 lower-case letters, digits, dashes and underscores, the first a letter"
    if not _VALUE.fullmatch(value) or value != value.lower() or len(value.encode()) > _MAX_BYTES:
        return "a label's value has up to 63 lower-case letters, digits, dashes and underscores"
    return ""


def _room(labels: Mapping[str, str]) -> int:
    """Return how many labels more a volume may have, once every tag that can be set later has its own."""
    later = [name for name in _NAMES if name not in LASTING]
    most = len(LASTING) + len(later) + 2 * (MAX_PARTS - 1)  # of those, used_dag and used_run may be long
    return MAX_LABELS - most - sum(1 for key in labels if not key.startswith(PREFIX))


def _texts(tags: Tags) -> dict[str, str]:
    return {name: str(getattr(tags, name)) for name in _NAMES}


def _base(key: str) -> str:
    found = _PART_KEY.fullmatch(key)
    return PREFIX + found[1] if found else key


def _escaped(text: str) -> str:
    return "".join(
        char if _PLAIN.fullmatch(char) else "__" if char == "_" else "".join(f"_{byte:02x}" for byte in char.encode())
        for char in text
    )


def _plain(escaped: str) -> str | None:
    """Return the text of an escaped one; None where it is none."""
    raw = bytearray()
    at = 0
    while at < len(escaped):
        found = _ESCAPE.match(escaped, at)
        if found is None and escaped[at] == "_":
            return None
        if found is None:
            raw += escaped[at].encode()
            at += 1
            continue
        raw += b"_" if found[1] == "_" else bytes.fromhex(found[1])
        at = found.end()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _hashed(text: str) -> str:
    return _HASHED + hashlib.sha256(text.encode()).hexdigest()[:40]

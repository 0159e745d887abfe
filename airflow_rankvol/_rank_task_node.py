"""What runs a shipped function on a node: with the standard library alone, from Python 3.9 on."""

# This file travels in every node's start script: keep it short.
from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import os
import platform
import shutil
import site
import subprocess
import sys


def main() -> None:
    """Call the function as ``call.json`` says, and write what it returns to the rank's result."""
    with open("_rankvol/call.json", encoding="utf-8") as file:
        call = json.load(file)
    name, rank, volume = call["function"], int(os.environ["NODE_RANK"]), os.environ["VOLUME_PATH"]
    sys.path[0] = os.getcwd()
    if call["requirements"]:
        use(provide(call["requirements"], f"{volume}/.rankvol/python"))
    given = {"rank": rank, "nodes": int(os.environ["NODES_NUM"]), "volume": volume}
    try:
        function = getattr(importlib.import_module("_rankvol.shipped"), name)
        value = function(**call["arguments"], **{key: given[key] for key in call["injected"]})
    except ModuleNotFoundError as exc:
        say(f"this node's Python has no module {exc.name!r}: name its package in requirements, or the file in files")
        raise
    problem = not_json(value)
    if problem:
        sys.exit(f"rankvol: rank {rank}: {name}() returned {problem}; expected a JSON value: None, bool, int, float, "
                 "str, list, or dict with str keys")  # fmt: skip
    with open(os.environ["RANKVOL_RESULT"], "w", encoding="utf-8") as file:
        json.dump(value, file)


def not_json(value: object, where: str = "") -> str:
    """Return what in a value is not JSON, and where; nothing when it is."""
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return ""
    if isinstance(value, (list, tuple)):
        return next(filter(None, (not_json(item, f"{where}[{i}]") for i, item in enumerate(value))), "")
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return next(filter(None, (not_json(item, f"{where}[{key!r}]") for key, item in value.items())), "")
    kind = type(value).__name__
    if isinstance(value, dict):
        kind += " with keys that are not str"
    elif isinstance(value, float):
        kind += f" {value}"
    return kind + (f" at {where}" if where else "")


def provide(wanted: list[str], cache: str) -> str:
    """Return the directory on the volume that holds the packages; install them if no earlier attempt has."""
    key = json.dumps([sys.version_info[:2], platform.machine(), wanted])
    folder = f"{cache}/{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if os.path.isdir(folder):
        say(f"requirements: found on the volume in {folder}")
        return folder
    fresh = f"{folder}.new"  # renamed once it is whole
    shutil.rmtree(fresh, ignore_errors=True)
    os.makedirs(fresh)
    say(f"requirements: installing {', '.join(wanted)} into {folder}")
    if subprocess.call([*installer(), "--target", fresh, *wanted]):
        sys.exit(f"rankvol: the requirements {', '.join(wanted)} could not be installed; see above")
    if os.path.ismount(os.environ["VOLUME_PATH"]):
        subprocess.call(["sync", "-f", fresh])
    os.rename(fresh, folder)
    return folder


def installer() -> list[str]:
    """Return the command that installs packages: uv's, or that of a pip."""
    uv = shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--no-cache", "--link-mode", "copy", "--python", sys.executable]
    python = sys.executable
    if not importlib.util.find_spec("pip"):
        if subprocess.call([python, "-m", "venv", "_rankvol/venv"]):
            sys.exit("rankvol: requirements: this node has neither uv nor pip, and its python3 cannot make a venv; "
                     "expected one of them on its image")  # fmt: skip
        python = "_rankvol/venv/bin/python3"
    return [python, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"]


def use(folder: str) -> None:
    """Let this process and those that it starts find the packages of a directory, before all others."""
    sys.path.insert(1, folder)
    site.addsitedir(folder)
    for variable, at in (("PYTHONPATH", folder), ("PATH", f"{folder}/bin")):
        rest = os.environ.get(variable)
        os.environ[variable] = f"{at}:{rest}" if rest else at


def say(text: str) -> None:
    """Write a line to the rank's log, before what programs of ours write."""
    print(f"rankvol: {text}", flush=True)  # noqa: T201 - stdout is the log


if __name__ == "__main__":
    main()

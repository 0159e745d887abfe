"""Primes of one rank's share of the numbers, or of all shares together: the work of the DAG ``primes_anywhere``.

Needs nothing but Python 3.9 or later, so that any image of any cloud can run it:

    NODE_RANK=0 NODES_NUM=4 python3 primes.py find 100000 primes.txt
    python3 primes.py merge primes-0.txt primes-1.txt …
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path


def primes_of(rank: int, nodes: int, limit: int) -> list[int]:
    """Return the primes in one of ``nodes`` blocks of the numbers below a limit."""
    small = [number for number in range(2, int(limit**0.5) + 1) if all(number % by for by in range(2, number))]
    mine = range(max(2, limit * rank // nodes), limit * (rank + 1) // nodes)
    return [number for number in mine if all(number % by for by in small if by < number)]


def find(limit: str, path: str) -> dict[str, int]:
    """Write a rank's primes to a file on its volume."""
    rank, nodes = int(os.environ["NODE_RANK"]), int(os.environ["NODES_NUM"])
    primes = primes_of(rank, nodes, int(limit))
    Path(path).write_text("".join(f"{prime}\n" for prime in primes), encoding="ascii")
    return {"rank": rank, "primes": len(primes)}


def merge(*paths: str) -> dict[str, int | str]:
    """Read the ranks' files and sum them up; the digest stands for every single prime."""
    primes = sorted(int(line) for path in paths for line in Path(path).read_text(encoding="ascii").split())
    digest = hashlib.sha256(",".join(map(str, primes)).encode()).hexdigest()
    return {"files": len(paths), "primes": len(primes), "largest": primes[-1], "sha256": digest}


if __name__ == "__main__":
    result = find(*sys.argv[2:]) if sys.argv[1] == "find" else merge(*sys.argv[2:])
    print(json.dumps(result))
    Path(os.environ.get("RANKVOL_RESULT", os.devnull)).write_text(json.dumps(result), encoding="utf-8")

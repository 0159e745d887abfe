"""The start script as user data of an instance."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace

import pytest

from airflow_rankvol.backends._aws_userdata import MAX_USER_DATA, user_data
from airflow_rankvol.engine.bootstrap import render
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import Attachment
from tests.unit.aws.shell import SPEC


def test_what_is_packed_is_the_script_and_always_the_same_bytes() -> None:
    script = render(SPEC, "ec2") + "# é\n"
    data = user_data(script)
    assert data == user_data(script)
    # cloud-init looks at the first bytes: 1f 8b is gzip, and what it unpacks has to begin with "#!".
    assert data[:2] == b"\x1f\x8b"
    assert gzip.decompress(data).decode() == script
    assert script.startswith("#!/bin/bash\n")


def test_an_empty_job_leaves_nine_kib_to_files_and_commands() -> None:
    assert len(user_data(render(SPEC, "ec2"))) <= 7 * 1024


def test_a_gather_over_every_attachment_of_the_largest_instance_fits() -> None:
    # m8g.48xlarge takes 128 volumes, whose ids and names do not compress well.
    volumes = tuple(
        Attachment(f"vol-0{os.urandom(8).hex()}", f"data-volume-1f2e3d4c-{rank}", "/data_volume", rank, read_only=True)
        for rank in range(128)
    )
    assert len(user_data(render(replace(SPEC, attachments=volumes, nodes=128), "ec2"))) < MAX_USER_DATA * 2 / 3


def test_a_file_of_eight_kib_fits_whatever_it_holds() -> None:
    assert len(user_data(render(replace(SPEC, files={"a": os.urandom(8 * 1024)}), "ec2"))) <= MAX_USER_DATA


def test_a_script_that_is_too_large_is_refused_with_the_way_out() -> None:
    script = render(replace(SPEC, files={"a": os.urandom(16 * 1024)}), "ec2")
    with pytest.raises(ConfigError) as caught:
        user_data(script)
    message = str(caught.value)
    assert f"has {len(gzip.compress(script.encode(), mtime=0))} bytes compressed ({len(script)} before)" in message
    assert "EC2 takes at most 16384" in message
    assert "files, commands" in message
    assert "staging='s3://bucket/prefix'" in message


def test_the_limit_itself_fits() -> None:
    noise = os.urandom(MAX_USER_DATA).hex()
    size = next(n for n in range(28_000, len(noise)) if len(gzip.compress(noise[:n].encode(), mtime=0)) > MAX_USER_DATA)
    assert len(user_data(noise[: size - 1])) <= MAX_USER_DATA
    with pytest.raises(ConfigError):
        user_data(noise[:size])

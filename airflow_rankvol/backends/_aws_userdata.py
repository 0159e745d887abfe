"""A node's start script as EC2 takes it: the user data of an instance."""

from __future__ import annotations

import gzip

from airflow_rankvol.errors import ConfigError

#: RunInstances: "User data is limited to 16 KB, in raw form, before it is base64-encoded".
MAX_USER_DATA = 16384


def user_data(script: str) -> bytes:
    """Return the script as user data, compressed; not yet in base64, which boto3 does.

    cloud-init runs user data that starts with ``#!`` and unpacks it first where it is gzip (its documentation, "User
    data formats"). The same script gives the same bytes: a ClientToken stands for one request only.

    Raises:
        ConfigError: it is larger than EC2 takes.
    """
    data = gzip.compress(script.encode(), mtime=0)
    if len(data) > MAX_USER_DATA:
        raise ConfigError(
            f"the node's start script has {len(data)} bytes compressed ({len(script.encode())} before); EC2 takes at "
            f"most {MAX_USER_DATA}. Its own part is about 6 KiB; files, commands, env and, for gather, the list of "
            "volumes take the rest. Set staging='s3://bucket/prefix', and files travel through S3; where it is set, "
            "put long commands into a file, too"
        )
    return data

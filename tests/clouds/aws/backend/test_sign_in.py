"""Ways of signing in that fail at the first call, when the hook fetches credentials: the connection is named."""

from __future__ import annotations

import json

import pytest

from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.errors import AuthDenied
from airflow_rankvol.hooks import RankVolHook
from tests.clouds.aws.backend.kit import settings
from tests.clouds.aws.client import Double

WEB_IDENTITY = {
    "role_arn": "arn:aws:iam::123456789012:role/x",
    "assume_role_method": "assume_role_with_web_identity",
    "assume_role_with_web_identity_federation": "file",
    "assume_role_with_web_identity_token_file": "/nope/token",
}


def test_a_web_identity_without_its_tokens_file_is_the_connections_matter(double: Double) -> None:
    with pytest.raises(AuthDenied, match="Correct its login or its extra") as refused:
        Ec2(Clients(settings(double, **WEB_IDENTITY))).node("i-0123", "observe")
    assert "the connection aws_test cannot sign in: FileNotFoundError" in str(refused.value)
    assert "/nope/token" in str(refused.value)


def test_test_connection_says_what_works_and_which_right_is_missing(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {**double.connection_extra(), "owner": "lab"}
    login = {"login": "AKIA0000000000000000", "password": "testing"}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_LAB", json.dumps({"conn_type": "aws", **login, "extra": extra}))
    signed_in = "aws: owner 'lab' has 0 volumes and 0 nodes there"
    not_tried = "not tried: the rights to tag, attach, read and remove them (docs/aws.md lists all)"
    made = "volumes and nodes may be made"
    assert RankVolHook("aws_lab").test_connection() == (True, f"{signed_in}; {made}; {not_tried}")
    double("deny", actions=["ec2:CreateVolume"])
    worked, said = RankVolHook("aws_lab").test_connection()
    assert not worked
    assert said.startswith(f"{signed_in}; but aws check ")
    assert "CreateVolume answered UnauthorizedOperation" in said
    double("deny", actions=["ec2:DescribeVolumes"])
    worked, said = RankVolHook("aws_lab").test_connection()
    assert not worked
    assert "DescribeVolumes answered UnauthorizedOperation" in said
    assert double.state()["volumes"] == {}

"""Ways of signing in that fail at the first call, when the hook fetches credentials: the connection is named."""

from __future__ import annotations

import pytest

from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.errors import AuthDenied
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

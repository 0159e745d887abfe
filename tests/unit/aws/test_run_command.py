"""What a template may say of Run Command, and where SSM says that output is."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_rankvol.backends._aws_run_command import check_fields, split, stored_at
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import NodeTemplate


def template(**fields: Any) -> NodeTemplate:
    return NodeTemplate.model_validate({"report": "ssm", "instance_profile": "p", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lifetime": "48h"},
        {"report_output": "s3://bucket"},
        {"report_output": "s3://my.bucket-1/a/b=c/"},
        {"report_log_group": "/rankvol/jobs.1_x#y"},
    ],
)
def test_what_run_command_takes_is_fine(fields: dict[str, Any]) -> None:
    check_fields(template(**fields), "node")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instance_profile": None}, r"^node\.instance_profile is not set.*docs/aws\.md"),
        ({"lifetime": "49h"}, r"^node\.lifetime: 49 hours; with report='ssm' at most 48"),
        ({"report_output": "bucket/prefix"}, r"^node\.report_output: 'bucket/prefix' was found; expected 's3://bucket"),
        ({"report_output": "gs://bucket"}, "report_output"),
        ({"report_output": "s3://"}, "report_output"),
        ({"report_output": "s3://Bucket"}, "report_output"),
        ({"report_output": "s3://bucket/a b"}, "report_output"),
        ({"report_output": "s3://bucket/$(id)"}, "report_output"),
        ({"report_output": "s3://bucket/" + "x" * 431}, "at most 430"),
        ({"report_log_group": "a group"}, r"^node\.report_log_group: 'a group' was found"),
        ({"report_log_group": "x" * 513}, "at most 512"),
        ({"report_log_group": "a,b"}, "report_log_group"),
    ],
)
def test_what_it_does_not_take_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fields(template(**fields), "node")


@pytest.mark.parametrize(
    "url",
    [
        "https://s3.eu-west-1.amazonaws.com/bucket/a/b%20c/stderr",
        "https://s3-eu-west-1.amazonaws.com/bucket/a/b%20c/stderr",
        "https://s3.amazonaws.com/bucket/a/b c/stderr",
        "https://s3.cn-north-1.amazonaws.com.cn/bucket/a/b%20c/stderr",
        "https://bucket.s3.eu-west-1.amazonaws.com/a/b%20c/stderr",
        "https://bucket.s3-eu-west-1.amazonaws.com/a/b%20c/stderr",
    ],
)
def test_output_is_found_by_its_address(url: str) -> None:
    assert stored_at(url) == ("bucket", "a/b c/stderr")


def test_a_bucket_whose_name_has_dots_is_found_too() -> None:
    assert stored_at("https://my.own.bucket.s3.us-east-1.amazonaws.com/k") == ("my.own.bucket", "k")
    assert split("s3://my.own.bucket/a/b") == ("my.own.bucket", "a/b")

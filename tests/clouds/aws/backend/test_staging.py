"""Files that are too large for user data: stored in S3 once, and fetched by the URL that a launch carries."""

from __future__ import annotations

import os
import urllib.request
from typing import Any

import pytest

from airflow_rankvol.backends._aws_calls import Ec2
from airflow_rankvol.backends._aws_staging import S3Staging
from airflow_rankvol.engine.rehearsal import check_scripts, stage
from airflow_rankvol.engine.staging import key_of
from airflow_rankvol.errors import AuthDenied, ConfigError, RetryableError, Throttled
from airflow_rankvol.plan import Plan
from tests.clouds.aws.backend.kit import Lab
from tests.unit.engine.engine_kit import a_plan

PLACE = "s3://staged/some/prefix"
CONTENT = os.urandom(50_000)
KEY = key_of("lab", CONTENT)
FILES = {"model.bin": CONTENT, "small.txt": b"inline"}


@pytest.fixture
def bucket(lab: Lab) -> Any:
    s3 = lab.double.boto3("s3")
    s3.create_bucket(Bucket="staged")
    return s3


def plan(**fields: Any) -> Plan:
    job = {"staging": PLACE, "files": {name: name for name in FILES}, "gather": [], **fields}
    return a_plan(2, owner="lab", **job)


def staging(lab: Lab) -> S3Staging:
    """Return what another process has: it remembers no URL."""
    return S3Staging(Ec2(lab.clients))


def test_a_content_is_stored_once_and_its_url_needs_no_credentials(lab: Lab, bucket: Any) -> None:
    urls = [staging(lab).stage(PLACE, KEY, CONTENT, 60.0) for _ in range(3)]
    for url in urls:
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == CONTENT
    (stored,) = bucket.list_objects_v2(Bucket="staged")["Contents"]
    assert stored["Key"] == f"some/prefix/{KEY}"
    counts = lab.double.counts()
    assert (counts["s3:PutObject"], counts["s3:HeadObject"]) == (1, 3)


def test_a_url_is_of_signature_version_4_and_holds_for_at_least_as_long_as_wanted(lab: Lab, bucket: Any) -> None:
    url = staging(lab).stage(PLACE, KEY, CONTENT, 60.0)
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    assert "X-Amz-Expires=120" in url
    longest = staging(lab).stage(PLACE, KEY, CONTENT, 1e7)
    assert "X-Amz-Expires=604800" in longest


def test_a_repeated_launch_gets_the_same_url_while_it_holds(lab: Lab, bucket: Any) -> None:
    """Another user data under the same ClientToken would be refused."""
    now = [0.0]
    one = S3Staging(Ec2(lab.clients), now=lambda: now[0])
    first = one.stage(PLACE, KEY, CONTENT, 60.0)
    now[0] = 59.0
    assert one.stage(PLACE, KEY, CONTENT, 60.0) == first
    assert lab.double.counts()["s3:HeadObject"] == 1
    now[0] = 61.0
    one.stage(PLACE, KEY, CONTENT, 60.0)
    assert lab.double.counts()["s3:HeadObject"] == 2


def test_an_object_of_another_size_is_stored_again(lab: Lab, bucket: Any) -> None:
    bucket.put_object(Bucket="staged", Key=f"some/prefix/{KEY}", Body=b"cut off")
    staging(lab).stage(PLACE, KEY, CONTENT, 60.0)
    assert bucket.get_object(Bucket="staged", Key=f"some/prefix/{KEY}")["Body"].read() == CONTENT


def test_who_may_not_look_stores_again(lab: Lab, bucket: Any) -> None:
    """S3 answers 403 for what is not there to who may not list the bucket."""
    lab.double("deny", actions=["s3:HeadObject"])
    staging(lab).stage(PLACE, KEY, CONTENT, 60.0)
    assert lab.double.counts()["s3:PutObject"] == 1


def test_who_may_not_store_is_told_so(lab: Lab, bucket: Any) -> None:
    lab.double("deny", actions=["s3:PutObject"])
    with pytest.raises(AuthDenied, match=rf"s3://staged/some/prefix/{KEY}.*AccessDenied.*docs/aws\.md"):
        staging(lab).stage(PLACE, KEY, CONTENT, 60.0)


def test_what_s3_slows_down_is_tried_again(lab: Lab, bucket: Any) -> None:
    lab.double.fault("throttle", "PutObject", service="s3")
    with pytest.raises(Throttled):
        staging(lab).stage(PLACE, KEY, CONTENT, 60.0)
    lab.double.fault("lose", "PutObject", service="s3", when="after")
    with pytest.raises(RetryableError):
        staging(lab).stage(PLACE, KEY, CONTENT, 60.0)
    staging(lab).stage(PLACE, KEY, CONTENT, 60.0)


class TestPlan:
    def test_a_bucket_that_may_be_looked_into_is_fine(self, lab: Lab, bucket: Any) -> None:
        lab.backend.check(plan())
        assert lab.double.counts()["s3:HeadBucket"] == 1

    def test_a_bucket_that_does_not_exist_is_named(self, lab: Lab) -> None:
        with pytest.raises(ConfigError, match=r"staging: 's3://staged/some/prefix': there is no bucket 'staged'"):
            lab.backend.check(plan())

    def test_a_bucket_that_is_somebody_elses_is_denied(self, lab: Lab, bucket: Any) -> None:
        lab.double("deny", actions=["s3:HeadBucket"])
        with pytest.raises(AuthDenied, match=r"check s3://staged.*docs/aws\.md"):
            lab.backend.check(plan())

    def test_a_bucket_of_another_region_is_refused(self, lab: Lab, bucket: Any) -> None:
        west = {"LocationConstraint": "eu-west-3"}
        lab.double.boto3("s3").create_bucket(Bucket="far-away", CreateBucketConfiguration=west)
        with pytest.raises(ConfigError, match=r"lies in eu-west-3, the connection works in us-east-1"):
            lab.backend.check(plan(staging="s3://far-away"))

    def test_another_clouds_storage_is_refused(self, lab: Lab) -> None:
        with pytest.raises(ConfigError, match=r"staging: 'gs://staged' was found; .*'s3://bucket/prefix'"):
            lab.backend.check(plan(staging="gs://staged"))

    def test_without_files_nothing_is_asked_of_s3(self, lab: Lab) -> None:
        lab.backend.check(plan(files={}))
        assert not [name for name in lab.double.counts() if name.startswith("s3:")]


class TestDestination:
    def test_a_bucket_is_the_gather_nodes_business(self, lab: Lab) -> None:
        """Its profile may write where Airflow may not even look."""
        lab.double.boto3("iam").create_instance_profile(InstanceProfileName="writer")
        lab.double("deny", actions=["s3:*"])
        lab.backend.check(plan(files={}, destination="s3://theirs/x", node={"instance_profile": "writer"}))

    @pytest.mark.parametrize("destination", ["/srv/results", "gs://bucket/x"])
    def test_another_place_is_refused(self, lab: Lab, destination: str) -> None:
        with pytest.raises(ConfigError, match=rf"destination: '{destination}'; .*'s3://bucket/prefix'"):
            lab.backend.check(plan(files={}, destination=destination))

    def test_a_gather_node_without_a_profile_is_refused(self, lab: Lab) -> None:
        fields = {"node": {"instance_profile": "writer"}, "gather_node": {"machine_type": "m7i.large"}}
        with pytest.raises(ConfigError, match=r"gather_node\.instance_profile is not set.*s3://theirs/x"):
            lab.backend.check(plan(files={}, destination="s3://theirs/x", **fields))


class TestBeforeAnythingIsCreated:
    def test_what_does_not_fit_is_refused_with_staging_as_the_next_step(self, lab: Lab) -> None:
        with pytest.raises(ConfigError, match=r"^rank 1: .*16384.*staging='s3://bucket/prefix'"):
            check_scripts(lab.backend, plan(staging=None), FILES)

    def test_with_staging_the_large_file_is_stored_and_the_small_one_travels(self, lab: Lab, bucket: Any) -> None:
        wanted = check_scripts(lab.backend, plan(), FILES)
        assert wanted == {KEY: CONTENT}
        stage(lab.backend, plan(), wanted)
        assert [item["Key"] for item in bucket.list_objects_v2(Bucket="staged")["Contents"]] == [f"some/prefix/{KEY}"]

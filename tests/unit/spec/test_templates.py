"""Volume and node templates."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from airflow_rankvol.spec.explain import error_text
from airflow_rankvol.spec.templates import NodeTemplate, ReclaimPolicy, ReportChannel, Scope, VolumeTemplate


def volume(**fields: Any) -> VolumeTemplate:
    return VolumeTemplate.model_validate(fields)


def node(**fields: Any) -> NodeTemplate:
    return NodeTemplate.model_validate(fields)


def problem(model: type[VolumeTemplate | NodeTemplate], **fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(fields)
    return error_text(caught.value)


def test_a_template_has_sensible_defaults() -> None:
    template = VolumeTemplate()
    assert (template.size_gib, template.encrypted, template.expiry) == (10, True, timedelta(hours=24))
    assert template.effective_reclaim is ReclaimPolicy.DELETE


@pytest.mark.parametrize(
    ("scope", "reclaim", "effective"),
    [
        ("run", None, "delete"),
        ("dag", None, "retain"),
        ("global", None, "retain"),
        ("dag", "delete", "delete"),
        ("run", "snapshot", "snapshot"),
        ("run", "delete_always", "delete_always"),
    ],
)
def test_only_run_scope_deletes_by_default(scope: str, reclaim: str | None, effective: str) -> None:
    assert volume(scope=scope, reclaim=reclaim).effective_reclaim == effective


def test_numbers_may_come_as_text() -> None:
    template = volume(size="20", iops="6000", throughput=" 250 ", encrypted="False", expiry="3600")
    assert (template.size_gib, template.iops, template.throughput) == (20, 6000, 250)
    assert template.encrypted is False
    assert template.expiry == timedelta(hours=1)
    assert node(gpus_per_node="8").gpus_per_node == 8


def test_equal_sizes_make_equal_templates() -> None:
    assert volume(size="1024GiB") == volume(size=1024) == volume(size="1 TB")


def test_a_template_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        VolumeTemplate().size = "1GB"


@pytest.mark.parametrize("value", [True, 1.5, "x", "1.5", "", "1e3", [1]])
def test_iops_is_a_whole_number(value: Any) -> None:
    assert problem(VolumeTemplate, iops=value) == f"iops: {value!r} was found; a whole number is expected"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iops": 0}, "iops: 0 was found; it should be greater than or equal to 1"),
        ({"throughput": -1}, "throughput: -1 was found"),
        ({"size": 0}, "size: size 0 is out of range"),
        ({"type": ""}, "type: '' was found; text that is not empty"),
        ({"naming": "infix"}, "naming: 'infix' was found; it should be 'suffix' or 'pattern'"),
        (
            {"reclaim": "keep"},
            "reclaim: 'keep' was found; it should be 'delete', 'delete_always', 'retain' or 'snapshot'",
        ),
        ({"expiry": 0}, "expiry: duration 0 is not above zero"),
        ({"sizes": 1}, "sizes: unknown field; did you mean 'size'?; known: size, type,"),
        ({"snapshot": "snap-1", "image": "img"}, "snapshot and image are both set"),
        ({"kms_key": "k", "encrypted": False}, "a key needs an encrypted volume"),
        ({"delete_adopted": True}, "delete_adopted is set with scope 'run'"),
        ({"delete_adopted": True, "scope": "dag"}, "delete_adopted is set with scope 'dag'"),
        ({"delete_adopted": True, "scope": "global", "reclaim": "retain"}, "contradicts reclaim='retain'"),
    ],
)
def test_a_wrong_volume_template_is_explained(fields: dict[str, Any], message: str) -> None:
    assert message in problem(VolumeTemplate, **fields)


def test_adopted_volumes_may_be_deleted_on_demand() -> None:
    assert volume(scope=Scope.GLOBAL, delete_adopted=True, reclaim="delete").delete_adopted


def test_tags_take_scalars_as_text() -> None:
    assert volume(tags={"team": "x", "cost": 7, "keep": False}).tags == {
        "team": "x",
        "cost": "7",
        "keep": "false",
    }


@pytest.mark.parametrize("model", [VolumeTemplate, NodeTemplate])
@pytest.mark.parametrize("key", ["rankvol:owner", "rankvol-x", "RankVol", "aws:x", "AWS:x", "", "k" * 129, 3])
def test_reserved_and_impossible_tags_are_refused(model: type[VolumeTemplate], key: Any) -> None:
    assert f"tags: tag {key!r}: " in problem(model, tags={key: "x"})


@pytest.mark.parametrize("tags", [{"k": "v" * 257}, {"k": ["v"]}, {"k": None}, ["k"]])
def test_tag_values_are_short_scalars(tags: Any) -> None:
    assert problem(VolumeTemplate, tags=tags).startswith("tags: ")


@pytest.mark.parametrize(
    ("zones", "ranks"),
    [
        ((), [None, None, None]),
        ("a", ["a", "a", "a"]),
        ("a, b", ["a", "b", "a"]),
        (["a", "b"], ["a", "b", "a"]),
    ],
)
def test_ranks_go_round_the_zones(zones: Any, ranks: list[str | None]) -> None:
    template = node(zones=zones)
    assert [template.zone_of(rank) for rank in range(3)] == ranks


def test_a_node_has_timeouts_by_default() -> None:
    node = NodeTemplate()
    assert (node.lifetime, node.boot_timeout) == (timedelta(hours=24), timedelta(minutes=10))


@pytest.mark.parametrize("field", ["lifetime", "boot_timeout"])
@pytest.mark.parametrize("value", [0, "-1h", "soon", timedelta(0)])
def test_timeouts_are_durations_above_zero(field: str, value: Any) -> None:
    assert problem(NodeTemplate, **{field: value}).startswith(f"{field}: duration {value!r} is not")


@pytest.mark.parametrize(
    ("fields", "start"), [({"zones": ["a", ""]}, "zones.1: ''"), ({"gpus_per_node": -1}, "gpus_per_node: -1")]
)
def test_a_wrong_node_template_is_explained(fields: dict[str, Any], start: str) -> None:
    assert problem(NodeTemplate, **fields).startswith(start)


def test_machine_types_are_one_or_several_in_any_spelling() -> None:
    assert node().machine_types == ()
    assert node(machine_type="c7i.large").machine_types == ("c7i.large",)
    several = node(machine_type=["c7i.large", "m7i.large"])
    assert several.machine_types == ("c7i.large", "m7i.large")
    assert several.machine_type == "c7i.large, m7i.large", "what plan prints"
    assert several == node(machine_type="c7i.large,m7i.large") == node(machine_type=("c7i.large , m7i.large",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "'' was found; text that is not empty is expected"),
        ("a,,b", "'' was found"),
        ([], "[] was found; at least one name is expected"),
        (["a", 1], "['a', 1] was found; a name is expected, or several as a list or comma-separated text"),
        ({"a": 1}, "{'a': 1} was found; a name is expected"),
        ("a, b, a", "'a' is there twice"),
        ("a\nb", "control characters"),
    ],
)
def test_wrong_machine_types_are_explained(value: Any, message: str) -> None:
    assert problem(NodeTemplate, machine_type=value).startswith("machine_type: ")
    assert message in problem(NodeTemplate, machine_type=value)


def test_a_subnet_is_one_or_one_per_zone() -> None:
    assert node().subnet_of("a") is None
    assert [node(subnets="s").subnet_of(zone) for zone in ("a", None)] == ["s", "s"]
    each = node(zones="a", subnets={"a": "s1", "b": "s2"})
    assert [each.subnet_of(zone) for zone in ("a", "b", "c", None)] == ["s1", "s2", None, None]


def test_the_zones_of_the_subnets_count_where_no_zones_are_given() -> None:
    template = node(subnets={"b": "s2", "a": "s1"})
    assert [template.zone_of(rank) for rank in range(3)] == ["b", "a", "b"]
    assert node(subnets="s1").zone_of(0) is None
    assert node(zones="a", subnets={"b": "s2", "a": "s1"}).effective_zones == ("a",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subnets": {}}, "subnets: {} was found; a subnet, or a mapping of zones to subnets, is expected"),
        ({"subnets": ["s"]}, "subnets: ['s'] was found"),
        ({"subnets": ""}, "subnets: '' was found; text that is not empty"),
        ({"subnets": {"a": 1}}, "subnets: zone 'a' has the subnet 1; texts are expected"),
        ({"subnets": {"a": " "}}, "subnets: ' ' was found"),
        ({"subnets": {"a": "s"}, "zones": "a, b, c"}, "subnets has none for zone b, c; found some for a. Add it"),
        ({"security_groups": "a,"}, "security_groups.1: '' was found"),
        ({"instance_profile": ""}, "instance_profile: ''"),
        ({"spot": "sometimes"}, "spot: 'sometimes' was found"),
        ({"max_price": "0.1"}, "max_price is set with spot=False"),
        ({"root_size": "big"}, "root_size: size 'big' is not a size"),
        ({"report": "fax"}, "report: 'fax' was found; it should be 'console' or 'ssm'"),
    ],
)
def test_a_wrong_cloud_field_of_a_node_is_explained(fields: dict[str, Any], message: str) -> None:
    assert message in problem(NodeTemplate, **fields)


@pytest.mark.parametrize(
    ("value", "text"),
    [("0.05", "0.05"), (" 1.50 ", "1.5"), (2, "2"), ("10", "10"), (10.0, "10"), (1e-5, "0.00001"), ("007.0", "7")],
)
def test_a_price_is_plain_decimal_text(value: Any, text: str) -> None:
    assert node(spot="true", max_price=value).max_price == text


@pytest.mark.parametrize("value", ["0", 0.0, -1, "1e3", "inf", float("nan"), True, "$1", "", [1], "1."])
def test_what_is_no_price_above_zero_is_refused(value: Any) -> None:
    expected = f"max_price: {value!r} was found; a price above zero is expected, as in '0.05'"
    assert problem(NodeTemplate, spot=True, max_price=value) == expected


def test_a_nodes_fields_may_come_as_text() -> None:
    template = node(spot="True", root_size="50", security_groups="sg-1, sg-2", report="ssm")
    assert (template.spot, template.root_size, template.root_size_gib) == (True, "50GB", 50)
    assert (template.security_groups, template.report) == (("sg-1", "sg-2"), ReportChannel.SSM)
    assert node().root_size_gib is None


def test_templates_go_through_json() -> None:
    one_volume = volume(size=0.5, expiry="1d12h", scope="dag", tags={"a": "b"}, reclaim="snapshot")
    one_node = node(
        machine_type=["x", "y"],
        image="i",
        zones=["a", "b"],
        subnets={"a": "s", "b": "t"},
        security_groups="g, h",
        instance_profile="p",
        key_name="k",
        spot=True,
        max_price="0.10",
        service_account="sa@p.iam.gserviceaccount.com",
        scopes="devstorage.read_only, logging.write",
        network="net",
        network_tags="a, b",
        external_ip=True,
        accelerator="nvidia-tesla-t4",
        gpus_per_node=2,
        root_size="0.5TB",
        root_type="gp3",
        report="ssm",
        report_output="s3://b/p",
        report_log_group="/g",
        lifetime=0.25,
    )
    assert {*NodeTemplate.model_fields} - one_node.model_fields_set == {"boot_timeout", "tags"}
    assert NodeTemplate.model_validate(one_node.model_dump(mode="json", exclude_unset=True)) == one_node
    assert VolumeTemplate.model_validate_json(one_volume.model_dump_json()) == one_volume
    assert NodeTemplate.model_validate(one_node.model_dump(mode="json")) == one_node


def test_what_limits_nothing_is_refused() -> None:
    assert "scopes is set without service_account" in problem(NodeTemplate, scopes="cloud-platform")
    assert "accelerator is set with gpus_per_node=0" in problem(NodeTemplate, accelerator="nvidia-tesla-t4")


@pytest.mark.parametrize("field", ["report_output", "report_log_group"])
def test_output_is_kept_by_run_command_only(field: str) -> None:
    assert f"{field} is set with report='console'" in problem(NodeTemplate, **{field: "s3://bucket"})
    assert node(report="ssm", **{field: "s3://bucket"}).report is ReportChannel.SSM

"""The whole request, and what is said when it cannot work."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from airflow_rankvol.spec.environment import RESERVED_ENV
from airflow_rankvol.spec.job import RankJob, error_text
from airflow_rankvol.spec.mounts import Mount
from airflow_rankvol.spec.templates import Naming, VolumeTemplate

VOLUME = "data-${NODE_RANK}:/data"


def job(**fields: Any) -> RankJob:
    return RankJob.model_validate({"nodes": 2, "volumes": [VOLUME], **fields})


def problem(context: Any = None, **fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        RankJob.model_validate({"nodes": 2, "volumes": [VOLUME], **fields}, context=context)
    return error_text(caught.value)


def test_nodes_and_volumes_are_enough() -> None:
    made = job()
    assert (made.nodes, made.volumes) == (2, (Mount(name="data-${NODE_RANK}", path="/data"),))
    assert (made.commands, made.gather, made.files, made.env, made.secret_env) == ((), (), {}, {}, {})
    assert (made.conn_id, made.group_id, made.gather_node, made.staging) == (
        "rankvol_default",
        "rank_job",
        None,
        None,
    )


def test_nodes_and_volumes_are_required() -> None:
    with pytest.raises(ValidationError) as caught:
        RankJob.model_validate({})
    assert error_text(caught.value) == (
        "nodes: nothing was found; the field is required\nvolumes: nothing was found; the field is required"
    )


class TestNodes:
    @pytest.mark.parametrize("value", [1, 3, "3", " 3 ", 3.0, "3.0", 1024, "1024"])
    def test_whole_numbers_up_to_the_map_length_are_taken(self, value: Any) -> None:
        assert job(nodes=value).nodes == int(float(value))

    @pytest.mark.parametrize("value", [0, -1, 1025, "0", "1025"])
    def test_others_are_refused_with_the_limits(self, value: Any) -> None:
        assert problem(nodes=value).startswith(f"nodes: {int(value)} was found; 1 to 1024 are allowed")

    @pytest.mark.parametrize("value", [True, False, 2.5, "2.5", "two", "", None, [2], float("nan")])
    def test_what_is_no_whole_number_is_refused(self, value: Any) -> None:
        assert problem(nodes=value) == f"nodes: {value!r} was found; a whole number is expected"

    def test_the_context_sets_another_limit(self) -> None:
        context = {"max_nodes": 2000}
        made = RankJob.model_validate({"nodes": 1025, "volumes": VOLUME}, context=context)
        assert made.nodes == 1025
        assert "nodes: 4 was found; 1 to 3 are allowed" in problem({"max_nodes": 3}, nodes=4)


class TestVolumes:
    @pytest.mark.parametrize(
        "volumes",
        [
            VOLUME,
            [VOLUME],
            (VOLUME,),
            {"name": "data-${NODE_RANK}", "path": "/data"},
            [Mount.model_validate(VOLUME)],
        ],
    )
    def test_one_or_several_in_any_syntax_are_taken(self, volumes: Any) -> None:
        assert job(volumes=volumes) == job()

    @pytest.mark.parametrize("volumes", [[], "", None, {}])
    def test_a_job_has_at_least_one(self, volumes: Any) -> None:
        assert (
            problem(volumes=volumes)
            == f"volumes: {volumes!r} was found; at least one volume is expected, as 'name:path'"
        )

    @pytest.mark.parametrize(
        ("volumes", "where", "what"),
        [
            (["data:/data"], "volumes.0.name", "one disk cannot be attached to 2 nodes"),
            ([VOLUME, "x-${NODE_RANK}-y:/x"], "volumes.1.name", "numeric suffix only"),
            (["X-${NODE_RANK}:/x"], "volumes.0.name", "lower-case"),
            (["x" * 60 + "-${NODE_RANK}:/x"], "volumes.0.name", "at most 63 are allowed"),
            (["x-${RANK}:/x"], "volumes.0.name", "unknown variable 'RANK'"),
            (["x-${NODE_RANK}:/etc"], "volumes.0.path", "the node itself needs"),
            ([VOLUME, "b-${NODE_RANK}:/data"], "volumes.1.path", "also the path of volumes.0"),
            ([VOLUME, "b-${NODE_RANK}:/data/b"], "volumes.1.path", "lies below '/data' of volumes.0"),
            (["b-${NODE_RANK}:/data/b", VOLUME], "volumes.0.path", "lies below '/data' of volumes.1"),
            ([VOLUME, "data-${NODE_RANK}:/b"], "volumes.1.name", "also the name of volumes.0"),
            ([VOLUME, "data-${{ node_rank }}:/b"], "volumes.1.name", "one has to differ"),
            ([VOLUME, "data${NODE_RANK}:/b"], "volumes.1.name", "as does 'data-${NODE_RANK}' of volumes.0"),
            ([{"name": "x-${NODE_RANK}", "path": "/x", "size": "0"}], "volumes.0.size", "out of range"),
            (
                [{"name": "x-${NODE_RANK}", "path": "/x", "delete_adopted": True}],
                "volumes.0",
                "only 'global' volumes",
            ),
        ],
    )
    def test_an_error_says_at_which_volume_and_field(self, volumes: Any, where: str, what: str) -> None:
        text = problem(volumes=volumes)
        assert text.startswith(f"{where}: ")
        assert what in text
        assert "\n" not in text

    def test_the_name_of_a_neighbour_path_is_no_nesting(self) -> None:
        assert len(job(volumes=[VOLUME, "b-${NODE_RANK}:/data2"]).volumes) == 2

    def test_the_names_are_checked_under_the_jobs_template(self) -> None:
        volumes = ["shard-${{ node_rank:03d }}-of-${{ nodes_num }}:/data"]
        assert problem(volumes=volumes).startswith("volumes.0.name: ")
        assert job(volumes=volumes, volume_template=VolumeTemplate(naming=Naming.PATTERN)).nodes == 2
        assert job(volumes=["Data_${NODE_RANK}:/d"], volume_template={"scope": "global"}).nodes == 2

    def test_all_errors_are_reported_at_once(self) -> None:
        lines = problem(volumes=["a:/data", "b-${NODE_RANK}:/data"], env={"A": 1}, secret_env={"A": "x"}).splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            "volumes.1.path",
            "volumes.0.name",
            "secret_env",
        ]


class TestCommands:
    @pytest.mark.parametrize("field", ["commands", "gather"])
    def test_one_text_is_one_command(self, field: str) -> None:
        assert getattr(job(**{field: "a\nb"}), field) == ("a\nb",)
        assert getattr(job(**{field: ["a", "b"]}), field) == ("a", "b")

    def test_what_belongs_to_the_shell_is_left_as_it_is(self) -> None:
        command = "echo $NODE_RANK ${HOME:-x} $$ ${#x} ${{ node_rank:03d }}"
        assert job(commands=command).commands == (command,)

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("echo ${{ rank }}", "unknown variable 'rank'"),
            ("echo ${{ node_rank }", "unclosed variable"),
            ("  ", "an empty command"),
            ("a\0", "NUL"),
            (3, "3 was found; it should be a valid string"),
        ],
    )
    @pytest.mark.parametrize("field", ["commands", "gather"])
    def test_a_command_that_cannot_work_is_refused_by_its_index(self, field: str, command: Any, message: str) -> None:
        text = problem(**{field: ["true", command]})
        assert text.startswith(f"{field}.1: ")
        assert message in text

    def test_gather_has_no_rank(self) -> None:
        assert "gather runs once" in problem(gather="echo ${{ node_rank }}")
        assert job(gather="echo ${{ nodes_num }}").gather == ("echo ${{ nodes_num }}",)


class TestEnvironment:
    def test_scalars_become_text(self) -> None:
        assert job(env={"A": 1, "_b2": True, "C": "x", "D": 0.5}).env == {
            "A": "1",
            "_b2": "true",
            "C": "x",
            "D": "0.5",
        }

    @pytest.mark.parametrize("field", ["env", "secret_env"])
    @pytest.mark.parametrize("name", [*sorted(RESERVED_ENV), "RANKVOL_RESULT", "RANKVOL_X", "DSTACK_NODE_RANK"])
    def test_what_the_package_sets_is_reserved(self, field: str, name: str) -> None:
        assert problem(**{field: {name: "x"}}).startswith(f"{field}: {name!r} is set by the package")

    def test_every_variable_of_a_node_is_reserved(self) -> None:
        assert {
            "NODE_RANK",
            "NODES_NUM",
            "VOLUME_PATH",
            "RANKS_PATH",
            "MASTER_PORT",
            "GATHER_PARTS",
        } <= RESERVED_ENV

    @pytest.mark.parametrize("field", ["env", "secret_env"])
    @pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "UID", 3])
    def test_a_name_that_a_shell_cannot_set_is_refused(self, field: str, name: Any) -> None:
        assert problem(**{field: {name: "x"}}).startswith(f"{field}: {name!r} is ")

    @pytest.mark.parametrize("value", [None, ["x"], {"a": 1}])
    def test_a_value_is_a_scalar(self, value: Any) -> None:
        assert problem(env={"A": value}) == f"env: A is {value!r}; text, a number or a bool is expected"

    def test_a_variable_in_a_value_is_checked(self) -> None:
        assert problem(env={"A": "${{ x }}"}).startswith("env: A: unknown variable 'x'")

    def test_a_variable_has_one_source(self) -> None:
        assert problem(env={"A": "1"}, secret_env={"A": "id"}).startswith("secret_env: A is in env too")

    @pytest.mark.parametrize("value", ["", 3, "line\nhunter2"])
    def test_what_is_no_secret_id_is_refused_and_not_shown(self, value: Any) -> None:
        assert problem(secret_env={"A": value}) == "secret_env: A: a secret id on one line is expected"

    @pytest.mark.parametrize("field", ["env", "secret_env"])
    def test_a_mapping_is_expected(self, field: str) -> None:
        assert problem(**{field: ["A=1"]}).startswith(f"{field}: list was found; a mapping")


class TestFiles:
    def test_targets_below_the_working_directory_are_taken(self) -> None:
        files = {"etl.py": "include/etl.py", "lib/a b.py": "../shared/a.py"}
        assert job(files=files).files == files

    @pytest.mark.parametrize("target", ["", "/etc/x", "../x", "a/../../x", "a//b", "./a", "a/", ".", "a\nb"])
    def test_a_target_elsewhere_is_refused(self, target: str) -> None:
        assert problem(files={target: "x"}).startswith(f"files: target {target!r} ")

    @pytest.mark.parametrize("source", ["/etc/passwd", "/", "//etc/passwd", "~/x", "~root/x"])
    def test_a_source_that_is_not_relative_to_the_dag_file_is_refused(self, source: str) -> None:
        said = problem(files={"a": source})
        assert said.startswith(f"files: target 'a': the source {source!r} is not relative; expected a path relative")
        assert "'..' may lead out of its folder" in said

    def test_a_file_is_no_directory(self) -> None:
        assert "lies below the target 'a', which is a file" in problem(files={"a": "x", "a/b": "y"})

    def test_a_path_is_needed(self) -> None:
        assert problem(files={"a": ""}).startswith("files: '' was found")


class TestOthers:
    @pytest.mark.parametrize("staging", ["s3://bucket", "s3://bucket/some/prefix", "gs://bucket-1/x"])
    def test_staging_is_a_bucket(self, staging: str) -> None:
        assert job(staging=staging).staging == staging
        assert job(staging=staging + "/").staging == staging

    @pytest.mark.parametrize("staging", ["bucket", "/tmp/x", "http://bucket/x", "s3://", "s3:///x", "gs://b ucket"])
    def test_staging_elsewhere_is_refused(self, staging: str) -> None:
        assert (
            problem(staging=staging)
            == f"staging: {staging!r} was found; expected 's3://bucket/prefix' or 'gs://bucket/prefix'"
        )

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("s3://bucket/results/", "s3://bucket/results"),
            ("gs://bucket", "gs://bucket"),
            ("/srv/results", "/srv/results"),
            ("file:///srv/results of run/", "/srv/results of run"),
        ],
    )
    def test_a_destination_is_a_bucket_or_a_directory(self, given: str, kept: str) -> None:
        made = job(destination=given, collect="out/**")
        assert (made.destination, made.collect) == (kept, ("out/**",))
        assert made.gathers_on_node

    @pytest.mark.parametrize(
        "destination",
        ["results", "http://x/y", "s3://", "/", "file://", "file://host/x", "/a/../b", "//a", "/a\nb", "/a//b"],
    )
    def test_a_destination_elsewhere_is_refused(self, destination: str) -> None:
        assert problem(destination=destination).startswith(f"destination: {destination!r} was found; ")

    def test_everything_is_collected_unless_globs_say_otherwise(self) -> None:
        assert job(destination="/srv/x").collect == ("**",)
        assert not job().gathers_on_node
        assert job(gather="true").gathers_on_node

    @pytest.mark.parametrize("glob", ["/abs", "../x", "a/../b", "a//b", "out/", "./a", ".", "", "a\nb"])
    def test_a_glob_that_leaves_the_volume_or_is_not_normal_is_refused(self, glob: str) -> None:
        assert problem(destination="/srv/x", collect=[glob]).startswith(f"collect.0: {glob!r} was found; ")

    def test_globs_without_a_destination_are_refused(self) -> None:
        assert problem(collect="*.csv") == "collect: globs need a destination that files go to"
        assert problem(destination="/srv/x", collect=[]) == "collect: at least one glob is expected"

    @pytest.mark.parametrize("group_id", ["", "a b", "a/b", "x" * 201])
    def test_a_group_id_is_one_of_airflows(self, group_id: str) -> None:
        assert problem(group_id=group_id).startswith(f"group_id: {group_id!r} was found")

    def test_an_unknown_field_is_answered_with_the_near_one(self) -> None:
        text = problem(comands=["x"], node={"zone": "a"}, gather_node={"boot": 1})
        assert "comands: unknown field; did you mean 'commands'?; known: nodes, volumes," in text
        assert "node.zone: unknown field; did you mean 'zones'?; known: machine_type," in text
        assert "gather_node.boot: unknown field" in text

    def test_a_long_value_is_cut(self) -> None:
        assert len(problem(node="x" * 5000)) < 250

    def test_a_template_may_be_the_json_that_a_param_renders_as(self) -> None:
        made = job(node='{"zones": ["a"], "lifetime": "2h"}', volume_template='{"size": "3GB"}', gather_node="{}")
        assert made == job(node={"zones": "a", "lifetime": "2h"}, volume_template={"size": "3GB"}, gather_node={})

    @pytest.mark.parametrize("text", ["{'zones': ['a']}", "[]", "m7i.large", ""])
    def test_another_text_is_no_template(self, text: str) -> None:
        assert "node: " in problem(node=text)
        assert "or its JSON: a DAG Param renders as that by '{{ params.node | tojson }}'" in problem(node=text)

    def test_a_job_goes_through_json_and_dicts(self) -> None:
        made = job(
            volumes=[
                VOLUME,
                {"name": "b-${NODE_RANK}", "path": "/b", "size": "1.5TB", "expiry": "90m", "scope": "dag"},
            ],
            volume_template={"size": 20, "tags": {"a": "b"}},
            node={"zones": "a,b", "lifetime": "2h"},
            gather_node={"lifetime": "1h"},
            env={"A": 1},
            files={"a": "b"},
        )
        assert RankJob.model_validate_json(made.model_dump_json()) == made
        assert RankJob.model_validate(made.model_dump(mode="json")) == made
        assert RankJob.model_validate(made.model_dump()) == made
        assert made.node.lifetime == timedelta(hours=2)

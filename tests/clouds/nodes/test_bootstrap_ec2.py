"""The whole bootstrap on nodes that really run, as EC2 would run it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_rankvol.backends._aws_wire import go_tags
from airflow_rankvol.backends._console import log_of
from airflow_rankvol.engine.bootstrap import BootSpec
from airflow_rankvol.records import Role
from tests.clouds.nodes.ec2_kit import RANK, RECORD, Cloud, volume
from tests.clouds.nodes.kit import Lab, content, fill_as_from_one_snapshot


def test_a_rank_formats_its_new_volume_runs_records_reports_and_powers_off(
    cloud: Cloud, disk: Path, rank: BootSpec
) -> None:
    commands = (
        "stat -fc %T $VOLUME_PATH; echo $NODE_RANK of $NODES_NUM at $NODE_IP",
        "cat include/a.txt >$VOLUME_PATH/kept; echo '{\"rows\": 1}' >$RANKVOL_RESULT",
    )
    done = cloud.run(replace(rank, commands=commands, files={"include/a.txt": b"content"}), disk)
    assert (done["phase"], done["exit_code"], done["reused"]) == ("done", 0, False)
    assert json.loads(done["output"]) == {"rows": 1}
    assert done["log_tail"] == "ext2/ext3\n0 of 2 at 10.0.0.11\n"
    assert content(disk, "/kept") == "content"
    assert json.loads(content(disk, RECORD))["output_b64"] == base64.b64encode(done["output"].encode()).decode()
    assert "0 of 2 at 10.0.0.11" in log_of(cloud.lab.console(done["node"])), "the output is on the console, too"


def test_a_retry_takes_the_record_and_computes_nothing(cloud: Cloud, disk: Path, rank: BootSpec) -> None:
    once = replace(rank, commands=("echo run >>$VOLUME_PATH/runs; echo 1 >$RANKVOL_RESULT",))
    first = cloud.run(once, disk)
    again = cloud.run(replace(once, attempt=2), disk)
    assert (again["reused"], again["output"]) == (True, first["output"])
    assert content(disk, "/runs") == "run\n"
    other = cloud.run(replace(once, attempt=3, digest="other"), disk)
    assert other["reused"] is False
    assert content(disk, "/runs") == "run\nrun\n"


def test_a_failing_command_is_reported_with_its_code_and_leaves_no_record(
    cloud: Cloud, disk: Path, rank: BootSpec
) -> None:
    done = cloud.run(replace(rank, commands=("echo before >&2", "false | cat", "echo after")), disk)
    assert (done["phase"], done["exit_code"], done["log_tail"]) == ("failed", 1, "before\n")
    assert content(disk, RECORD) == ""


def test_a_full_volume_fails_the_rank_and_the_report_comes_all_the_same(cloud: Cloud, lab: Lab, rank: BootSpec) -> None:
    disk = lab.disk("01", mib=16)
    fill = "head -c 100M /dev/zero >$VOLUME_PATH/fill"
    done = cloud.run(replace(rank, commands=(fill,)), disk)
    assert (done["phase"], done["exit_code"]) == ("failed", 1)
    assert "No space left on device" in done["log_tail"]
    rest = "for i in {1..9999}; do echo x >$VOLUME_PATH/$i || break; done"
    full = cloud.run(replace(rank, attempt=2, commands=(f"{fill} || true; {rest}",)), disk)
    assert (full["phase"], full["exit_code"]) == ("failed", 1)
    assert "their completion record could not be written to /data_volume" in full["error"]
    assert "Ask for a larger volume" in full["error"]


def test_a_full_boot_disk_costs_neither_the_result_nor_the_report(cloud: Cloud, disk: Path, rank: BootSpec) -> None:
    commands = ("head -c 900M /dev/zero >fill || true; echo full; echo 7 >$RANKVOL_RESULT",)
    done = cloud.run(replace(rank, commands=commands), disk, root_mib=64)
    assert (done["exit_code"], done["output"]) == (0, "7\n")
    assert "No space left on device\nfull\n" in done["log_tail"]


@pytest.mark.parametrize("may_format", [False, True])
def test_a_volume_with_unknown_bytes_is_not_touched(cloud: Cloud, disk: Path, may_format: bool) -> None:
    with disk.open("r+b") as file:
        file.write(b"somebody's data")
    before = disk.read_bytes()
    done = cloud.run(replace(RANK, attachments=(volume(disk, may_format=may_format),)), disk)
    assert (done["phase"], done["exit_code"]) == ("setup", 125)
    assert "holds data that blkid does not know" in done["error"]
    assert disk.read_bytes() == before


def test_a_blank_volume_of_another_run_is_not_formatted(cloud: Cloud, disk: Path) -> None:
    done = cloud.run(replace(RANK, attachments=(volume(disk),)), disk)
    assert done["exit_code"] == 125
    assert "volume data-volume-0 (vol-01): " not in done["error"]
    assert "volume data-volume-0 (vol-01) is blank, and may not be formatted" in done["error"]
    assert not any(disk.read_bytes())


def test_a_volume_that_never_comes_is_named(cloud: Cloud, rank: BootSpec) -> None:
    done = cloud.run(rank, environment={"RV_DEVICE_WAIT": "1"})
    assert done["exit_code"] == 125
    assert "volume data-volume-0 (vol-01): no device appeared within 1 s" in done["error"]


def test_gather_reads_every_ranks_volume_and_can_write_none(cloud: Cloud, lab: Lab) -> None:
    disks = [lab.disk(f"0{index}") for index in range(2)]
    for index, one in enumerate(disks):
        spec = replace(RANK, rank=index, attachments=(volume(one, index, may_format=True),))
        assert cloud.run(replace(spec, commands=("echo $NODE_RANK >$VOLUME_PATH/rank",)), one)["exit_code"] == 0
    before = [one.read_bytes() for one in disks]
    commands = (
        "cat $RANKS_PATH/*/data_volume/rank | tr '\\n' + >$RANKVOL_RESULT; echo 0 >>$RANKVOL_RESULT",
        "! touch $RANKS_PATH/0/data_volume/x",
        'echo "[\\"$(cat $RANKVOL_RESULT)\\"]" >$RANKVOL_RESULT',
    )
    mounts = tuple(volume(one, index, read_only=True) for index, one in enumerate(disks))
    gather = replace(RANK, role=Role.GATHER, rank=-1, attachments=mounts, commands=commands)
    done = cloud.run(gather, *disks)
    assert (done["exit_code"], json.loads(done["output"]), done["collected"]) == (0, ["0+1+0"], [0, 1])
    assert "Read-only file system" in done["log_tail"]
    assert [one.read_bytes() for one in disks] == before


def test_volumes_from_one_snapshot_are_mounted_beside_each_other_whatever_is_on_them(cloud: Cloud, lab: Lab) -> None:
    """They have one UUID, which XFS refuses the second time: for gather, and for a rank that has two of them."""
    disks = [lab.disk(f"0{index}") for index in range(3)]
    fill_as_from_one_snapshot(*disks)
    of_rank = (volume(disks[0]), replace(volume(disks[1]), path="/more"))
    commands = ("echo 0 >$VOLUME_PATH/part; echo more >/more/part",)
    assert cloud.run(replace(RANK, attachments=of_rank, commands=commands), *disks[:2])["phase"] == "done"
    spec = replace(RANK, rank=1, attachments=(volume(disks[2], 1),), commands=("echo 1 >$VOLUME_PATH/part",))
    assert cloud.run(spec, disks[2])["phase"] == "done"
    mounts = (*of_rank, volume(disks[2], 1))
    gather = replace(
        RANK,
        role=Role.GATHER,
        rank=-1,
        attachments=tuple(replace(mount, read_only=True) for mount in mounts),
        commands=("cd $RANKS_PATH; cat 0/data_volume/part 0/more/part 1/data_volume/part; ! touch 1/data_volume/x",),
    )
    done = cloud.run(gather, *disks)
    assert (done["phase"], done["collected"]) == ("done", [0, 1]), done["error"]
    assert done["log_tail"].startswith("0\nmore\n1\n")
    assert "Read-only file system" in done["log_tail"]


def test_gather_names_a_rank_without_a_record_and_runs_nothing(cloud: Cloud, lab: Lab) -> None:
    disks = [lab.disk(f"0{index}") for index in range(2)]
    cloud.run(replace(RANK, attachments=(volume(disks[0], may_format=True),)), disks[0])
    mounts = tuple(volume(one, index, read_only=True) for index, one in enumerate(disks))
    gather = replace(RANK, role=Role.GATHER, rank=-1, attachments=mounts, commands=("echo ran",))
    done = cloud.run(gather, *disks)
    assert (done["phase"], done["collected"], done["missing"]) == ("incomplete", [0], [1])
    assert not any(disks[1].read_bytes()), "gather never formats"


def test_a_rank_whose_power_was_cut_goes_on_from_its_files(cloud: Cloud, lab: Lab, disk: Path, rank: BootSpec) -> None:
    commands = (
        "[ ! -e $VOLUME_PATH/checkpoint ] || { cp $VOLUME_PATH/checkpoint $RANKVOL_RESULT; exit; }",
        "echo 41 >$VOLUME_PATH/checkpoint; sync; echo saved; sleep 60",
    )
    node = cloud.launch(replace(rank, commands=commands), disk)
    lab.until("saved", node)
    lab.host.kill(node)
    assert cloud.report(node) is None
    again = cloud.run(replace(rank, attempt=2, commands=commands), disk)
    assert (again["exit_code"], again["reused"], again["output"]) == (0, False, "41\n")


def test_the_lifetime_ends_a_node_that_hangs_and_keeps_its_volume(
    cloud: Cloud, lab: Lab, disk: Path, rank: BootSpec
) -> None:
    commands = ("echo kept >$VOLUME_PATH/file; trap '' TERM; echo hangs; while :; do sleep 1; done",)
    node = cloud.launch(replace(rank, commands=commands, lifetime_s=2), disk, stop_grace_s=0.2)
    assert lab.wait(node) == "poweroff"
    assert "hangs" in lab.console(node)
    assert cloud.report(node) is None, "that it ended so is for the cloud to say"
    assert content(disk, "/file") == "kept\n"


def test_the_lifetime_ends_a_node_whose_script_was_killed(cloud: Cloud, lab: Lab, disk: Path, rank: BootSpec) -> None:
    node = cloud.launch(replace(rank, commands=("kill -KILL $PPID",), lifetime_s=2), disk)
    assert lab.wait(node) == "poweroff"
    assert cloud.report(node) is None


def test_nothing_that_the_commands_leave_behind_holds_the_node_up(cloud: Cloud, disk: Path, rank: BootSpec) -> None:
    commands = ("(cd $VOLUME_PATH; setsid sleep 60 >open &)", "nohup sleep 61 &", "echo 1 >$RANKVOL_RESULT")
    assert cloud.run(replace(rank, commands=commands), disk)["output"] == "1\n"


def test_a_noisy_job_and_false_reports_do_not_hide_the_report(cloud: Cloud, disk: Path, rank: BootSpec) -> None:
    commands = (
        "head -c 300000 /dev/urandom | base64",
        "echo RANKVOL-REPORT 0123456789abcdef.4 1/1 AAAA | tee /dev/console",
        "head -c 12000 /dev/urandom | base64 -w0 | sed 's/.*/\"&\"/' >$RANKVOL_RESULT",
    )
    done = cloud.run(replace(rank, commands=commands), disk)
    assert done["exit_code"] == 0
    assert len(json.loads(done["output"])) == 16000
    assert "the console shows no more" in cloud.lab.console(done["node"])


def test_several_volumes_are_mounted_where_the_job_wants_them(cloud: Cloud, lab: Lab) -> None:
    disks = [lab.disk("0a"), lab.disk("0b")]
    mounts = tuple(volume(one, path=f"/{one.stem}", may_format=True) for one in disks)
    commands = ("cp -r /0a/.rankvol /tmp; echo $VOLUME_PATHS >$RANKVOL_RESULT; echo x >/0b/file",)
    done = cloud.run(replace(RANK, attachments=mounts, commands=commands), *reversed(disks))
    assert json.loads(done["output"]) == ["/0a", "/0b"]
    assert content(disks[1], "/file") == "x\n"


def test_nodes_start_together_and_know_each_other(cloud: Cloud, lab: Lab) -> None:
    nodes = []
    commands = ('echo "$NODES_IPS" | tr "\\n" ,; echo " $MASTER_ADDR $DSTACK_MASTER_PORT"',)
    for index in range(2):
        disk = lab.disk(f"0{index}")
        mounts = (volume(disk, index, may_format=True),)
        spec = replace(RANK, rank=index, attachments=mounts, commands=commands, rendezvous=True)
        nodes.append(cloud.launch(spec, disk, address=f"10.0.0.{index + 11}"))
    for node in nodes:
        lab.until("RANKVOL-READY", node)
    assert [cloud.report(node) for node in nodes] == [None, None]
    message = {"NODES_IPS": "10.0.0.11\n10.0.0.12", "MASTER_ADDR": "10.0.0.11", "MASTER_PORT": "20001"}
    cloud.tags = go_tags(message)
    for node in nodes:
        lab.wait(node)
        report = cloud.report(node)
        assert report
        assert base64.b64decode(report["log_tail_b64"]) == b"10.0.0.11,10.0.0.12, 10.0.0.11 20001\n"

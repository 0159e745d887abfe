"""The whole bootstrap on nodes that really run, as Compute Engine would run it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_rankvol.backends._gcp_wire import GO_KEY, go_value
from airflow_rankvol.engine.bootstrap import BootSpec
from airflow_rankvol.records import Role
from tests.clouds.nodes.gce_kit import RANK, RECORD, Cloud, decoded, volume
from tests.clouds.nodes.kit import Lab, content


@pytest.fixture
def cloud(lab: Lab) -> Cloud:
    return Cloud(lab)


@pytest.fixture
def disk(lab: Lab) -> Path:
    return lab.disk("data-volume-1f2e-0")


@pytest.fixture
def rank(disk: Path) -> BootSpec:
    return replace(RANK, attachments=(volume(disk, may_format=True),))


def printed(cloud: Cloud, node: str) -> list[str]:
    """Return what a node printed on serial port 1, as the backend finds it."""
    return re.findall(r"RANKVOL-LOG (.*?)\r?\n", cloud.serial(node))


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
    node = done["node"]
    assert cloud.reported_on_serial_port(node) == cloud.report(node), "both channels say the same"
    assert "0 of 2 at 10.0.0.11" in printed(cloud, node), "serial port 1 has the job's output"


def test_a_retry_takes_the_record_and_computes_nothing(cloud: Cloud, disk: Path, rank: BootSpec) -> None:
    once = replace(rank, commands=("echo run >>$VOLUME_PATH/runs; echo 1 >$RANKVOL_RESULT",))
    first = cloud.run(once, disk)
    again = cloud.run(replace(once, attempt=2), disk)
    assert (again["reused"], again["output"]) == (True, first["output"])
    assert content(disk, "/runs") == "run\n"


def test_a_full_volume_fails_the_rank_and_the_report_comes_all_the_same(cloud: Cloud, lab: Lab, rank: BootSpec) -> None:
    disk = lab.disk("data-volume-1f2e-0", mib=16)
    done = cloud.run(replace(rank, commands=("head -c 100M /dev/zero >$VOLUME_PATH/fill",)), disk)
    assert (done["phase"], done["exit_code"]) == ("failed", 1)
    assert "No space left on device" in done["log_tail"]


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
    assert "(zones/us-central1-a/disks/data-volume-1f2e-0) is blank, and may not be formatted" in done["error"]
    assert not any(disk.read_bytes())


def test_lost_guest_attributes_leave_the_report_on_serial_port_1(cloud: Cloud, disk: Path, rank: BootSpec) -> None:
    cloud.deaf = True
    node = cloud.launch(replace(rank, commands=("echo 3 >$RANKVOL_RESULT",)), disk)
    assert cloud.lab.wait(node) == "poweroff"
    assert cloud.report(node) is None
    report = cloud.reported_on_serial_port(node)
    assert report is not None
    assert decoded(report)["output"] == "3\n"
    assert any("could not be written to the guest attributes" in line for line in printed(cloud, node))


def test_a_long_report_comes_whole_without_writing_too_fast(cloud: Cloud, disk: Path, rank: BootSpec) -> None:
    commands = (
        "echo RANKVOL-REPORT 0123456789abcdef.4 1/1 AAAA | tee /dev/console",
        "head -c 12000 /dev/urandom | base64 -w0 | sed 's/.*/\"&\"/' >$RANKVOL_RESULT",
    )
    done = cloud.run(replace(rank, commands=commands), disk)
    assert len(json.loads(done["output"])) == 16000
    assert len(cloud.attributes[done["node"]]) in range(2, 7)


def test_a_noisy_job_is_not_held_up_and_its_last_lines_are_still_shown(
    cloud: Cloud, disk: Path, rank: BootSpec
) -> None:
    commands = ("head -c 20M /dev/zero | base64; echo over; sleep 1.2; echo the end",)
    environment = {"RV_SHOWN": "4096", "RV_SHOW_PAUSE": "1", "RV_SHOWN_PER_S": "8192"}
    done = cloud.run(replace(rank, commands=commands), disk, environment=environment)
    assert done["exit_code"] == 0
    shown = printed(cloud, done["node"])
    assert any(re.fullmatch(r"rankvol: \d+ bytes are left out here; the log on the volume is whole", x) for x in shown)
    assert "the end" in shown
    assert len(cloud.serial(done["node"])) < 200_000
    assert len(content(disk, "/.rankvol/0a1b2c3d/log")) > 20 << 20


def test_a_node_that_boots_again_does_nothing_again(cloud: Cloud, lab: Lab, disk: Path, rank: BootSpec) -> None:
    """The guest agent runs a startup script on every boot."""
    mark = "/var/lib/rankvol/0a1b2c3d.rank.0.1"
    once = cloud.run(replace(rank, attempt=2, commands=("ls -d /var/lib/rankvol/*/",)), disk)
    assert once["log_tail"] == f"{mark[:-1]}2/\n", "the mark is there before the commands run"
    with disk.open("r+b") as file:
        file.truncate(0)
        file.truncate(64 << 20)
    done = cloud.run(replace(rank, commands=("echo ran",)), disk, files={f"{mark}/x": ""})
    assert (done["phase"], done["exit_code"]) == ("setup", 125)
    assert "was started again" in done["error"]
    assert not any(disk.read_bytes()), "nothing was formatted"
    first = '{"version":1,"said":"before","output_b64":"","log_tail_b64":"","error_b64":""}'
    again = cloud.run(replace(rank, commands=("echo ran",)), disk, files={f"{mark}/report": first})
    assert again["said"] == "before", "what it has reported before is still its report"
    assert "ran" not in printed(cloud, again["node"])


def test_gather_reads_every_ranks_volume_and_can_write_none(cloud: Cloud, lab: Lab) -> None:
    disks = [lab.disk(f"data-{index}") for index in range(2)]
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
    done = cloud.run(replace(RANK, role=Role.GATHER, rank=-1, attachments=mounts, commands=commands), *disks)
    assert (done["exit_code"], json.loads(done["output"]), done["collected"]) == (0, ["0+1+0"], [0, 1])
    assert [one.read_bytes() for one in disks] == before


@pytest.mark.slow
def test_the_lifetime_ends_a_node_that_hangs_and_keeps_its_volume(
    cloud: Cloud, lab: Lab, disk: Path, rank: BootSpec
) -> None:
    commands = ("echo kept >$VOLUME_PATH/file; trap '' TERM; echo hangs; while :; do sleep 1; done",)
    node = cloud.launch(replace(rank, commands=commands, lifetime_s=2), disk, stop_grace_s=0.2)
    assert lab.wait(node) == "poweroff"
    assert "hangs" in printed(cloud, node)
    assert cloud.report(node) is None, "that it ended so is for the cloud to say"
    assert content(disk, "/file") == "kept\n"


def test_nodes_start_together_and_know_each_other(cloud: Cloud, lab: Lab) -> None:
    nodes = []
    commands = ('echo "$NODES_IPS" | tr "\\n" ,; echo " $MASTER_ADDR $DSTACK_MASTER_PORT"',)
    for index in range(2):
        disk = lab.disk(f"data-{index}")
        mounts = (volume(disk, index, may_format=True),)
        spec = replace(RANK, rank=index, attachments=mounts, commands=commands, rendezvous=True)
        nodes.append(cloud.launch(spec, disk, address=f"10.0.0.{index + 11}"))
    for node in nodes:
        lab.until("RANKVOL-READY", node)
    assert [cloud.report(node) for node in nodes] == [None, None]
    message = {"NODES_IPS": "10.0.0.11\n10.0.0.12", "MASTER_ADDR": "10.0.0.11", "MASTER_PORT": "20001"}
    cloud.tags = {GO_KEY: go_value(message)}
    for node in nodes:
        lab.wait(node)
        report = cloud.report(node)
        assert report
        assert decoded(report)["log_tail"] == "10.0.0.11,10.0.0.12, 10.0.0.11 20001\n"
        assert cloud.attributes[node]["rankvol/state"] == "ready"

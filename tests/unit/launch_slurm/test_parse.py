"""What Slurm prints becomes records; what cannot be read is left out, never guessed."""

from __future__ import annotations

import pytest

from latentctl.launch import slurm_parse
from latentctl.launch.slurm_parse import JobRow


def squeue_line(**cells: str) -> str:
    widths = slurm_parse._SQUEUE_WIDTHS
    return "".join(cells.get(name, "").ljust(width)[:width] for name, width in widths.items())


def test_a_row_of_squeue_keeps_reasons_with_any_separator():
    reason = "Job's account not permitted | to use, this partition (adm allows admin not lab)"
    text = squeue_line(
        JobArrayID="12", State="PENDING", RestartCnt="2", exit_code="0", SubmitTime="2026-11-21T04:25:24",
        Name="a|b, c/train", Comment="a|b, c/train", NodeList="", Reason=reason,
    )  # fmt: skip
    assert slurm_parse.squeue(text + "\n") == [
        JobRow(
            "12",
            "PENDING",
            "squeue",
            reason,
            None,
            2,
            "0",
            "2026-11-21T04:25:24",
            "a|b, c/train",
            "a|b, c/train",
        )
    ]


def test_lines_that_squeue_never_prints_are_left_out():
    text = (
        "slurm_load_jobs error\n\n"
        + squeue_line(JobArrayID="x", State="RUNNING")
        + "\n"
        + squeue_line(JobArrayID="3")
        + "\n"
    )
    assert slurm_parse.squeue(text) == []
    (row,) = slurm_parse.squeue(squeue_line(JobArrayID="4", State="RUNNING", RestartCnt="??", Reason="None"))
    assert (row.restarts, row.reason, row.nodes, row.name) == (None, None, None, None)


def test_rows_of_sacct():
    text = (
        "7|COMPLETED|0:0|2026-11-21T04:25:24|node[1-2]|run/train\n"
        "8|CANCELLED by 1001|0:15|2026-11-21T04:25:24|None assigned|odd|name\n"
        "8.batch|CANCELLED|0:15|2026-11-21T04:25:24|node1|batch\n"
        "9|OUT_OF_ME+|0:125|Unknown|node1|run/train\n"
        "\n"
        "10|RUNNING|0:0\n"
        "Slurm accounting storage is disabled\n"
    )
    rows = {r.id: r for r in slurm_parse.sacct(text)}
    assert set(rows) == {"7", "8", "9"}
    assert (rows["7"].state, rows["7"].nodes, rows["7"].exit) == ("COMPLETED", "node[1-2]", "0:0")
    assert (rows["8"].state, rows["8"].reason, rows["8"].nodes) == ("CANCELLED", "by 1001", None)
    assert rows["8"].name == "odd|name"
    assert (rows["9"].state, rows["9"].submitted) == ("OUT_OF_ME", None)


def test_preempted_and_unknown_words_are_not_final():
    assert not {"PREEMPTED", "REQUEUED", "COMPLETING", "RUNNING", "UNKNOWN", ""} & slurm_parse.FINAL


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("UNLIMITED", None), ("infinite", None), ("", None), ("1:2:3:4", None), ("-5", None),
        ("30", 1800), ("30:05", 1805), ("04:00:00", 14400), ("1-02:00:00", 93600), ("2-0", 172800),
        ("1-06:30", 109800),
    ],
)  # fmt: skip
def test_time_limits(text, seconds):
    assert slurm_parse.seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:h100:4", [("h100", 4)]),
        ("gpu:8(S:0-1)", [("", 8)]),
        ("gpu:a100:4(S:0),gpu:v100:2,shard:8", [("a100", 4), ("v100", 2)]),
        ("(null)", []),
        ("gpu:1g.10gb:7,gpu:a100:2", [("1g.10gb", 7), ("a100", 2)]),
        ("gpu:x,mygpu:3", []),
    ],
)
def test_gpus_of_a_node(text, gpus):
    assert slurm_parse.gpus(text) == gpus


PARTITIONS = (
    "PartitionName=debug AllowGroups=ALL AllowAccounts=ALL Default=YES MaxNodes=UNLIMITED MaxTime=01:00:00 "
    "Nodes=node[1-4] State=UP TotalCPUs=32 TotalNodes=4 TRES=cpu=32,mem=62.50G\n"
    "PartitionName=adm AllowAccounts=admin,boss Default=NO MaxNodes=2 MaxTime=UNLIMITED "
    "State=DOWN TotalNodes=1\n"
)
SINFO = (
    "debug|2|8|16000|gpu:h100:4\ndebug|1|64+|515000+|gpu:v100:2(S:0)\ndebug|1|8|16000|(null)\n"
    "adm|1|8|16000|(null)\n"
)
CONFIG = (
    "Configuration data as of 2026-11-21\nClusterName             = devbox\n"
    "MaxArraySize            = 2001\nSLURM_VERSION           = 22.05.8\n"
)


def test_facts_of_a_cluster():
    found = slurm_parse.facts(PARTITIONS, SINFO, CONFIG, "lab|limited,normal\nroot|normal\n|\n")
    assert (found.name, found.version, found.max_array_size) == ("devbox", "22.05.8", 2001)
    assert (found.accounts, found.qos) == (("lab", "root"), ("limited", "normal"))
    debug = found.partition(None)
    assert debug is not None
    assert (debug.name, debug.up, debug.max_time_s, debug.max_nodes, debug.nodes) == (
        "debug",
        True,
        3600,
        None,
        4,
    )
    assert (debug.gpus, debug.gpus_per_node) == ((("h100", 4), ("v100", 2)), 4)
    assert (debug.cpus_per_node, debug.mem_mb_per_node, debug.accounts) == (64, 515000, None)
    adm = found.partition("adm")
    assert adm is not None
    assert (adm.up, adm.max_time_s, adm.max_nodes, adm.accounts) == (False, None, 2, ("admin", "boss"))
    assert found.partition("nosuch") is None


def test_facts_without_accounting_say_that_they_do_not_know():
    found = slurm_parse.facts(PARTITIONS, "", "", None)
    assert (found.accounts, found.qos, found.max_array_size, found.name) == (None, None, None, "")
    assert found.partitions[0].gpus_per_node == 0


def test_slurms_words_on_one_line():
    said = (
        "sbatch: error: invalid partition specified: nosuch\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert slurm_parse.words(said) == "invalid partition specified: nosuch; Invalid partition name specified"
    assert slurm_parse.words("") == ""

"""Which failure of Slurm's programs is which; nothing unknown becomes success; nothing waits for ever."""

from __future__ import annotations

import time

import pytest
from fakes import calls, program

from latentctl.errors import Exit, UserError
from latentctl.launch import slurm_client, slurm_parse
from latentctl.launch.slurm_client import Refused, SlurmClient, SlurmError, UnknownJob, Unreachable


@pytest.fixture
def bin_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return tmp_path


def squeue_row(job_id: str, state: str, comment: str = "", name: str = "") -> str:
    cells = {"JobArrayID": job_id, "State": state, "Comment": comment, "Name": name, "RestartCnt": "0"}
    return "".join(cells.get(n, "").ljust(w) for n, w in slurm_parse._SQUEUE_WIDTHS.items())


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", Unreachable),
        (
            'sbatch: error: Munge encode failed: Failed to access "/run/m": No such file or directory',
            Unreachable,
        ),
        ("sbatch: error: Batch job submission failed: Protocol authentication error", Unreachable),
        ("sacct: error: Problem talking to the database: Connection refused", Unreachable),
        ("squeue: fatal: Could not establish a configuration source", Unreachable),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", Unreachable),
        ("slurm_load_jobs error: Invalid job id specified", UnknownJob),
        ("Invalid job id specified for job 1423", UnknownJob),
        ("Requested operation is presently disabled for job 34", Refused),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition",
            Refused,
        ),
        ("", Refused),
    ],
)
def test_failures_are_told_apart_by_their_words(bin_dir, said, kind):
    program(bin_dir, "scontrol", f"cat >&2 << 'X'\n{said}\nX\nexit 1")
    with pytest.raises(SlurmError) as caught:
        SlurmClient()._run(["scontrol", "show", "x"])
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.kind) == (Exit.CLUSTER, "cluster")


def test_a_program_that_is_not_there_is_one_error_with_a_hint(bin_dir, monkeypatch):
    monkeypatch.setenv("PATH", str(bin_dir))
    with pytest.raises(Unreachable, match="scontrol is not installed") as caught:
        SlurmClient().ping()
    assert "devbox up" in (caught.value.problems[0].hint or "")


def test_a_call_that_hangs_is_ended(bin_dir):
    program(bin_dir, "squeue", "sleep 60")
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"did not answer within 0\.3 s"):
        SlurmClient(timeout_s=0.3).mine()
    assert time.monotonic() - began < 5


def test_a_configuration_that_is_not_there_calls_nothing(bin_dir):
    program(bin_dir, "squeue", "sleep 60")
    with pytest.raises(Unreachable, match="no Slurm configuration at /nonexistent"):
        SlurmClient(conf="/nonexistent").mine()
    assert calls(bin_dir, "squeue") == []


@pytest.mark.parametrize("answer", ["Slurmctld(primary) at vm is DOWN", "", "nonsense"])
def test_only_a_controller_that_is_up_passes_the_ping(bin_dir, answer):
    program(bin_dir, "scontrol", f"echo '{answer}'")
    with pytest.raises(Unreachable):
        SlurmClient().ping()


def test_a_backup_controller_is_enough(bin_dir):
    program(
        bin_dir,
        "scontrol",
        "echo 'Slurmctld(primary) at a is DOWN'; echo 'Slurmctld(backup) at b is UP'; exit 1",
    )
    SlurmClient().ping()


def test_outer_jobs_do_not_steer_the_inner_one(bin_dir, monkeypatch):
    for name in (
        "SLURM_ARRAY_TASK_ID",
        "SBATCH_PARTITION",
        "SLURM_CPU_BIND",
        "SQUEUE_FORMAT",
        "SACCT_FORMAT",
    ):
        monkeypatch.setenv(name, "x")
    conf = bin_dir / "slurm.conf"
    conf.touch()
    monkeypatch.setenv("SLURM_CONF", str(conf))
    seen = SlurmClient().environment()
    assert [k for k in seen if k.startswith(("SLURM", "SBATCH", "SQUEUE", "SACCT"))] == ["SLURM_CONF"]
    assert SlurmClient(conf="/other").environment()["SLURM_CONF"] == "/other"


def test_sbatch_gives_the_id(bin_dir):
    program(bin_dir, "sbatch", "echo '1234;othercluster'")
    assert SlurmClient().submit(bin_dir / "script", comment="c") == "1234"


@pytest.mark.parametrize("answer", ["", "Submitted", "12x"])
def test_an_answer_without_an_id_is_no_success(bin_dir, answer):
    program(bin_dir, "sbatch", f"echo '{answer}'")
    with pytest.raises(Unreachable, match="unexpected"):
        SlurmClient().submit(bin_dir / "script", comment="c")


def test_a_lost_answer_is_looked_for_by_comment_before_anything_is_said(bin_dir):
    program(
        bin_dir,
        "sbatch",
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv' >&2; exit 1",
    )
    rows = [
        squeue_row("8", "PENDING", "other"),
        squeue_row("9", "COMPLETED", "mine"),
        squeue_row("10", "PENDING", "mine"),
    ]
    program(bin_dir, "squeue", "cat << 'X'\n" + "\n".join(rows) + "\nX")
    assert SlurmClient().submit(bin_dir / "script", comment="mine") == "10"
    assert len(calls(bin_dir, "sbatch")) == 1


def test_a_lost_answer_without_a_job_is_an_error(bin_dir, monkeypatch):
    monkeypatch.setattr(slurm_client.time, "sleep", lambda _: None)
    program(bin_dir, "sbatch", "echo 'error: Socket timed out on send/recv operation' >&2; exit 1")
    program(bin_dir, "squeue", "true")
    with pytest.raises(Unreachable) as caught:
        SlurmClient().submit(bin_dir / "script", comment="mine")
    assert caught.value.uncertain
    assert len(calls(bin_dir, "squeue")) == 5
    assert len(calls(bin_dir, "sbatch")) == 1


def test_a_refused_submission_is_not_searched_for(bin_dir):
    program(
        bin_dir,
        "sbatch",
        "echo 'sbatch: error: Batch job submission failed: Invalid qos specification' >&2; exit 1",
    )
    program(bin_dir, "squeue", "true")
    with pytest.raises(Refused) as caught:
        SlurmClient().submit(bin_dir / "script", comment="mine")
    assert caught.value.said == "sbatch: error: Batch job submission failed: Invalid qos specification"
    assert calls(bin_dir, "squeue") == []


def test_one_call_for_all_jobs(bin_dir):
    program(bin_dir, "squeue", f"echo '{squeue_row('5', 'RUNNING')}'")
    program(bin_dir, "sacct", "echo '6|COMPLETED|0:0|Unknown|n1|x'")
    client = SlurmClient()
    assert list(client.live(["5", "6", "5"])) == ["5"]
    assert list(client.ended(["6", "7"])) == ["6"]
    assert client.live([]) == client.ended([]) == {}
    client.cancel([])
    (squeue,), (sacct,) = calls(bin_dir, "squeue"), calls(bin_dir, "sacct")
    assert squeue.endswith("-j 5,6")
    assert sacct.endswith("-j 6,7")


def test_elements_of_an_array_are_asked_for_and_ended_by_their_array(bin_dir):
    """Of thousands the list must stay short, and neighbours that were not asked for do not count."""
    rows = "\n".join(squeue_row(f"12_{n}", "PENDING", "sweep/train") for n in range(9))
    program(bin_dir, "squeue", f"cat <<'E'\n{rows}\n{squeue_row('7', 'RUNNING')}\nE")
    program(bin_dir, "sacct", "printf '12_3|FAILED|1:0|Unknown|n1|x\n12_[4-8%%2]|PENDING|0:0|Unknown||x\n'")
    program(bin_dir, "scancel", "true")
    client = SlurmClient()
    wanted = [f"12_{n}" for n in (0, 1, 2, 5, 7, 8)]
    assert set(client.live([*wanted, "7"])) == {*wanted, "7"}
    assert client.ended(["12_3", "12_4"])["12_3"].state == "FAILED"
    assert set(client.ended(["12_3", "12_4", "12_9"])) == {"12_3", "12_4"}
    assert client.named("sweep/train") == ["12"]
    client.cancel([*wanted, "7", "12_1"])
    assert calls(bin_dir, "squeue")[0].endswith("-j 12,7")
    assert calls(bin_dir, "sacct")[0].endswith("-j 12")
    assert calls(bin_dir, "scancel") == ["12_[0-2,5,7-8] 7"]


def test_jobs_that_the_controller_forgot_are_absent_not_an_error(bin_dir):
    program(bin_dir, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert SlurmClient().live(["5"]) == {}


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PENDING", "COMPLETED"])
def test_what_is_not_running_is_not_requeued(bin_dir, state):
    program(bin_dir, "squeue", f"echo '{squeue_row('5', state)}'")
    program(bin_dir, "scontrol", "true")
    with pytest.raises(Refused, match=state):
        SlurmClient().requeue("5")
    assert calls(bin_dir, "scontrol") == []


def test_the_messenger_of_a_requeue_survives_the_term_that_it_brings(bin_dir):
    program(bin_dir, "squeue", f"echo '{squeue_row('5', 'RUNNING')}'")
    program(bin_dir, "scontrol", f"kill -TERM $$; echo survived > {bin_dir}/done")
    slurm_client.requeue("5")
    assert (bin_dir / "done").read_text() == "survived\n"
    assert calls(bin_dir, "scontrol") == ["requeue 5"]


def test_scancel_code_8_is_unreachable(bin_dir):
    program(
        bin_dir, "scancel",
        "echo 'scancel: error: Kill job error on job id 1: Unable to contact slurm controller' >&2; exit 8",
    )  # fmt: skip
    with pytest.raises(Unreachable):
        SlurmClient().cancel(["1"])


def test_facts_survive_accounting_that_is_down(bin_dir):
    partition = "PartitionName=p State=UP MaxTime=10 TotalNodes=1"
    program(
        bin_dir, "scontrol", f"case $* in *partition*) echo '{partition}';; *) echo 'ClusterName = c';; esac"
    )
    program(bin_dir, "sinfo", "echo 'p|1|8|1000|(null)'")
    program(bin_dir, "sacctmgr", "echo 'Problem talking to the database: Connection refused' >&2; exit 1")
    found = SlurmClient().facts()
    assert (found.name, found.accounts, [p.name for p in found.partitions]) == ("c", None, ["p"])


def test_every_error_can_be_shown_as_one_line():
    for error in (Unreachable("a"), Refused("b"), UnknownJob("c")):
        assert isinstance(error, UserError)
        assert "\n" not in str(error)


def test_a_requeued_job_is_told_where_and_when_not_to_start(bin_dir):
    program(bin_dir, "squeue", f"echo '{squeue_row('5', 'RUNNING')}'")
    program(bin_dir, "scontrol", "true")
    client = SlurmClient()
    client.requeue("5", without=["n1", "n2"], wait=119.7)
    client.requeue("5", wait=60)
    client.requeue("5")
    assert calls(bin_dir, "scontrol") == [
        "requeue 5", "update JobId=5 ExcNodeList=n1,n2 StartTime=now+120",
        "requeue 5", "update JobId=5 StartTime=now+60",
        "requeue 5",
    ]  # fmt: skip

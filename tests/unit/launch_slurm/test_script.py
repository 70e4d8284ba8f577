"""The batch script, to the letter, and what reaches the environment of a job."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from latentctl.errors import Exit, UserError
from latentctl.launch import container, slurm_script
from latentctl.launch.slurm import SlurmExecutor
from latentctl.launch.slurm_client import SlurmClient
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.spec.cluster import ClusterProfile

HERE = Path(__file__).parent
RUN = RunPaths(Path("/shared/runs/gsm8k-12345678"))
JOB = JobPlan("train", ["sft"], ["prep"], "train", 2, 8, 8, 12, 921_600, 43_201, "/envs/train/bin/python")
FULL = {
    "name": "a100", "executor": "slurm", "partition": "gpu", "account": "my-project", "qos": "normal",
    "constraint": "a100_80gb", "gpu_type": "a100", "gpus_per_node": 8, "signal_lead": "5m",
    "modules": ["cuda/12.8"],
    "setup": ["ulimit -n 65536"],
    "srun": ["--cpu-bind=none"],
    "env": {"NCCL_DEBUG": "WARN", "ODD": "it's a \"value\" $HOME"},
    "pass_env": ["WANDB_API_KEY"],
    "notify": {"mail": "lab@example.org", "webhook": "LAB_CHAT"},
    "interpreter": {"entry": "/envs/light env/bin/python"},
    "sbatch": {"exclusive": True, "mail_type": "FAIL", "reservation": "night", "overcommit": False},
}  # fmt: skip


def script(profile: dict[str, object], job: JobPlan = JOB) -> str:
    made = ClusterProfile.model_validate(profile)
    plan = Plan(RUN.id, "0" * 64, made.model_dump(mode="json"), [job])
    return SlurmExecutor(made).preview(RUN, plan, job)


def flags(text: str) -> dict[str, str]:
    lines = [
        shlex.split(line[len("#SBATCH --") :])[0] for line in text.splitlines() if line.startswith("#SBATCH")
    ]
    return {k: v for k, _, v in (line.partition("=") for line in lines)}


def test_the_script_is_this_one(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")  # shown where no Slurm is, too
    assert script(FULL) == (HERE / "golden.sbatch").read_text()


def test_the_script_is_valid_shell():
    subprocess.run(["bash", "-n"], input=script(FULL), text=True, check=True)


def test_a_bare_profile_asks_for_nothing_it_does_not_know():
    bare = replace(
        JOB, after=[], gpus_per_node=0, cpus_per_task=None, mem_mb=None, nodes=1, tasks_per_node=1, time_s=60
    )
    text = script({"name": "bare", "executor": "slurm"}, bare)
    assert set(flags(text)) == {
        "chdir", "comment", "error", "job-name", "kill-on-invalid-dep", "nodes", "ntasks-per-node",
        "open-mode", "output", "requeue", "signal", "time",
    }  # fmt: skip
    assert flags(text)["time"] == "1"
    assert flags(text)["signal"] == "USR2@30"  # a short job keeps half of its time
    assert f" {sys.executable} -u -m latentctl.launch.entry {RUN.root} train" in text


@pytest.mark.parametrize(("seconds", "minutes"), [(60, "1"), (61, "2"), (3600, "60"), (43_201, "721")])
def test_time_is_in_whole_minutes_rounded_up(seconds, minutes):
    assert flags(script(FULL, replace(JOB, time_s=seconds)))["time"] == minutes


@pytest.mark.parametrize(
    "flag", ["partition", "job-name", "job_name", "--time", "dependency", "export", "wrap"]
)
def test_flags_that_belong_elsewhere_are_refused(flag):
    with pytest.raises(UserError, match="set by latentctl") as caught:
        script({**FULL, "sbatch": {flag: "x"}})
    assert caught.value.code == Exit.USAGE
    assert caught.value.problems[0].key == f"sbatch.{flag}"


def test_no_requeue_wins_over_ours():
    found = flags(script({**FULL, "sbatch": {"no-requeue": True}}))
    assert "requeue" not in found
    assert "no-requeue" in found


def test_pyxis_is_told_to_srun_with_the_run_directory_mounted():
    container = {"runtime": "pyxis", "image": "/images/x.sqsh", "mounts": ["/data:/data"]}
    (srun,) = [
        line for line in script({**FULL, "container": container}).splitlines() if line.startswith("srun ")
    ]
    args = shlex.split(srun)
    assert "--container-image=/images/x.sqsh" in args
    assert f"--container-mounts={RUN.root}:{RUN.root},/data:/data" in args
    assert f"--container-workdir={RUN.root}" in args


def test_the_snapshot_of_a_sweep_is_mounted_beside_its_point(tmp_path):
    (tmp_path / "sweeps" / "s" / "code").mkdir(parents=True)
    (tmp_path / "point").mkdir()
    (tmp_path / "point" / "code").symlink_to("../sweeps/s/code")
    said = {"runtime": "apptainer", "image": "x.sif", "mounts": []}
    run, code = tmp_path / "point", tmp_path / "sweeps" / "s" / "code"
    command = container.wrap(["python"], container=said, run=run, gpus=0)
    assert command[2:6] == ["--bind", f"{run}:{run}", "--bind", f"{code}:{code}"]
    args = container.pyxis("x.sqsh", ["/data:/data"], run)
    assert args[1] == f"--container-mounts={run}:{run},{code}:{code},/data:/data"


def test_apptainer_does_not_touch_the_script():
    container = {"runtime": "apptainer", "image": "/images/x.sif"}
    assert script({**FULL, "container": container}) == script(FULL)


def test_the_environment_of_a_job_is_a_short_list(monkeypatch):
    for name in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "SSH_AUTH_SOCK",
        "SLURM_JOB_ID",
        "SBATCH_ACCOUNT",
        "TMPDIR",
    ):
        monkeypatch.setenv(name, "secret")
    for name in ("WANDB_API_KEY", "LC_ALL", "LMOD_CMD", "BASH_FUNC_module%%", "HOME", "LATENTCTL_POLL_S"):
        monkeypatch.setenv(name, "kept")
    found = slurm_script.environment(ClusterProfile.model_validate(FULL), SlurmClient(conf="/c"))
    assert "secret" not in found.values()
    assert {k for k, v in found.items() if v == "kept"} == {
        "WANDB_API_KEY", "LC_ALL", "LMOD_CMD", "BASH_FUNC_module%%", "HOME", "LATENTCTL_POLL_S",
    }  # fmt: skip
    assert found["SLURM_CONF"] == "/c"


def test_values_of_handed_on_variables_are_not_in_the_script(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    assert "hunter2" not in script(FULL)
    assert "WANDB_API_KEY" in script(FULL)

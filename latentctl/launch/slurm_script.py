"""The batch script of one job, or of an array of them: flags from plan and profile, and the environment that
reaches the job.

submitit writes the text. Around it stand our own command (the entry needs no pickle), our own call of sbatch
(time limit, environment, search after a lost answer), and that a script can be shown on a machine without
Slurm.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import submitit

from latentctl.errors import UserError
from latentctl.launch import container
from latentctl.launch.ranks import BEGAN
from latentctl.launch.slurm_client import SlurmClient
from latentctl.launch.timing import lead
from latentctl.record.nodes import excluded
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile

KEPT = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LD_LIBRARY_PATH", "LANG", "LANGUAGE", "TZ", "SLURM_CONF")
KEPT_PREFIXES = (
    "LC_",
    "MODULE",
    "LMOD_",
    "_LM",
    "BASH_ENV",
    "BASH_FUNC_module",
    "BASH_FUNC_ml",
    "LATENTCTL_",
)
"""What a job gets from the submitting shell: who and where one is, and what `module` needs. Nothing else, so
that tokens and keys do not travel unasked; `pass_env` names more."""

OURS = frozenset(
    {
        *("account", "array", "chdir", "comment", "constraint", "cpus-per-task", "dependency", "error"),
        *(
            "export",
            "gpus-per-node",
            "job-name",
            "kill-on-invalid-dep",
            "mem",
            "nodes",
            "ntasks",
            "ntasks-per-node",
        ),
        *("open-mode", "output", "partition", "qos", "signal", "time", "wrap"),
    }
)
"""sbatch flags that come from the recipe, from other fields of the profile, or from latentctl itself."""


_MAILS = {"failed": "FAIL", "finished": "END", "retried": "REQUEUE"}


def job_name(run: RunPaths, job: str) -> str:
    """Name and comment of a job at Slurm: what finds it again when its id was lost."""
    return f"{run.id}/{job}"


@dataclass(frozen=True)
class Target:
    """What a script starts, and where that stands: one job of a run, or the same job of many."""

    name: str
    """Name and comment of the job at Slurm: what finds it again when its id was lost."""
    what: str
    """The entry's first argument: the run directory, or `@` and a list of them."""
    root: Path
    """Where it begins; mounted into containers."""
    code: Path
    """The snapshot."""
    folder: Path
    """Of the script and of what Slurm writes."""
    runs: Path
    """The runs folder."""
    count: int | None = None
    """Elements of an array."""
    parallel: int | None = None
    """At most so many of them at once."""

    @staticmethod
    def of_run(run: RunPaths, job: str) -> Target:
        folder = run.job(job).scheduler
        return Target(job_name(run, job), str(run.root), run.root, run.code, folder, run.root.parent)


class Submission(submitit.SlurmExecutor):
    """submitit's executor as the writer of a script for the entry; `send` gives that to sbatch."""

    def __init__(self, target: Target, command: str, client: SlurmClient, env: dict[str, str]) -> None:
        super().__init__(target.folder)
        self._target, self._command = target, command
        self._client, self._env = client, env

    @classmethod
    def affinity(cls) -> int:
        return 2

    def text(self) -> str:
        return self._make_submission_file_text(self._command, "")

    def send(self) -> str:
        """Submit it. Returns Slurm's id; the script stays as `<id>_submission.sh`. Raises SlurmError,
        OSError."""
        folder = self._target.folder
        folder.mkdir(parents=True, exist_ok=True)  # Slurm fails a job whose log folder is missing, silently
        script = folder / f".submission-{os.getpid()}.sh"
        script.write_text(self.text())
        try:
            job_id = self._client.submit(script, comment=self._target.name, env=self._env)
            script.rename(folder / f"{job_id}_submission.sh")
        finally:
            script.unlink(missing_ok=True)
        return job_id


def submission(
    target: Target,
    plan: Plan,
    job: JobPlan,
    *,
    profile: ClusterProfile,
    client: SlurmClient,
    after: Sequence[str],
) -> Submission:
    """Everything but the act. `after` are Slurm ids that must succeed first: of arrays, the same element."""
    command = f"{_python(profile)} -u -m latentctl.launch.entry {shlex.quote(target.what)} {job.name}"
    made = Submission(target, command, client, environment(profile, client))
    further = _further(target, profile, signal_lead=int(lead(plan, job)))
    made.update_parameters(additional_parameters=further, **_parameters(target, job, profile, after))
    if target.count is not None:
        made.parameters["map_count"] = target.count
    return made


def environment(profile: ClusterProfile, client: SlurmClient) -> dict[str, str]:
    """What sbatch sees, and hands on to the job."""
    named = set(profile.passed)
    seen = client.environment()
    return {k: v for k, v in seen.items() if k in KEPT or k in named or k.startswith(KEPT_PREFIXES)}


def _parameters(
    target: Target, job: JobPlan, profile: ClusterProfile, after: Sequence[str]
) -> dict[str, Any]:
    kind = "afterok" if target.count is None else "aftercorr"
    more = {
        "comment": target.name,
        "dependency": ":".join([kind, *after]) if after else None,
        "array_parallelism": None if target.count is None else target.parallel or target.count,
        "setup": _setup(target, profile),
        "teardown": _teardown(target, job, profile),
        "srun_args": _srun(target, job, profile),
    }
    said = {**_asked(target.name, job, profile), **more}
    return {"wckey": None, **{k: v for k, v in said.items() if v is not None}}


def _asked(name: str, job: JobPlan, profile: ClusterProfile) -> dict[str, Any]:
    """Name, place and resources, as submitit calls them."""
    gpus = f"{profile.gpu_type}:{job.gpus_per_node}" if profile.gpu_type else job.gpus_per_node
    return {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": -(-job.time_s // 60),  # whole minutes, rounded up
        "nodes": job.nodes,
        "ntasks_per_node": job.tasks_per_node,
        "cpus_per_task": job.cpus_per_task,
        "gpus_per_node": gpus if job.gpus_per_node else None,
        "mem": f"{job.mem_mb}M" if job.mem_mb else None,
    }


def flags(run: RunPaths, job: JobPlan, profile: ClusterProfile) -> dict[str, str]:
    """What the job asks of Slurm, as sbatch has it: for `--test-only`."""
    asked = _asked(job_name(run, job.name), job, profile)
    return {k.replace("_", "-"): str(v) for k, v in asked.items() if v is not None}


def _further(target: Target, profile: ClusterProfile, *, signal_lead: int) -> dict[str, Any]:
    """Flags that submitit does not know, and the profile's own."""
    flags: dict[str, Any] = {
        "signal": f"USR2@{signal_lead}",
        "requeue": True,  # whatever the cluster's JobRequeue says
        "kill-on-invalid-dep": "yes",  # a child whose parent failed would wait for ever
        "chdir": str(target.root),
    }
    if profile.notify is not None and profile.notify.mail is not None:
        flags["mail-user"] = profile.notify.mail
        flags["mail-type"] = ",".join(_MAILS[event] for event in profile.notify.on)
    left_out = sorted(excluded(target.runs, profile.name))
    for key, value in profile.sbatch.items():
        flag = key.lstrip("-").replace("_", "-")
        if flag in OURS:
            raise UserError(
                f"sbatch flag {key!r} is set by latentctl",
                where=f"cluster profile {profile.name}",
                key=f"sbatch.{key}",
                hint="partition, account, qos, constraint and signal_lead are fields of the profile; "
                "nodes, tasks, cpus, gpus, mem and time are the recipe's resources",
            )
        if flag == "no-requeue":
            del flags["requeue"]
        if value is not False:
            flags[flag] = value
    if left_out:  # by their fault a job failed on them
        flags["exclude"] = ",".join([*([str(flags["exclude"])] if flags.get("exclude") else []), *left_out])
    return flags


def _setup(target: Target, profile: ClusterProfile) -> list[str]:
    """Shell lines before srun: modules, the profile's lines, and the snapshot as the only code."""
    lines = [
        "# from the submitting shell: "
        + ", ".join((*KEPT, *(f"{p}*" for p in KEPT_PREFIXES), *profile.passed)),
        f"export {BEGAN}=$(date +%s)",
    ]
    if profile.modules:
        lines += [
            "if ! type module > /dev/null 2>&1; then",
            "  for f in /etc/profile.d/lmod.sh /etc/profile.d/modules.sh; do [ ! -r $f ] || . $f; done",
            "fi",
        ]
    for name in profile.modules:
        module = shlex.quote(name)
        lines.append(
            f"module load {module} || {{ echo latentctl: module load {module} failed >&2; exit 1; }}"
        )
    lines += profile.setup
    lines += [f"export {name}={shlex.quote(value)}" for name, value in profile.env.items()]
    lines += [f"export PYTHONPATH={shlex.quote(str(target.code))}", "export PYTHONSAFEPATH=1"]
    return lines


def _python(profile: ClusterProfile) -> str:
    return shlex.quote(profile.interpreter.entry or sys.executable)


def _teardown(target: Target, job: JobPlan, profile: ClusterProfile) -> list[str]:
    """Entries that were killed cannot say so, and nobody would start the job again. Inside an image of pyxis
    the script has no Python."""
    if profile.container is not None and profile.container.runtime == "pyxis":
        return []
    after = f"{_python(profile)} -m latentctl.launch.aftermath $code {shlex.quote(target.what)} {job.name}"
    return ["code=$?", f"[ $code = 0 ] || {after}", "exit $code"]


def _srun(target: Target, job: JobPlan, profile: ClusterProfile) -> list[str]:
    """A task that dies without a word must not leave the others waiting: --kill-on-bad-exit."""
    args = ["--kill-on-bad-exit=1"]
    if job.cpus_per_task:  # srun does not inherit it since Slurm 22.05
        args.append(f"--cpus-per-task={job.cpus_per_task}")
    if profile.container is not None and profile.container.runtime == "pyxis":
        args += container.pyxis(profile.container.image, profile.container.mounts, target.root)
    return [*args, *profile.srun]

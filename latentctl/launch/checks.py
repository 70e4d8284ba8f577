"""Does a cluster profile work from here? One finding per line of `latentctl clusters test`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from latentctl.launch import gpus, slurm_parse, slurm_words
from latentctl.launch.slurm_client import Refused, SlurmClient, SlurmError, Unreachable
from latentctl.plan.facts import ClusterFacts, Partition
from latentctl.spec.cluster import ClusterProfile

INTERPRETER_S = 60.0
"""A cold Python on a network file system may take that long."""


@dataclass(frozen=True)
class Check:
    """One finding. `ok` None: not checked from here, and why."""

    name: str
    ok: bool | None
    text: str
    hint: str | None = None
    cluster: bool = False
    """Slurm could not be reached, or refused: exit code 4."""


def profile(given: ClusterProfile) -> Iterator[Check]:
    """Every check of one profile, as each is known. A controller that does not answer ends the Slurm part."""
    if given.executor == "slurm":
        yield from _slurm(given)
    else:
        yield _local_gpus(given)
    yield from _interpreters(given)
    if given.data_dir:
        yield _readable("data_dir", given.data_dir)
    if given.container is not None and given.container.runtime == "apptainer":
        yield _image(given.container.image)


def _slurm(given: ClusterProfile) -> Iterator[Check]:
    client = SlurmClient(conf=given.env.get("SLURM_CONF"))
    try:
        client.ping()
        facts = client.facts()
    except SlurmError as error:
        problem = error.problems[0]
        yield Check("controller", False, problem.message, problem.hint, cluster=True)
        return
    yield Check("controller", True, f"{facts.name}, Slurm {facts.version}")
    partition = facts.partition(given.partition)
    yield _partition(given, facts, partition)
    if partition is not None:
        yield from _limits(given, partition)
    yield _submission(given, client, facts)
    try:
        client.accounting()
        yield Check("accounting", True, "sacct answers")
    except SlurmError as error:
        hint = "states of jobs that the controller forgot will be unknown until it answers"
        yield Check("accounting", False, error.problems[0].message, hint)


def _partition(given: ClusterProfile, facts: ClusterFacts, partition: Partition | None) -> Check:
    names = ", ".join(p.name for p in facts.partitions)
    if partition is None:
        text = (
            f"there is no partition {given.partition!r}"
            if given.partition
            else "there is no default partition"
        )
        return Check("partition", False, text, f"partitions: {names}")
    if not partition.up:
        return Check("partition", False, f"{partition.name} is not up", f"partitions: {names}")
    return Check("partition", True, f"{partition.name}: {slurm_words.describe(partition)}")


def _limits(given: ClusterProfile, partition: Partition) -> Iterator[Check]:
    """What the profile promises to recipes against what the partition has."""
    limit = partition.max_time_s
    if limit is not None and given.time > limit:
        text = f"time is {given.time // 60} min, the partition allows {limit // 60} min"
        yield Check("time", False, text, "lower `time` in the profile")
    elif limit is not None and given.max_time is not None and given.max_time > limit:
        text = f"max_time is {given.max_time // 60} min, the partition allows {limit // 60} min"
        yield Check("time", False, text, "lower `max_time` in the profile")
    most = partition.gpus_per_node
    if given.gpu_type is not None:
        most = max((n for kind, n in partition.gpus if kind == given.gpu_type), default=0)
    if given.gpus_per_node > most:
        kind = f"{given.gpu_type} " if given.gpu_type else ""
        text = f"gpus_per_node is {given.gpus_per_node}, the largest node has {most} {kind}GPUs"
        yield Check("gpus", False, text, f"{partition.name} has {slurm_words.describe(partition)}")


def _submission(given: ClusterProfile, client: SlurmClient, facts: ClusterFacts) -> Check:
    """`sbatch --test-only` with what the profile fixes, and the smallest job."""
    fixed = {
        "partition": given.partition,
        "account": given.account,
        "qos": given.qos,
        "constraint": given.constraint,
    }
    flags = [f"--{k}={v}" for k, v in fixed.items() if v] + ["--nodes=1", "--time=1"]
    said = ", ".join(f"{k} {v}" for k, v in fixed.items() if v) or "the cluster's defaults"
    try:
        client.test_only(flags)
    except Refused as error:
        field = slurm_words.field_of(error.said)
        hint = slurm_words.allowed(field, given, facts)
        return Check(
            "submission", False, f"refused ({said}): {slurm_parse.words(error.said)}", hint, cluster=True
        )
    except Unreachable as error:
        return Check("submission", False, error.problems[0].message, error.problems[0].hint, cluster=True)
    if (p := facts.partition(given.partition)) is not None and p.accounts is not None:
        mine = {given.account} if given.account else set(facts.accounts or ())
        if not mine & set(p.accounts):
            takes = ", ".join(p.accounts)
            text = f"{p.name} takes only {takes}; jobs of {given.account or 'yours'} would wait for ever"
            return Check("submission", False, text, "another account or partition", cluster=True)
    return Check("submission", True, f"accepted: {said}")


_NEW = "import sys; v = sys.version_info; v >= (3, 11) or sys.exit('Python %d.%d is too old: 3.11' % v[:2])\n"
_SUBMITIT = "import submitit, importlib.metadata as m; print('submitit', m.version('submitit'))\n"
_VERSION = "import sys; print('.'.join(map(str, sys.version_info[:3])), end='')\n"
_VLLM = """
from importlib.util import find_spec
print(', with vllm' if find_spec('vllm') else ', without vllm: engine: auto takes transformers', end='')
"""


def _interpreters(given: ClusterProfile) -> Iterator[Check]:
    """Each role's Python starts. The entry's is new enough; on a cluster it needs no packages."""
    inside = given.container is not None
    pyxis = given.container is not None and given.container.runtime == "pyxis"
    for role in ("train", "eval"):
        python = getattr(given.interpreter, role)
        name = f"python {role}"
        if inside:
            yield Check(
                name, None, f"{python or sys.executable}: a path inside the image, not tried from here"
            )
        elif python is None:
            yield Check(name, True, f"{sys.executable}: the one that runs latentctl")
        else:
            yield _python(name, python, _VERSION + (_VLLM if role == "eval" else ""))
    entry = given.interpreter.entry
    if pyxis:
        yield Check("python entry", None, f"{entry or sys.executable}: inside the image, not tried from here")
    elif entry is not None:
        yield _python("python entry", entry, _NEW + (_SUBMITIT if given.executor == "local" else _VERSION))


def _python(name: str, python: str, code: str) -> Check:
    hint = "interpreter in the profile: an absolute path that compute nodes see too"
    try:
        done = subprocess.run(
            [python, "-c", code],
            capture_output=True,
            text=True,
            timeout=INTERPRETER_S,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return Check(name, False, f"{python}: {error.strerror}", hint)
    except subprocess.TimeoutExpired:
        return Check(name, False, f"{python}: no answer within {INTERPRETER_S:g} s", hint)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return Check(name, False, f"{python}: {last}", hint)
    return Check(name, True, f"{python}: {done.stdout.strip()}")


def _local_gpus(given: ClusterProfile) -> Check:
    found = len(gpus.visible())
    if given.gpus_per_node > found:
        text = f"the profile says {given.gpus_per_node} GPUs, this machine shows {found}"
        return Check("gpus", False, text, "nvidia-smi -L")
    return Check("gpus", True, f"{given.gpus_per_node} of {found} may be used")


def _readable(name: str, path: str) -> Check:
    if os.access(Path(path).expanduser(), os.R_OK | os.X_OK):
        return Check(name, True, path)
    return Check(name, False, f"{path} cannot be read from here", f"{name} in the profile")


def _image(image: str) -> Check:
    if "://" in image:
        return Check("image", None, f"{image}: fetched when a job starts")
    if not Path(image).exists():
        return Check("image", False, f"there is no {image}", "container.image in the profile")
    program = next((p for p in ("apptainer", "singularity") if shutil.which(p)), None)
    if program is None:
        return Check("image", None, f"{image}: is there; apptainer is not on this machine, nodes may have it")
    return Check("image", True, f"{image}, {program}")

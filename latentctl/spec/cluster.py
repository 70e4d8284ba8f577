"""A cluster profile: what one cluster needs, so that recipes need not say it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from latentctl.spec.base import Duration, Size, Spec
from latentctl.spec.faults import FaultsSpec
from latentctl.spec.news import NotifySpec

ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


class InterpreterSpec(Spec):
    """Python per role, for clusters where training and evaluation need different environments."""

    train: str | None = None
    eval: str | None = None
    entry: str | None = None
    """The light one that starts on the node, which needs no packages; the one that runs `latentctl` if
    unsaid."""


class ContainerSpec(Spec):
    """Run workers in a container."""

    image: str
    runtime: Literal["pyxis", "apptainer"] = "apptainer"
    mounts: list[str] = Field(default_factory=list)
    """`/host/path:/inside`; the run directory is always mounted."""


class ClusterProfile(Spec):
    """`cluster/<name>.yaml`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    description: str = ""
    executor: Literal["local", "slurm"]
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs of a node; a job that asks for more is refused before it is queued."""
    gpu_type: str | None = None
    """Asked as `--gpus-per-node=TYPE:N`."""
    gpu_memory: Size | None = None
    """Of one GPU: `80G`. `latentctl check --cluster` holds what a recipe needs against it; it is known of
    types that come in one size."""
    cpus: int | None = Field(default=None, ge=1)
    """CPUs per process where the recipe is silent."""
    mem: Size | None = None
    """Memory per node where the recipe is silent."""
    time: Duration = 3600
    """Time limit where the recipe is silent."""
    max_time: Duration | None = None
    """Longer jobs are refused before they are queued."""
    max_nodes: int | None = Field(default=None, ge=1)
    signal_lead: Duration = 120
    """USR2 comes so long before the limit: enough to write a checkpoint."""
    max_requeues: int = Field(default=20, ge=0)
    """So many attempts after the first."""
    max_gpu_hours: float | None = Field(default=None, gt=0)
    """A job whose attempts have used so many GPU-hours is not started again by itself; `latentctl retry`
    begins a new count."""
    hang_after: Duration | None = 3600
    """A job of which no rank does another step, or token, for so long is ended, with the stacks of all ranks;
    the rules for failures start it again. null: never."""
    faults: FaultsSpec = Field(default_factory=FaultsSpec)
    """Which failures are tried again, how often, and where not."""
    notify: NotifySpec | None = None
    """Whom to tell when a run ends."""
    modules: list[str] = Field(default_factory=list)
    """`module load` before anything else."""
    setup: list[str] = Field(default_factory=list)
    """Shell lines before the job, after the modules."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment of the job."""
    pass_env: list[str] = Field(default_factory=list)
    """Names of variables handed through from the shell; their values are never written to disk."""
    interpreter: InterpreterSpec = Field(default_factory=InterpreterSpec)
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further sbatch flags: `{reservation: night, exclusive: true}`."""
    srun: list[str] = Field(default_factory=list)
    """Further flags of srun, which starts the processes inside the job: `[--gres=none]` where a cluster
    refuses its step for generic resources that the job has, `[--cpu-bind=none]`."""
    container: ContainerSpec | None = None
    data_dir: str | None = None
    """Named datasets are looked for in `<data_dir>/<name>/`."""
    max_parallel: int = Field(default=2, ge=1)
    """Local executor: so many jobs at once; the others wait in order."""

    @model_validator(mode="before")
    @classmethod
    def _by_executor(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("executor") == "local":
            slurm_only = (
                "partition",
                "account",
                "qos",
                "constraint",
                "gpu_type",
                "sbatch",
                "srun",
                "modules",
                "setup",
                "container",
            )
            said = [k for k in slurm_only if data.get(k)]
            if said:
                raise ValueError(f"{', '.join(said)}: only for executor: slurm")
        return data

    @model_validator(mode="after")
    def _mail(self) -> ClusterProfile:
        if self.executor == "local" and self.notify is not None and self.notify.mail is not None:
            raise ValueError("notify.mail: Slurm sends it; on this machine name a webhook")
        return self

    @property
    def passed(self) -> list[str]:
        """Variables of the submitting shell that reach a job because the profile names them."""
        webhook = self.notify.webhook if self.notify else None
        return [*self.pass_env, *([webhook] if webhook and webhook not in self.pass_env else [])]

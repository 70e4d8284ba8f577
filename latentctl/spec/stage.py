"""What every stage may say, whatever its method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from latentctl.spec.base import Spec
from latentctl.spec.dataset import DatasetField
from latentctl.spec.disturbance import DisturbanceSpec
from latentctl.spec.latent import LatentSpec
from latentctl.spec.model import ModelField
from latentctl.spec.prompt import PromptSpec
from latentctl.spec.resources import ResourcesSpec
from latentctl.spec.sampling import SamplingSpec
from latentctl.spec.train import TrainSpec

if TYPE_CHECKING:
    from latentctl.spec.methods import MethodSettings

MAX_STAGE_NAME = 40
STAGE_NAME = rf"^[a-z0-9][a-z0-9._-]{{0,{MAX_STAGE_NAME - 1}}}$"


class StageBase(Spec):
    """One step of an experiment. `methods.stage_model` adds the settings block of its method."""

    name: str = Field(pattern=STAGE_NAME)
    """Unique within the recipe; the method's name (numbered if needed) where unsaid."""
    method: str
    from_: str | None = Field(default=None, alias="from", min_length=1)
    """Where the weights come from: a stage (`sft`, `sft@best`, `sft@100`), `model` (the recipe's model), a
    run (`run:ID/STAGE@best`) or a directory. Resolved: always said."""
    model: ModelField
    dataset: DatasetField
    validation: DatasetField | None = None
    """Problems for validation during training; the split `valid` if unsaid. Needs `train.eval_every`."""
    prompt: PromptSpec | None = None
    """Unsaid in an evaluation: what the checkpoint carries."""
    latent: LatentSpec | None = None
    """Latent steps. Unsaid in an evaluation: what the checkpoint carries, which may be text alone."""
    disturbance: DisturbanceSpec | None = None
    """When `latent.noise` falls on latent steps of training rollouts. Unsaid: on every one."""
    train: TrainSpec = Field(default_factory=TrainSpec)
    sampling: SamplingSpec = Field(default_factory=SamplingSpec)
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)

    @property
    def settings(self) -> MethodSettings:
        """The block named like the method."""
        block: Any = getattr(self, self.method)
        return block

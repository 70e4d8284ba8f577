"""Continuous thoughts: what goes into the next position, when a latent span ends, and noise on the way.

In a recipe every part may be left unsaid. An evaluation then takes it from the checkpoint's `latent.json`, a
training takes its method's own; `jobs.models.latent_settings.settle` puts the two together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from latentctl.spec.base import Spec
from latentctl.spec.prompt import Markers

Weights = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1, max_length=64)]


class SoftInput(Spec):
    """The mean of the input embeddings of the likely tokens, weighted by their probability."""

    kind: Literal["soft"] = "soft"
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Divides the logits first."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k most likely tokens; 0 is off."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the smallest set whose mass reaches p (at least one token); 1 is off."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Keep tokens with at least this share of the largest probability; 0 is off."""
    max_topk: int | None = Field(default=30, ge=1, le=1024)
    """At most so many tokens are mixed, whatever the filters keep; the mass that this discards is traced.
    null: exact at any size, in the transformers engine alone. vLLM goes up to 64."""

    @model_validator(mode="after")
    def _mixed(self) -> SoftInput:
        # With top-p a larger top_k says of which tokens p is a share: Soft Thinking's own are 30 and 10.
        if self.max_topk is not None and self.top_k > self.max_topk and self.top_p == 1:
            raise ValueError(
                f"top_k ({self.top_k}) keeps more tokens than the {self.max_topk} of max_topk: raise max_topk"
            )
        return self


class HiddenInput(Spec):
    """The last hidden state of the position before (Coconut, arXiv 2412.06769)."""

    kind: Literal["hidden"] = "hidden"


class ContextualInput(Spec):
    """A weighted mean of the last hidden states (contextual Coconut). A window of 1 is exactly `hidden`."""

    kind: Literal["contextual"] = "contextual"
    window: int = Field(default=3, ge=1, le=64)
    """m: so many hidden states, those of earlier passes included."""
    weights: Weights | Literal["uniform", "exponential", "learned"] = "exponential"
    """Newest first, normalised to sum 1. `exponential`: `decay` to the power 0, 1, ...; `learned`: trained
    along, and written into the checkpoint as a list."""
    decay: float = Field(default=0.5, gt=0, le=1)
    """Of `weights: exponential`."""
    include: Literal["all", "latent_only", "from_start_marker"] = "all"
    """Which positions the window may look at. `latent_only`: latent steps and the one before the first."""
    rescale: bool = False
    """Scale the mean to the norm of the newest state: averaging shrinks it."""
    compat: bool = False
    """As the published fork does it: the oldest state gets the first weight, and only the first latent step
    looks at more than one state."""

    @model_validator(mode="after")
    def _fits(self) -> ContextualInput:
        if isinstance(self.weights, list):
            if len(self.weights) != self.window:
                raise ValueError(f"{len(self.weights)} weights for a window of {self.window}: give one each")
            if sum(self.weights) <= 0:
                raise ValueError("the weights sum to 0")
        if self.compat and self.weights == "learned":
            raise ValueError("compat repeats the fork's fixed weights: give a list, not learned")
        return self


class PauseInput(Spec):
    """A learned token, the same at every step: the ablation without feedback."""

    kind: Literal["pause"] = "pause"


class NoInput(Spec):
    """No latent steps: a checkpoint that was trained with them is decoded as text."""

    kind: Literal["none"] = "none"


LatentInput = Annotated[
    SoftInput | HiddenInput | ContextualInput | PauseInput | NoInput, Field(discriminator="kind")
]


def _input(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


InputField = Annotated[
    LatentInput,
    BeforeValidator(
        _input, json_schema_input_type=LatentInput | Literal["soft", "hidden", "contextual", "pause", "none"]
    ),
]

NAMED_MARKERS = {
    "think": Markers(start="<think>", end="</think>"),
    "coconut": Markers(start="<|start-latent|>", end="<|end-latent|>"),
}
LATENT_TOKEN = "<|latent|>"
"""Stands where a latent step has no token of its own; its embedding is what `pause` feeds."""


def _markers(value: Any) -> Any:
    return NAMED_MARKERS[value].model_dump() if isinstance(value, str) and value in NAMED_MARKERS else value


MarkersField = Annotated[
    Markers, BeforeValidator(_markers, json_schema_input_type=Markers | Literal["think", "coconut"])
]


class EntropyStop(Spec):
    """The span ends where `patience` distributions in a row had an entropy below `threshold`. The first is
    the one at the start marker, so n of them leave n - 1 latent steps (Soft Thinking, arXiv 2505.15778)."""

    threshold: float = Field(gt=0)
    """In nats."""
    patience: int = Field(default=64, ge=1)
    on: Literal["input", "model"] = "input"
    """Of the whole distribution before filters: at the input's temperature (other inputs than `soft`: 1), or
    at temperature 1 whatever the input."""


class PerStep(Spec):
    """A count from the problem's reference steps, as Coconut's own evaluation takes it."""

    latents: int = Field(default=1, ge=0)
    """Latent steps for each reference step (c)."""
    cap: int | None = Field(default=None, ge=0)
    """At most so many reference steps count."""


class StopSpec(Spec):
    """When a latent span ends. Several rules may stand together: the first that fires ends it."""

    fixed: int | None = Field(default=None, ge=0)
    """After exactly so many latent steps."""
    per_step: PerStep | None = None
    """After a number of latent steps that depends on the problem's reference steps."""
    end_marker: bool = False
    """When the end marker (the first token of a longer one) is the most likely next token."""
    entropy: EntropyStop | None = None
    max_len: int | None = Field(default=None, ge=0)
    """Hard cap in latent steps; `fixed` if unsaid."""

    @model_validator(mode="after")
    def _ends(self) -> StopSpec:
        if self.fixed is not None and self.per_step is not None:
            raise ValueError("fixed and per_step are two counts: give one")
        counted = self.fixed is not None or self.per_step is not None
        if self.max_len is None and not counted:
            raise ValueError("give max_len: the hard cap, in latent steps")
        if self.max_len is not None and self.fixed is not None and self.max_len < self.fixed:
            raise ValueError(f"max_len ({self.max_len}) is below fixed ({self.fixed})")
        return self


def _stop(value: Any) -> Any:
    return {"fixed": value} if isinstance(value, int) and not isinstance(value, bool) else value


Count = Annotated[int, Field(ge=0)]
StopField = Annotated[StopSpec, BeforeValidator(_stop, json_schema_input_type=StopSpec | Count)]


class GaussianNoise(Spec):
    """Normal noise of standard deviation `strength` (times the RMS of what it falls on, or absolute)."""

    kind: Literal["gaussian"] = "gaussian"
    strength: float = Field(default=0.05, gt=0)
    scale: Literal["rms", "absolute"] = "rms"
    on: Literal["input", "logits"] = "input"
    """`input`: the embedding or hidden state that is fed; `logits`: the kept logits of a soft input."""


class ConcreteNoise(Spec):
    """Gumbel noise on the kept log-probs, softmax at `temperature` (relaxed categorical)."""

    kind: Literal["concrete"] = "concrete"
    temperature: float = Field(default=0.5, gt=0)


class DirichletNoise(Spec):
    """Weights drawn from Dirichlet(alpha · p) over the kept tokens."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(default=1.0, gt=0)


class MultiplexNoise(Spec):
    """`draws` tokens drawn with replacement from the kept ones; the mean of their embeddings
    (arXiv 2601.08808)."""

    kind: Literal["multiplex"] = "multiplex"
    draws: int = Field(default=3, ge=1, le=64)
    weighting: Literal["uniform", "probability"] = "uniform"


NoiseSpec = Annotated[
    GaussianNoise | ConcreteNoise | DirichletNoise | MultiplexNoise, Field(discriminator="kind")
]


class LatentSpec(Spec):
    """Latent steps of a model, in training and in evaluation alike."""

    input: InputField | None = None
    """`soft`, `hidden`, `contextual`, `pause`, or `none`; or a map with the kind and its settings."""
    markers: MarkersField | None = None
    """Texts around a span: `think`, `coconut`, or `{start: "<<", end: ">>"}`. Unsaid: the checkpoint's, else
    those of `prompt.markers`; `coconut` where Coconut trains."""
    start: Literal["prompt", "model"] | None = None
    """`prompt` (unsaid): the start marker is appended to the prompt and the span begins at once; `model`: a
    span begins wherever the model writes the start marker."""
    stop: StopField | None = None
    """A number of latent steps, or rules. Unsaid: what the checkpoint carries."""
    noise: NoiseSpec | None = None
    """On every latent step, evaluation included: stochastic soft thinking. Off if unsaid."""

    @model_validator(mode="after")
    def _agrees(self) -> LatentSpec:
        kind = self.input.kind if self.input else None
        noise = self.noise
        if noise is None or kind is None:
            return self
        on_tokens = noise.kind != "gaussian" or noise.on == "logits"
        if kind == "none" or kind == "pause" or (on_tokens and kind != "soft"):
            what = f"{noise.kind} noise" + (" on logits" if noise.kind == "gaussian" and on_tokens else "")
            raise ValueError(f"{what} does nothing to the input {kind}")
        return self

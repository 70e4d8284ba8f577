"""Weights as vLLM takes them: a directory or a Hub id. No model is built here, unless it is a random one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from jobs.generate import weight_files
from jobs.generate.text import eos_ids
from jobs.generate.vllm_args import Loading
from jobs.generate.vllm_plugin import FAMILIES
from jobs.generate.weights import shapes_of
from jobs.models.random_init import config_of, random_model
from jobs.models.source import check_weights, explain, locate
from jobs.runtime.errors import JobUserError
from latentctl.spec.model import InitSpec
from latentctl.spec.stage import StageBase


class Weights(NamedTuple):
    """Of a stage, before they are read."""

    stage: StageBase
    place: str | None
    """None: the stage's random model."""
    config: Any
    generation: Any
    """The model's generation config; None: it has none."""

    @property
    def positions(self) -> int | None:
        return getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None)

    def eos(self, tokenizer: Any) -> frozenset[int]:
        """Every id that ends an answer."""
        return eos_ids(SimpleNamespace(config=self.config, generation_config=self.generation), tokenizer)

    @contextmanager
    def ready(self, dtype: torch.dtype, scratch: Path) -> Iterator[Loading]:
        """What vLLM is told; while it reads, a random model lies in a folder under `scratch`. Raises
        JobUserError where weights are missing."""
        spec = self.stage.model
        if self.place is not None:
            self._check_whole(self.place)
            revision = spec.revision if self.place == spec.path else None
            yield Loading(self.place, dtype, revision, spec.trust_remote_code)
            return
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=scratch, prefix="random-model-") as folder:
            model = random_model(
                spec.init or InitSpec(),
                vocab_size=self.config.vocab_size,
                attention=spec.attention,
                dtype=dtype,
                device=torch.device("cpu"),
            )
            # not `save_pretrained`: in a process group it writes on the first process alone
            self.config.save_pretrained(folder)  # it names its architecture
            tensors = {name: weight.data for name, weight in model.named_parameters()}  # a tied one once
            save_file(tensors, str(Path(folder) / "model.safetensors"), metadata={"format": "pt"})
            yield Loading(folder, dtype)

    def _check_whole(self, place: str) -> None:
        """vLLM leaves what a directory lacks as it happens to be, without a word."""
        names: list[str] = list(self.config.architectures or ())
        if not Path(place).is_dir() or not set(names) & set(FAMILIES):
            return
        found = weight_files.shapes(Path(place))
        wanted = shapes_of(self.config, trust_remote_code=self.stage.model.trust_remote_code)
        # Files of a model without its head have no prefix before their names.
        missing = [name for name in wanted if name not in found and name.partition(".")[2] not in found]
        if missing:
            raise JobUserError(
                f"the weights of {place} lack {len(missing)} tensors of {names[0]}, such as {missing[0]}",
                hint="is it a causal language model, and are its files complete?",
            )


def weights(stage: StageBase, source: Path | str | None, vocab_size: int) -> Weights:
    """Those of `source`, or the stage's random `model.init` where it is None; `vocab_size` is the tokenizer's
    length. Raises JobUserError as `jobs.models.load_model` does."""
    spec = stage.model
    if source is None:
        if spec.init is None:
            raise JobUserError("there are no weights to start from: give model.path or model.init")
        config = config_of(spec.init, vocab_size)
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
        return Weights(stage, None, config, None)
    place = locate(source)
    if Path(place).is_dir():
        check_weights(Path(place))
    which = {
        "revision": spec.revision if place == spec.path else None,
        "trust_remote_code": spec.trust_remote_code,
    }
    try:
        config = AutoConfig.from_pretrained(place, **which)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise explain(place, "model", error) from error
    rows = config.get_text_config(decoder=True).vocab_size
    if vocab_size > rows:
        raise JobUserError(
            f"the tokenizer has {vocab_size} tokens, the model {source} has embeddings for {rows}",
            hint="use the tokenizer that came with the model",
        )
    return Weights(stage, place, config, _generation(place, which["revision"]))


def _generation(place: str, revision: str | None) -> Any:
    try:
        return GenerationConfig.from_pretrained(place, revision=revision or "main")
    except OSError:
        return None

"""What an engine may ask of every worker (`collective_rpc`), whichever runner it has."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.generate import weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from jobs.generate.vllm_plugin.slots import Slots


class WeightCalls:
    """New weights in a running engine. Mixed into vLLM's worker classes, with or without latent steps."""

    model_runner: Any

    def weights_load(self, source: str | Iterable[tuple[str, Tensor]]) -> list[str] | None:
        """Replace all weights by those of a folder, or by these, under the names of transformers. Returns
        what was wrong with the folder's files, and with which; None where nothing was."""
        try:
            coming = weight_files.read(Path(source)) if isinstance(source, str) else source
            self.reload_weights(weights_iterator=coming)  # type: ignore[attr-defined]
        except weight_files.Unreadable as error:
            self.weights_give_up()
            return [error.message, error.where or ""]
        except BaseException:
            self.weights_give_up()
            raise
        self.weights_loaded()
        return None

    def weights_update(self, packed: bytes) -> None:
        """vLLM's `update_weights`, its argument pickled: what shares memory between GPUs' processes has no
        other form. It comes from the process that started this one."""
        self.update_weights(pickle.loads(packed))  # type: ignore[attr-defined]

    def weights_loaded(self) -> None:
        """New weights are there, whichever way they came: what was made of the old ones is made anew."""
        for head in _tied_heads(self.model_runner.get_model()):
            head.quant_method.process_weights_after_loading(head)

    def weights_give_up(self) -> None:
        """They did not all come: the model is left whole in structure, with what it has, so that others can
        come in its place."""
        import torch
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        runner = self.model_runner
        with set_current_vllm_config(runner.vllm_config), torch.device(runner.device):
            finalize_layerwise_reload(runner.get_model(), runner.model_config)


def _tied_heads(model: Any) -> list[Any]:
    """vLLM reloads a shared weight in the embedding and leaves the head aside; on a CPU the head has a copy
    of its own, in the order that its kernel likes."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    layers = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding)]
    shared = {id(m.weight) for m in layers if not isinstance(m, ParallelLMHead)}
    return [m for m in layers if isinstance(m, ParallelLMHead) and id(m.weight) in shared]


class LatentCalls(WeightCalls):
    """Mixed into the classes of workers with latent steps."""

    @property
    def _slots(self) -> Slots:
        runner = self.model_runner
        return runner.latent if hasattr(runner, "latent") else runner.model_state.latent

    def weights_loaded(self) -> None:
        """Latent steps mix the rows of the new embedding, wherever it lies."""
        from jobs.generate.vllm_plugin.table import table

        super().weights_loaded()
        self._slots.embedding, self._slots.mix = table(self.model_runner.get_model())

    def latent_pop(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """See `Slots.pop`."""
        return self._slots.pop(ids)

    def latent_facts(self) -> dict[str, Any]:
        """Which runner serves, and what it has done."""
        return {"runner": type(self.model_runner).__name__, "rebuilt": self._slots.rebuilt}

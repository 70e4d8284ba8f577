"""What an engine may ask of every worker (`collective_rpc`), whichever runner it has."""

from __future__ import annotations

from typing import Any

from jobs.generate.vllm_plugin.slots import Slots


class LatentCalls:
    """Mixed into vLLM's worker classes."""

    model_runner: Any

    @property
    def _slots(self) -> Slots:
        runner = self.model_runner
        return runner.latent if hasattr(runner, "latent") else runner.model_state.latent

    def latent_pop(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """See `Slots.pop`."""
        return self._slots.pop(ids)

    def latent_facts(self) -> dict[str, Any]:
        """Which runner serves, and what it has done."""
        return {"runner": type(self.model_runner).__name__, "rebuilt": self._slots.rebuilt}

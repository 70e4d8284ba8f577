"""The settings of the method `probe`, which `latentctl check --deep` submits."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from latentctl.spec.methods import MethodSettings, register


class ProbeSettings(MethodSettings):
    """Looks at a recipe's weights, tokenizer, rows and sizes from a compute node, and at the node itself."""

    method = "probe"
    implementation = "jobs.methods.probe:Probe"
    output = "scores"
    reads_dataset = False
    prompts = False

    recipe: dict[str, Any] = Field(min_length=1)
    """The experiment to look at, resolved."""


register(ProbeSettings)

"""The settings of the method `serve`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from latentctl.record.serving import KEY_VARIABLE, loopback
from latentctl.spec.base import Duration
from latentctl.spec.engine import EngineSpec
from latentctl.spec.methods import MethodSettings, register


class ServeSettings(EngineSpec, MethodSettings):
    """vLLM's OpenAI-compatible server with latent steps, until it is stopped or its time is over."""

    method = "serve"
    implementation = "jobs.methods.serve:Serve"
    output = "scores"
    role = "eval"
    latent = True
    reads_dataset = False

    host: str = Field(default="127.0.0.1", min_length=1)
    """Where it listens: an address of its machine. Beyond loopback only with `api_key`."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Unsaid: 8000, or a free one where that is taken."""
    api_key: bool = False
    """Requests must carry the key that the environment variable LATENTCTL_API_KEY holds at the start."""
    served_name: str | None = Field(default=None, min_length=1, max_length=200)
    """The name by which requests ask for the model; that of its run or directory if unsaid."""
    unasked: Literal["on", "off"] = "on"
    """What a request gets that does not say `latent`: `on` is the latent settings of the checkpoint (and of
    the block `latent`) where there are any, `off` is text."""
    max_len: int | None = Field(default=None, ge=16)
    """Longest prompt and answer together, in tokens; the model's own limit if unsaid."""
    ready_timeout: Duration = 1800
    """A server that does not answer so long after its start has failed."""

    @model_validator(mode="after")
    def _servable(self) -> ServeSettings:
        if self.engine == "transformers":
            raise ValueError("the server is vLLM's own: engine: transformers does not serve")
        if not loopback(self.host) and not self.api_key:
            raise ValueError(
                f"host {self.host} is reached from other machines: say api_key: true, and set {KEY_VARIABLE}"
            )
        return self


register(ServeSettings)

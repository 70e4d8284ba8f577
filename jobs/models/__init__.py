"""Models and tokenizers: loading, random small ones, the plain export. Names are loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.models.latent_file import read_latent as read_latent
    from jobs.models.load import load_model as load_model
    from jobs.models.load import torch_dtype as torch_dtype
    from jobs.models.plain_export import export as export
    from jobs.models.tokenizer import load_tokenizer as load_tokenizer
    from jobs.models.tokenizer import unknown_text as unknown_text

_HOME = {
    "export": "jobs.models.plain_export",
    "read_latent": "jobs.models.latent_file",
    "load_model": "jobs.models.load",
    "torch_dtype": "jobs.models.load",
    "load_tokenizer": "jobs.models.tokenizer",
    "unknown_text": "jobs.models.tokenizer",
}


def __getattr__(name: str) -> Any:
    """`read_latent` alone must not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'jobs.models' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)

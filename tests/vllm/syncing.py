"""What tests of new weights share: engines of their own, and what they are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import ask, model, tokenizer
from transformers import AutoModelForCausalLM

from jobs.generate.vllm_args import Devices, Loading, Room
from jobs.generate.vllm_engine import VllmEngine

QUESTIONS = [ask("long", list(range(90)), max_new_tokens=16), ask("short", [5, 6], max_new_tokens=16)]


def started(folder: Path, *, own_process: bool, latent: bool = False) -> tuple[VllmEngine, Any]:
    """An engine on a small Llama, and that model to train."""
    model("llama").save_pretrained(folder)
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = VllmEngine(
        Loading(str(folder), torch.float32),
        tokenizer(),
        config=own.config,
        room=Room(256, max_batch=4, max_batch_tokens=2048),
        devices=Devices(own_process=own_process),
        latent=latent,
    )
    return engine, own

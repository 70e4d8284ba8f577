"""Latent decoding inside stock vLLM.

The entry point `vllm.general_plugins` calls `register` in each of vLLM's processes. So does the worker's
module, for an interpreter that finds this package on its path alone.
"""

FAMILIES = {
    "GPT2LMHeadModel": "LatentGPT2LMHeadModel",
    "LlamaForCausalLM": "LatentLlamaForCausalLM",
    "Qwen2ForCausalLM": "LatentQwen2ForCausalLM",
    "Qwen3ForCausalLM": "LatentQwen3ForCausalLM",
}
"""Architectures that take latent steps in vLLM, and what they are called with the hooks of its V2 runner."""


def register() -> None:
    """Make the architectures known to vLLM, which loads them by name when one is asked for."""
    from vllm import ModelRegistry

    for name in FAMILIES.values():
        if name in ModelRegistry.models:
            continue
        ModelRegistry.register_model(name, f"jobs.generate.vllm_plugin.architectures:{name}")

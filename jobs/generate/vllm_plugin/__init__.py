"""Latent decoding inside stock vLLM; the entry point `vllm.general_plugins` calls `register`."""

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
        ModelRegistry.register_model(name, f"jobs.generate.vllm_plugin.architectures:{name}")

"""vLLM's OpenAI-compatible server, with latent steps by request. See README.md."""

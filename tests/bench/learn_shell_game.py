"""Does it learn, and how fast: the shell game with and without written steps, as the quickstart trains it.

Trains both through the real method, then lets each exported model answer test problems greedily.

    python tests/bench/learn_shell_game.py [--steps 125] [--threads 1] [--micro 128] [--only cot]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "train"))

CHANCE = 0.2
PROBLEMS = 200


def main() -> int:
    parser = argparse.ArgumentParser(description="Learning check on the shell game.")
    parser.add_argument("--steps", type=int, default=125)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro", type=int, default=128)
    parser.add_argument("--only", choices=["cot", "answer"])
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    reached = {}
    for target in ["cot", "answer"] if options.only is None else [options.only]:
        with tempfile.TemporaryDirectory() as folder:
            cpu, wall = time.process_time(), time.monotonic()
            model, result = train(Path(folder), target, options.steps, options.micro)
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
            reached[target] = accuracy(model, target)
        print(
            f"{target}: {reached[target]:.1%} of {PROBLEMS} problems after {options.steps} steps, loss "
            f"{result['loss']:.4f}; {result['train_seconds'] / options.steps:.3f} s a step, "
            f"{cpu / options.steps:.3f} s CPU with everything around; {wall:.0f} s in all"
        )
    good = reached.get("cot", 1.0) >= 0.9 and reached.get("answer", 0.0) <= 2 * CHANCE
    return 0 if good else 1


def recipe(target: str, steps: int, micro: int) -> dict[str, Any]:
    """One stage of the quickstart."""
    stage = {
        "name": "sft",
        "method": "sft",
        "from": "model",
        "model": {"init": {"arch": "gpt2", "hidden": 128, "layers": 2, "heads": 4}},
        "dataset": {"name": "shell-game", "options": {"cups": 5, "swaps": 8}},
        "prompt": {"form": "coconut" if target == "cot" else "answer"},
        "sft": {"target": target},
        "train": {"lr": 1e-3, "batch": 128, "micro_batch": micro, "steps": steps, "log_every": 10},
    }
    return {"name": "shell", "stages": [stage]}


def train(folder: Path, target: str, steps: int, micro: int) -> tuple[Path, dict[str, Any]]:
    from train_harness import Case, run_case

    case = Case(str(folder), recipe(target, steps, micro))
    result = run_case(case)
    kept = Path(tempfile.mkdtemp()) / "model"
    (case.stage / "model").rename(kept)
    return kept, result


def accuracy(folder: Path, target: str) -> float:
    """Share of test problems whose greedy text ends with the gold answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from jobs.data import load
    from jobs.data.render import Renderer
    from latentctl.spec.dataset import DatasetSpec
    from latentctl.spec.prompt import PromptSpec

    spec = DatasetSpec(name="shell-game", split="test", limit=PROBLEMS, options={"cups": 5, "swaps": 8})
    data = load(spec)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    prompt = PromptSpec(form="coconut" if target == "cot" else "answer")
    renderer = Renderer(tokenizer, prompt, data.instruction)
    model = AutoModelForCausalLM.from_pretrained(folder)
    texts = [renderer.prompt(example)[0] for example in data.examples]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=64, do_sample=False)
    answers = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [a.split("###")[-1].strip() == e.answer for a, e in zip(answers, data.examples, strict=True)]
    return sum(right) / len(right)


if __name__ == "__main__":
    sys.exit(main())

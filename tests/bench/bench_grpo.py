"""What a GRPO step costs here over one of TRL's GRPOTrainer: same model, prompts, group size and lengths.

Both train side by side in one process: after every step of TRL's trainer ours takes one, with rollouts,
rewards, loss and optimizer. Measured is CPU time on one thread; a ratio is formed each round. With vLLM it is
wall clock instead: its processes poll for a second after each answer, which is CPU time and no work; they
have one thread, and the trainer's waits while they generate. The other ratio stands beside.

    python tests/bench/bench_grpo.py [--rounds 9] [--engine transformers|vllm] [--json FILE]

vLLM's CPU build wants `tests/vllm/start python tests/bench/bench_grpo.py --engine vllm`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

TARGETS = {"transformers": 0.88, "vllm": 0.78}
BY = {"transformers": "cpu", "vllm": "wall"}
VOCAB, HIDDEN, LAYERS = 2048, 256, 4
PROMPTS, GROUP, NEW, LONG = 4, 4, 64, 60

REWARD = '''
"""The share of different words: anything that both sides can work out."""
from jobs.grade.rewards import register


class Different:
    name = "different"
    pooled = False

    def reward(self, attempt, verdict):
        words = attempt.text.split()
        return len(set(words)) / max(1, len(words))


register(Different())
'''


def main() -> int:
    parser = argparse.ArgumentParser(description="A GRPO step over TRL's.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--engine", choices=list(TARGETS), default="transformers")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if importlib.util.find_spec("trl") is None:
        print("bench_grpo: skipped, there is no TRL to compare with: pip install trl==1.16.0")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rounds, options.engine)
    target = TARGETS[options.engine]
    by = BY[options.engine]
    print(
        f"GRPO step with {options.engine}: {found['ours']:.3f} s {by}, TRL {found['trl']:.3f} s; ratio "
        f"{found['ratio']:.3f} (target {target}), quartiles {found['low']:.3f} to {found['high']:.3f}"
    )
    print("  ours: " + ", ".join(f"{k} {v:.3f} s" for k, v in found["parts"].items()))
    print(f"  by cpu {found['cpu']:.3f}, by wall {found['wall']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if found["ratio"] <= target else 1


def measure(folder: Path, rounds: int, engine: str) -> dict[str, Any]:
    import torch
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)
    model, tokenizer = tiny(folder / "model")
    rng = random.Random(0)
    lengths = [int(LONG * (0.6 + 0.8 * i / (PROMPTS - 1))) for i in range(PROMPTS)]
    prompts = [
        " ".join(f"w{rng.randrange(2, VOCAB)}" for _ in range(lengths[i % PROMPTS]))
        for i in range(PROMPTS * (rounds + 2))
    ]
    step, close = ours(folder, prompts, rounds + 2, engine)
    pairs: list[tuple[Spent, Spent]] = []
    trl = GRPOTrainer(
        model=model,
        reward_funcs=lambda completion_ids, **_: [len(set(c)) / max(1, len(c)) for c in completion_ids],
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=NEW,
            beta=0.0,
            max_steps=rounds + 1,
            use_cpu=True,
            bf16=False,
            report_to=[],
            logging_steps=10**6,
            save_strategy="no",
            learning_rate=1e-6,
            gradient_checkpointing=False,
            disable_tqdm=True,
            shuffle_dataset=False,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        ),
        train_dataset=_dataset(prompts),
        processing_class=tokenizer,
        callbacks=[_beside(step, pairs)],
    )
    trl.train()
    close()
    pairs = pairs[1:]  # the first round warms up
    by = BY[engine]
    ratios = {k: [getattr(a, k) / getattr(b, k) for a, b in pairs] for k in Spent._fields}
    low, _, high = statistics.quantiles(ratios[by], n=4)
    return {
        "ratio": statistics.median(ratios[by]),
        "low": low,
        "high": high,
        **{k: statistics.median(values) for k, values in ratios.items()},
        "ours": statistics.median(getattr(a, by) for a, _ in pairs),
        "trl": statistics.median(getattr(b, by) for _, b in pairs),
        "parts": {k: statistics.median(v[1:]) for k, v in step.parts.items()},
    }


class Spent(NamedTuple):
    """Seconds."""

    cpu: float
    """Of this process and those that it started."""
    wall: float

    @staticmethod
    def now() -> Spent:
        children = psutil.Process().children(recursive=True)
        cpu = time.process_time() + sum(sum(one.cpu_times()[:2]) for one in children)
        return Spent(cpu, time.perf_counter())

    def since(self, begin: Spent) -> Spent:
        return Spent(self.cpu - begin.cpu, self.wall - begin.wall)


def tiny(folder: Path) -> tuple[Any, Any]:
    """A random Qwen3 and a tokenizer of whole words, also written to `folder`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, VOCAB)}}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // 64,
        num_key_value_heads=HIDDEN // 128,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def ours(folder: Path, prompts: list[str], steps: int, engine: str) -> tuple[Any, Callable[[], None]]:
    """One optimizer step of `method: grpo` at each call, as a run does it; and what ends it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "train"))
    import train_harness as harness

    from jobs.grade.rewards import own
    from jobs.methods.grpo import Grpo

    plugin = folder / "different.py"
    plugin.write_text(REWARD)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": p, "answer": "w2"}) + "\n" for p in prompts))
    recipe = harness.experiment(
        rows,
        {"lr": 1e-6, "batch": PROMPTS * GROUP, "micro_batch": PROMPTS * GROUP, "steps": steps},
        name="grpo",
        method="grpo",
        model={"path": str(folder / "model")},
        dataset={"path": str(rows)},
        prompt={"form": "answer", "template": "plain"},
        grpo={
            "group_size": GROUP,
            "max_completion_len": NEW,
            "engine": engine,
            "precision": "fp32",
            "zero_variance": "keep",
            "grader": "exact",
            "rewards": {"correctness": 0, "own": {"different": 1.0}},
        },
    )
    recipe["plugins"] = [str(plugin)]
    ctx = harness.context(harness.Case(str(folder / "run"), recipe, source=str(folder / "model")))
    method = Grpo(ctx)
    trainer = method.prepare()
    batches = trainer.source.batches(0, steps)
    parts: dict[str, list[float]] = {"rollouts": [], "update": []}

    def step() -> None:
        begin = Spent.now()
        made = next(batches)
        middle = Spent.now()
        trainer.engine.step(made)
        parts["rollouts"].append(getattr(middle.since(begin), BY[engine]))
        parts["update"].append(getattr(Spent.now().since(middle), BY[engine]))

    step.parts = parts  # type: ignore[attr-defined]
    assert own
    return step, method.held.close


def _dataset(prompts: list[str]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"prompt": prompts})


def _beside(step: Callable[[], None], pairs: list[tuple[Spent, Spent]]) -> Any:
    from transformers import TrainerCallback

    class Beside(TrainerCallback):
        """After each of TRL's steps one of ours."""

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begin = Spent.now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            theirs = Spent.now().since(self.begin)
            begin = Spent.now()
            step()
            pairs.append((Spent.now().since(begin), theirs))

    return Beside()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["OMP_NUM_THREADS"] = "1"  # also of threads that torch makes later
    sys.exit(main())

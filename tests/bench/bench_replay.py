"""What latent steps cost in the update of GRPO, how it grows with length, and what memory the head takes.

* `latent`: one whole step of `method: grpo` (rollouts, rewards, update) with latent steps over one with as
  many text tokens instead: same model, problems, group, positions. At most 1.25.
* `linear`: how much longer the replay forward takes at twice the length, over how much longer a plain forward
  of the model does, whose attention alone grows faster than the length. At most 1.1.
* `memory`: by how much the peak of an update's loss and backward pass rises with the vocabulary, for two
  sizes of the head's parts, in processes of their own. The logits of all positions would be L·V floats.

    python tests/bench/bench_replay.py [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_grpo

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "train"))

TARGETS = {"latent": 1.25, "linear": 1.1}
VOCAB = 2048
PROMPTS, GROUP, POSITIONS, LATENTS = 4, 4, 64, 24
WORDS = 24
LENGTH, PARTS = 256, (16, 96)
BIG = 50_000
"""Vocabulary of the measurement of memory: there the logits weigh most."""


def main() -> int:
    parser = argparse.ArgumentParser(description="The update of GRPO with latent steps.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--peak", nargs=2, type=int, metavar=("WORDS", "MIB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(*options.peak)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "latent": step_ratio(Path(folder), options.rounds),
            "linear": growth(Path(folder), options.rounds),
        }
    for name, one in found.items():
        spread = f"quartiles {one['low']:.3f} to {one['high']:.3f}"
        print(f"{name}: ratio {one['ratio']:.3f} (at most {TARGETS[name]}), {spread}; {one['words']}")
    peaks = {f"{BIG}x{p}": measured_peak(BIG, p) for p in PARTS}
    base = measured_peak(VOCAB, PARTS[0])
    whole = PROMPTS * GROUP * LENGTH * (BIG - VOCAB) * 4 / 2**20
    more = {p: peaks[f"{BIG}x{p}"] - base for p in PARTS}
    for p, mib in more.items():
        print(
            f"memory: parts of {p} MiB: {BIG - VOCAB} more words take {mib:.0f} MiB more at the peak; "
            f"their logits are {whole:.0f} MiB in fp32"
        )
    bounded = all(mib < whole / 2 for mib in more.values())
    grows = more[PARTS[-1]] > more[PARTS[0]]
    if options.json:
        options.json.write_text(json.dumps({**found, "peaks": peaks, "logits": whole}, indent=2) + "\n")
    good = all(one["ratio"] <= TARGETS[name] for name, one in found.items())
    return 0 if good and bounded and grows else 1


def summed(ratios: list[float], words: str) -> dict[str, Any]:
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"ratio": statistics.median(ratios), "low": low, "high": high, "words": words}


def step_ratio(folder: Path, rounds: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    text = trainer(folder / "text", rounds + 1, latent=False)
    latent = trainer(folder / "latent", rounds + 1, latent=True)
    pairs = []
    for i in range(rounds + 1):
        order = (text, latent) if i % 2 else (latent, text)
        spent = {id(step): step() for step in order}
        pairs.append((spent[id(text)], spent[id(latent)]))
    ratios = [mine / plain for plain, mine in pairs[1:]]
    words = ", ".join(
        f"{name} {statistics.median(p[i] for p in pairs[1:]):.3f} s"
        for i, name in enumerate(("text", "latent"))
    )
    return summed(ratios, words)


def stage(
    folder: Path,
    steps: int,
    *,
    latent: bool,
    positions: int = POSITIONS,
    vocabulary: int = VOCAB,
    mib: int = 256,
) -> Any:
    """A training of `method: grpo` before its first step."""
    import train_harness as harness

    from jobs.methods.grpo import Grpo

    folder.mkdir(parents=True)
    bench_grpo.VOCAB = vocabulary
    bench_grpo.tiny(folder / "model")
    rng = random.Random(0)
    questions = [
        " ".join(f"w{rng.randrange(10, vocabulary)}" for _ in range(WORDS)) for _ in range(PROMPTS * steps)
    ]
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": q, "answer": "w2"}) + "\n" for q in questions))
    more: dict[str, Any] = {}
    if latent:
        markers = {"start": "w3", "end": "w4"}
        more["latent"] = {"input": "soft", "markers": markers, "stop": LATENTS, "noise": {"kind": "concrete"}}
    batch = PROMPTS * GROUP
    recipe = harness.experiment(
        rows,
        {"lr": 1e-6, "batch": batch, "micro_batch": batch, "steps": steps},
        name="grpo",
        method="grpo",
        dataset={"path": str(rows)},
        model={"path": str(folder / "model")},
        prompt={"form": "answer", "template": "plain"},
        grpo={
            "group_size": GROUP,
            "max_completion_len": positions,
            "engine": "transformers",
            "precision": "fp32",
            "zero_variance": "keep",
            "grader": "exact",
            "rewards": {"correctness": 0, "own": {"different": 1.0}},
            "logit_memory": mib,
        },
        **more,
    )
    plugin = folder.parent / "different.py"  # one file: a reward is registered once
    if not plugin.exists():
        plugin.write_text(bench_grpo.REWARD)
    recipe["plugins"] = [str(plugin)]
    made = Grpo(
        harness.context(harness.Case(str(folder / "run"), recipe, source=str(folder / "model")))
    ).prepare()
    engine: Any = made.source.roller.engine  # type: ignore[attr-defined]
    engine.eos = frozenset()  # so that every rollout takes all its positions
    return made


def trainer(folder: Path, steps: int, *, latent: bool) -> Any:
    """One optimizer step at each call -> its CPU seconds."""
    made = stage(folder, steps, latent=latent)
    batches = made.source.batches(0, steps)

    def step() -> float:
        begin = time.process_time()
        made.engine.step(next(batches))
        return time.process_time() - begin

    return step


def replay(folder: Path, length: int, vocabulary: int, mib: int) -> Any:
    """A call of the loss of one step's rollouts, `length` positions each; True: and of its backward pass."""
    import torch

    made = stage(folder, 1, latent=True, positions=length, vocabulary=vocabulary, mib=mib)
    (batch,) = next(made.source.batches(0, 1))

    def call(backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            loss = made.objective.loss(made.model, batch.tensors, measure=False).loss
        if backward:
            loss.backward()

    return call


def growth(folder: Path, rounds: int) -> dict[str, Any]:
    """The replay forward with latent steps, at 256 and 512 positions, beside a plain one."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    calls = []
    for length in (256, 512):
        calls.append(replay(folder / f"replay-{length}", length, VOCAB, 64))
    model = AutoModelForCausalLM.from_pretrained(folder / "replay-256" / "model", dtype="float32").eval()
    for length in (256, 512):
        ids = torch.randint(5, VOCAB, (PROMPTS * GROUP, WORDS + 1 + length))

        def plain(backward: bool, ids: Any = ids) -> None:
            with torch.set_grad_enabled(backward):
                model(input_ids=ids)

        calls.append(plain)
    for call in calls:
        call(False)
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, spent, strict=True):
            begin = time.process_time()
            call(False)
            times.append(time.process_time() - begin)
    short, long, plain_short, plain_long = (statistics.median(times) for times in spent)
    words = f"{short:.3f} s and {long:.3f} s at 256 and 512 positions, plain {plain_short:.3f} s and "
    growths = [(b / a) / (d / c) for a, b, c, d in zip(*spent, strict=True)]
    return summed(growths, words + f"{plain_long:.3f} s")


def peak(vocabulary: int, mib: int) -> float:
    """MiB above the start that one loss with its backward pass takes at most, in this process."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        call = replay(Path(folder) / "peak", LENGTH, vocabulary, mib)
        call(True)  # gradients are made
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        before = resident("VmRSS")
        call(True)
        return resident("VmHWM") - before


def resident(key: str) -> float:
    """MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def measured_peak(vocabulary: int, mib: int) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--peak", str(vocabulary), str(mib)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed leaves the process at once
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())

"""What our training loop costs over a bare DeepSpeed loop of the same model, optimizer, batches and loss.

Both run in one process, block by block in turn, so that a busy machine slows both alike; measured is CPU
time of the process. Ours does all that a real run does at every step: collating, metrics.jsonl, heartbeat,
the agreement to stop, the global token mean, gradient norms. The bare one gets its batches ready-made and
reports nothing.

    python tests/bench/bench_train.py [--rounds 9] [--steps 6] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "train"))

TARGET = 1.03
BATCH, MICRO = 16, 8


def main() -> int:
    parser = argparse.ArgumentParser(description="Overhead of the training loop over bare DeepSpeed.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps a round and side")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rounds, options.steps, options.hidden)
    print(
        f"training step: {found['ours_ms']:.1f} ms CPU, bare DeepSpeed {found['bare_ms']:.1f} ms; ratio "
        f"{found['ratio']:.3f} (target {TARGET}), rounds {found['low']:.3f} to {found['high']:.3f}"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if found["ratio"] <= TARGET else 1


def measure(folder: Path, rounds: int, steps: int, hidden: int) -> dict[str, float]:
    """CPU milliseconds a step on both sides, and the ratio: the median over rounds."""
    import torch
    import train_harness as harness

    from jobs.train.loop import Trainer

    torch.set_num_threads(1)
    pairs: list[tuple[float, float]] = []
    plain = Trainer.run

    def run(self: Any) -> dict[str, Any]:
        bare = _bare(self)
        batches = self.source.batches
        self.source.batches = lambda start, end: _in_turn(batches(start, end), bare, steps, pairs)
        return plain(self)

    Trainer.run = run
    try:
        rows = harness.write_rows(folder / "rows.jsonl", 400)
        init = {"arch": "gpt2", "hidden": hidden, "layers": 4, "heads": 4, "max_len": 128}
        train = {"steps": (rounds + 1) * steps, "batch": BATCH, "micro_batch": MICRO, "save_every": None}
        recipe = harness.experiment(rows, train, model={"init": init})
        harness.run_case(harness.Case(str(folder / "run"), recipe))
    finally:
        Trainer.run = plain
    ratios = sorted(ours / bare for ours, bare in pairs[1:])  # the first round warms up
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[0],
        "high": ratios[-1],
        "ours_ms": 1000 * statistics.median(ours for ours, _ in pairs[1:]),
        "bare_ms": 1000 * statistics.median(bare for _, bare in pairs[1:]),
    }


def _in_turn(
    batches: Iterator[Any], bare: Callable[[Any], None], steps: int, pairs: list[tuple[float, float]]
) -> Iterator[Any]:
    """Feed the loop; after each block of its steps run the same batches bare. Times what happens between."""
    while True:
        block = []
        start = time.process_time()
        for _ in range(steps):
            batch = next(batches, None)
            if batch is None:
                return
            block.append(batch)
            yield batch
        ours = time.process_time() - start
        start = time.process_time()
        for batch in block:
            bare(batch)
        pairs.append((ours / steps, (time.process_time() - start) / steps))


def _bare(trainer: Any) -> Callable[[Any], None]:
    """DeepSpeed as its tutorial shows it, on a copy of the model."""
    import deepspeed

    from jobs.train.config import optimizer
    from jobs.train.objective import Step

    module = Step(deepcopy(trainer.model), trainer.objective)
    engine = deepspeed.initialize(
        model=module,
        optimizer=optimizer(module, trainer.train, trainer.device),
        config={
            "train_batch_size": BATCH,
            "train_micro_batch_size_per_gpu": MICRO,
            "gradient_accumulation_steps": BATCH // MICRO,
            "gradient_clipping": trainer.train.clip,
            "steps_per_print": None,
            "zero_optimization": {"stage": 0},
        },
    )[0]
    engine.train()

    def step(batches: Any) -> None:
        for batch in batches:
            loss, _ = engine(batch.tensors)
            engine.backward(loss / batch.weight)
            engine.step()

    return step


if __name__ == "__main__":
    sys.exit(main())

"""What two trainings that share a machine's cores do to one another.

A job of this machine that names no `resources.cpus` has as many threads as there are cores. One step of a
small model alone and two trainings side by side, as OpenMP waits by default and as workers are told to wait.
Wall clock, since the loss is in waiting; medians of rounds in which every case has its turn.

    python tests/bench/bench_neighbours.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from latentctl.launch.command import SPINS

STEPS = 5
SLOWER_ALONE = 1.1
"""At most so much longer than by default may a step take that has the machine to itself."""
SIDE_BY_SIDE = 5.0
"""At most so many times as long as alone may a step take beside another training: 2 is a fair share."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Two trainings on the same cores.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    told: Mapping[str, str] = {"GOMP_SPINCOUNT": SPINS}
    cases: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for name, env in (("default", {}), ("ours", told)):
            for jobs in (1, 2):
                cases.setdefault((name, jobs), []).append(max(_together(jobs, env)))
    ms = {case: 1000 * statistics.median(times) for case, times in cases.items()}
    alone = ms["ours", 1] / ms["default", 1]
    beside = ms["ours", 2] / ms["ours", 1]
    before = ms["default", 2] / ms["default", 1]
    print(
        f"a step alone: {ms['default', 1]:.0f} ms by default, {ms['ours', 1]:.0f} ms ({alone:.2f}x) as told"
    )
    print(f"beside another: {before:.1f} times that by default, {beside:.1f} times as told")
    print(f"targets: at most {SLOWER_ALONE} alone, {SIDE_BY_SIDE:.0f} beside another")
    return 0 if alone <= SLOWER_ALONE and beside <= SIDE_BY_SIDE else 1


def _together(jobs: int, env: Mapping[str, str]) -> list[float]:
    """Seconds a step of each of so many trainings at once."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    command = [sys.executable, __file__, "--train"]
    running = [
        subprocess.Popen(command, env={**clean, **env}, stdout=subprocess.PIPE, text=True)
        for _ in range(jobs)
    ]
    return [float(one.communicate(timeout=600)[0].split()[-1]) for one in running]


def _train() -> None:
    import time

    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=260, hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(0, 260, (64, 48))
    times = []
    for _ in range(2 + STEPS):
        begin = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begin)
    print(statistics.median(times[2:]))


if __name__ == "__main__":
    sys.exit(_train() if sys.argv[1:] == ["--train"] else main())

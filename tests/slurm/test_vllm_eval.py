"""Real daemons: an evaluation by two vLLMs on two nodes, taken away in its middle and resumed sample by
sample."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import REPO, Cli, make_cli, wait_until, worker_of

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.heavy,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]

PROBLEMS, SAMPLES = 40, 2
RECIPE = f"""\
name: wide
model: {{init: {{arch: llama, hidden: 64, layers: 2, heads: 2, max_len: 512}}, tokenizer: {{kind: byte}}}}
dataset: {{name: shell-game, limit: {PROBLEMS}, options: {{cups: 4, swaps: 3}}}}
method: eval
prompt: {{form: coconut}}
latent: {{input: soft, markers: think, stop: 3}}
sampling: {{temperature: 1.0, samples: {SAMPLES}, max_new_tokens: 128}}
eval: {{engine: vllm, max_batch: 2}}
resources: {{nodes: 2, tasks: 1, time: 15m}}
"""


@pytest.fixture
def cli(tmp_path: Path, devbox) -> Cli:
    made = make_cli(tmp_path)
    made.env["SLURM_CONF"] = str(devbox.conf)
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    profile = (REPO / "cluster" / "devbox.yaml").read_text().replace("name: devbox", "name: mine")
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text(
        profile.replace("env:\n", f"env:\n  LD_PRELOAD: {openmp}\n")
    )
    return made


def rows(path: Path) -> list[dict[str, Any]]:
    """Of a file that somebody may be writing: without a last line that is still on its way."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_two_nodes_share_an_evaluation_that_survives_a_requeue(cli: Cli) -> None:
    cli("submit", cli.recipe(RECIPE, "wide.yaml"), "--cluster", "mine")
    run = cli.run_dir("wide-")
    stage, attempts = run / "jobs/eval/stages/eval", run / "jobs/eval/attempts"
    parts = [stage / "samples" / f"rank-{rank:05d}.jsonl" for rank in range(2)]
    held: set[int] = set()

    def both_held() -> bool:
        """Whoever has some samples stands still until the requeue: one may be ready long before the other."""
        for rank, part in enumerate(parts):
            if rank not in held and len(rows(part)) > 4:
                os.kill(worker_of(run, rank), signal.SIGSTOP)
                held.add(rank)
        return len(held) == 2

    try:
        ended = attempts / "1/end.json"
        wait_until(lambda: ended.exists() or both_held(), 240, every=0.05)
        assert not ended.exists(), cli("logs", run.name, "--rank", "all").out[-4000:]
        slurm_id = json.loads((attempts / "1/attempt.json").read_text())["id"]
        subprocess.run(["scontrol", "requeue", str(slurm_id)], env=cli.env, check=True)
        wait_until(lambda: (attempts / "2/attempt.json").exists(), 60)
        kept = {(r["id"], r["index"]): r["text"] for p in parts for r in rows(p)}
        assert 8 < len(kept) < PROBLEMS * SAMPLES, "it was taken away too late to show anything"
        wait_until(lambda: cli("status", run.name, "--exit-code", code=None).code != 8, 240, every=1)
    finally:
        cli("cancel", run.name, code=None)
    assert cli("status", run.name, "--exit-code", code=None).code == 0, cli("logs", run.name).out

    merged = rows(stage / "samples.jsonl")
    made = Counter((r["id"], r["index"]) for p in parts for r in rows(p))
    assert set(made.values()) == {1}, "a sample that was on disk was made again"
    assert len(made) == len(merged) == PROBLEMS * SAMPLES
    assert {(r["id"], r["index"]) for r in merged} == set(made)
    assert {key: r["text"] for r in merged if (key := (r["id"], r["index"])) in kept} == kept
    for part, said in zip(parts, sorted((stage / "samples").glob("attempt-2.rank-*.done.json")), strict=True):
        old = sum((r["id"], r["index"]) in kept for r in rows(part))
        assert json.loads(said.read_text())["samples"] == PROBLEMS * SAMPLES // 2 - old
    result = json.loads((stage / "result.json").read_text())
    assert (result["engine"], result["n"], result["k"]) == ("vllm", PROBLEMS, SAMPLES)
    assert result["latents_mean"] == 3
    hosts = json.loads((attempts / "2/attempt.json").read_text())
    assert (hosts["world_size"], hosts["nodes"]) == (2, "node[1-2]")

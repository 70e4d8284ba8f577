"""The same training, however it is split, interrupted or written down: against naive PyTorch, and bit for
bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_harness import PREEMPTED, Case, dataset, experiment, launch, run_case, write_rows

pytestmark = pytest.mark.heavy

STEPS = 8
SCHEDULE = {"steps": STEPS, "schedule": "cosine", "warmup": 2, "clip": 0.5, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 21)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Case:
    """One process, the global batch in one forward, ZeRO 0."""
    train = {**SCHEDULE, "micro_batch": 8, "eval_every": 4}
    recipe = experiment(rows, train, validation=dataset(rows))
    case = Case(str(tmp_path_factory.mktemp("whole")), recipe)
    run_case(case)
    return case


@pytest.fixture(scope="module")
def dropout_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that draws random numbers while it trains."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from jobs.models.plain_export import export
    from jobs.models.vocab import train
    from latentctl.spec.model import TokenizerInit

    torch.manual_seed(0)
    tokenizer = train(TokenizerInit(kind="byte"), [], max_len=256)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=16, n_layer=1, n_head=2)
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    export(GPT2LMHeadModel(config), tokenizer, folder, {"prompt": None})
    return str(folder)


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, rows: Path, dropout_model: str
) -> dict[tuple[str, int], Case]:
    """All that two processes do, in as few starts as possible: uninterrupted, killed, preempted, resumed."""
    folder = tmp_path_factory.mktemp("two")
    found: dict[tuple[str, int], Case] = {}

    def case(kind: str, zero: int, attempt: int = 1, **more: Any) -> Case:
        split = kind == "split"
        every = {"eval_every": 4} if split else {"save_every": 2}
        train = {**SCHEDULE, "micro_batch": 2, "zero_stage": zero, **every}
        stage = {"validation": dataset(rows)} if split else {"model": {"path": dropout_model}}
        source = None if split else dropout_model
        root = folder / f"{kind}-{zero}"
        made = Case(str(root), experiment(rows, train, **stage), attempt, source=source, **more)
        found[kind, zero] = made
        return made

    uninterrupted = [case("split", z) for z in range(4)] + [case("straight", z) for z in range(4)]
    stopped = [case("broken", z, stop_at=5, on_rank=1) for z in (1, 3)]
    killed = case("broken", 0, kill_at=6, on_rank=1)
    launch(folder, [*uninterrupted, *stopped, killed], size=2, killed=True)
    assert all(c.result() == PREEMPTED for c in stopped)
    resumed = [case("broken", z, 2) for z in (0, 1, 3)]
    launch(folder, [*resumed, case("broken", 2, kill_at=5, on_rank=0)], size=2, killed=True)
    launch(folder, [case("broken", 2, 2)], size=2)
    return found


def test_equals_a_naive_loop(whole: Case, rows: Path) -> None:
    """AdamW by PyTorch on one row at a time, without padding, batching, DeepSpeed or any code of the loop."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from jobs.models.random_init import random_model
    from jobs.train.order import Order, mix
    from latentctl.spec.model import InitSpec

    tokenizer = AutoTokenizer.from_pretrained(whole.stage / "model")
    init = InitSpec.model_validate(whole.experiment["stages"][0]["model"]["init"])
    model = random_model(
        init, vocab_size=len(tokenizer), attention="eager", dtype=torch.float32, device=torch.device("cpu")
    )
    model.train()
    texts = _plain_texts(rows)
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=3e-3
    )
    order = Order(len(texts), batch=8, seed=mix(3, "sft", "order"))
    seen = []
    for step in range(STEPS):
        batch = [texts[order.row(p)] for p in order.places(step)]
        tokens, losses = 0, []
        for prompt, response in batch:
            a = tokenizer(prompt, add_special_tokens=False).input_ids
            b = [*tokenizer(response, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            logp = model(torch.tensor([a + b])).logits[0].log_softmax(-1)
            losses.append(-sum(logp[len(a) + i - 1, t] for i, t in enumerate(b)))
            tokens += len(b)
        loss = torch.stack(losses).sum() / tokens
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        progress = max(0.0, (step - 2) / (STEPS - 2))
        for group in adamw.param_groups:
            group["lr"] = 3e-3 * (
                (step + 1) / 2 if step < 2 else (1 + torch.cos(torch.tensor(torch.pi * progress)).item()) / 2
            )
        adamw.step()
        seen.append(loss.item())
    assert [loss for _, loss in whole.losses()] == pytest.approx(seen, abs=1e-6)
    exported = AutoModelForCausalLM.from_pretrained(whole.stage / "model").state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(exported[name], value, atol=1e-5, rtol=1e-4, msg=name)


def _plain_texts(rows: Path) -> list[tuple[str, str]]:
    import json

    found = [json.loads(line) for line in rows.read_text().splitlines()]
    return [
        (r["question"] + "\n", "".join(f"{s}\n" for s in r["steps"]) + f"### {r['answer']}") for r in found
    ]


@pytest.mark.parametrize("zero", range(4))
def test_the_split_changes_nothing(zero: int, whole: Case, two: dict[tuple[str, int], Case]) -> None:
    """8 rows at once in one process = 2 processes × 2 rows × 2 accumulation steps, under every ZeRO stage."""
    split = two["split", zero]
    assert [s for s, _ in split.losses()] == list(range(1, STEPS + 1))
    assert [x for _, x in split.losses()] == pytest.approx([x for _, x in whole.losses()], abs=1e-6)
    assert split.norms() == pytest.approx(whole.norms(), rel=1e-4)
    weights, expected = (load_file(c.stage / "model" / "model.safetensors") for c in (split, whole))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=2e-5, rtol=1e-3, msg=name)
    assert split.result()["tokens"] == whole.result()["tokens"]
    assert split.result()["validation"] == pytest.approx(whole.result()["validation"], abs=1e-5)


@pytest.mark.parametrize("zero", range(4))
def test_resume_is_exact(zero: int, two: dict[tuple[str, int], Case]) -> None:
    """Killed (0, 2) or preempted (1, 3) and resumed in new processes, with dropout: the same losses bit for
    bit."""
    straight, broken = two["straight", zero], two["broken", zero]
    assert broken.losses() == straight.losses()
    assert broken.norms() == straight.norms()
    attempts = {r["attempt"] for r in broken.rows()}
    assert attempts == {1, 2}, "nothing was resumed"
    weights, expected = (load_file(c.stage / "model" / "model.safetensors") for c in (broken, straight))
    assert all(torch.equal(weights[k], expected[k]) for k in expected)
    assert broken.result()["tokens"] == straight.result()["tokens"]


def test_another_number_of_processes_is_refused_in_words(
    two: dict[tuple[str, int], Case], rows: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from jobs.runtime.errors import JobUserError

    with pytest.raises(JobUserError, match="written by 2 processes, this job has 1") as caught:
        run_case(replace(two["straight", 0], attempt=2))
    assert "from: " in (caught.value.hint or "")


def test_worker_processes_change_nothing(whole: Case, rows: Path, tmp_path: Path) -> None:
    case = Case(str(tmp_path), experiment(rows, {**SCHEDULE, "micro_batch": 8, "workers": 2}))
    run_case(case)
    assert case.losses() == whole.losses()


def test_packing_changes_nothing(whole: Case, rows: Path, tmp_path: Path) -> None:
    recipe = experiment(rows, {**SCHEDULE, "micro_batch": 4}, sft={"packing": True})
    case = Case(str(tmp_path), recipe)
    run_case(case)
    assert [x for _, x in case.losses()] == pytest.approx([x for _, x in whole.losses()], abs=2e-6)


def test_validation_counts_each_row_once(rows: Path, tmp_path: Path) -> None:
    """By two counts: chunks of 3 (21 rows, the last chunk full) and of 8 (the last one short)."""
    held_out = dataset(write_rows(tmp_path / "valid.jsonl", 21, seed=0))
    results = []
    for batch in (3, 8):
        train = {"steps": 2, "lr": 1e-9, "batch": batch, "micro_batch": batch, "eval_every": 1}
        case = Case(str(tmp_path / str(batch)), experiment(rows, train, validation=held_out))
        results.append(run_case(case)["validation"])
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    assert 0 < results[0]["accuracy"] < 0.5

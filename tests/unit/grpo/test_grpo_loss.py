"""The loss of an optimizer step against plain loops over rows and positions, on text of a small model."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "generate"))

from engine_harness import tiny

from jobs.generate.protocol import Sample
from jobs.methods.grpo.objective import GrpoObjective, without_adapters
from jobs.methods.grpo.rows import GrpoRow, Scored, row_of
from jobs.models.lora import add_lora
from jobs.rl.advantages import advantages, zero_variance
from jobs.rl.aggregate import scales
from jobs.rl.rollout import Rollout
from jobs.train.objective import Item
from latentctl.spec.grpo import GrpoSettings
from latentctl.spec.model import LoraSpec

pytestmark = pytest.mark.heavy

GROUP, ROOM, HEAT = 4, 12, 0.9
PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4]]
TEXTS = [[11, 12], [13, 14, 15, 16], [17], [18, 19, 20], [21, 22], [23], [24, 25, 26, 27, 28], [29, 30]]
ENDS = [1, None, 1, 1, None, 1, 1, 1]
FORCED = [(), (1,), (), (), (), (), (0, 1), ()]
REWARDS = [1.0, 0.0, 0.2, 1.0, 0.0, 0.0, 1.0, 0.3]


def samples() -> list[Sample]:
    rng = torch.Generator().manual_seed(2)
    found = []
    for i, (ids, end, forced) in enumerate(zip(TEXTS, ENDS, FORCED, strict=True)):
        logps = (-4 - torch.rand(len(ids), generator=rng)).tolist()
        last = (end, -4.5) if end is not None else None
        cause = "length" if end is None else "eos"
        found.append(Sample(f"p{i // GROUP}", i % GROUP, ids, logps, cause, end=last, forced_at=forced))
    return found


def rows(
    settings: GrpoSettings, old: list[Tensor] | None, reference: list[float] | None = None
) -> list[GrpoRow]:
    """As the method makes them; `old`: log-probs before the update of each row's drawn tokens."""
    made = [row_of(Rollout(i, i // GROUP, PROMPTS[i // GROUP], s)) for i, s in enumerate(samples())]
    groups = torch.arange(8) // GROUP
    everyone = torch.ones(8, dtype=torch.bool)
    rewards = torch.tensor(REWARDS)
    advantage = advantages(rewards, groups, everyone, settings.advantage)
    n = torch.tensor([float(len(row.sequence.text)) for row in made])
    scale, weight = scales(
        n, everyone, settings.aggregation, max_len=ROOM, local_rows=settings.local_rows or GROUP
    )
    done = []
    for i, row in enumerate(made):
        scored = None if old is None else Scored(old[i], torch.zeros(len(old[i])), {}, 0.0)
        done.append(
            row._replace(
                advantage=float(advantage[i]), scale=float(scale[i]), weight=float(weight[i]), scored=scored
            )
        )
    return done


def loss(
    model: Any, settings: GrpoSettings, made: list[GrpoRow], parts: list[list[int]], **more: Any
) -> Tensor:
    """As the training loop adds it up."""
    objective = GrpoObjective(settings, latent=None, pad=0, **more)
    total, weight = torch.zeros(()), 0.0
    for part in parts:
        batch = objective.collate([Item(made[i], i) for i in part])
        total = total + objective.loss(model, batch.tensors, measure=False).loss
        weight += batch.weight
    return total / weight


def oracle(model: Any, settings: GrpoSettings, old: list[Tensor] | None, reference: Any = None) -> Tensor:
    """Position by position, in float64 where it is not the model."""
    per_row: list[list[Tensor]] = []
    stds = [torch.tensor(REWARDS[g * GROUP : (g + 1) * GROUP]).double() for g in range(2)]
    for i, sample in enumerate(samples()):
        prompt = PROMPTS[i // GROUP]
        ids = [*prompt, *sample.ids, *([sample.end[0]] if sample.end else [])]
        logits = model(input_ids=torch.tensor([ids])).logits[0].double() / HEAT
        far = None
        if reference is not None:
            with torch.no_grad():
                far = reference(input_ids=torch.tensor([ids])).logits[0].double() / HEAT
        places = [p for p in range(len(prompt), len(ids)) if p - len(prompt) not in sample.forced_at]
        logp = [logits[p - 1].log_softmax(-1)[ids[p]] for p in places]
        other = [far[p - 1].log_softmax(-1)[ids[p]] for p in places] if far is not None else []
        before = [x.detach() for x in logp] if old is None else list(old[i].double())
        engine = [v for k, v in enumerate(sample.logps) if k not in sample.forced_at]
        engine += [sample.end[1]] if sample.end else []
        mine = stds[i // GROUP]
        r = mine[i % GROUP]
        if settings.advantage == "group_std":
            a = (r - mine.mean()) / (mine.std() + 1e-4)
        elif settings.advantage == "group":
            a = r - mine.mean()
        elif settings.advantage == "leave_one_out":
            a = r - (mine.sum() - r) / (GROUP - 1)
        else:
            a = (r - mine.mean()) / (torch.cat(stds).std() + 1e-4)
        gaps = [x - b for x, b in zip(logp, before, strict=True)]
        if settings.ratio == "sequence":
            mean = sum(gaps) / len(gaps)
            gaps = [mean] * len(gaps)
        drift = [float(b) - e for b, e in zip(before, engine, strict=True)]
        cap, mode = settings.mismatch.cap, settings.mismatch.mode
        kept = 1.0
        if mode == "sequence_mask":
            kept = 1.0 if 1 / cap <= math.exp(sum(drift)) <= cap else 0.0
        row = []
        for k, gap in enumerate(gaps):
            ratio = gap.exp()
            bounded = ratio.clamp(max=settings.clip_delta) if settings.clip_delta else ratio
            clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
            one = -torch.minimum(bounded * a, clipped * a)
            w = math.exp(drift[k])
            if mode == "token_truncate":
                one = one * min(w, cap)
            if mode == "token_mask":
                one = one * (w if 1 / cap <= w <= cap else 0.0)
            one = one * kept
            if other:
                d = other[k] - logp[k]
                one = one + settings.kl.beta * (d.exp() - d - 1)
            row.append(one)
        per_row.append(row)
    lengths = [len(row) for row in per_row]
    sums = [sum(row) for row in per_row]
    if settings.aggregation == "dapo":
        return sum(sums) / sum(lengths)  # type: ignore[return-value]
    if settings.aggregation == "grpo":
        return sum(s / n for s, n in zip(sums, lengths, strict=True)) / 8  # type: ignore[return-value]
    if settings.aggregation == "dr_grpo":
        return sum(sums) / (8 * ROOM)  # type: ignore[return-value]
    size = settings.local_rows or GROUP
    local = [range(i, i + size) for i in range(0, 8, size)]
    return sum(sum(sums[i] for i in part) / sum(lengths[i] for i in part) for part in local) / len(local)  # type: ignore[return-value]


def gradients(model: Any, value: Tensor) -> Tensor:
    model.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def before(model: Any) -> list[Tensor]:
    """Log-probs of a policy somewhat away from this one."""
    rng = torch.Generator().manual_seed(4)
    found = []
    objective = GrpoObjective(GrpoSettings(temperature=HEAT), latent=None, pad=0)
    for row in rows(GrpoSettings(temperature=HEAT), None):
        with torch.no_grad():
            own = objective.score(model, objective.collate([Item(row, 0)]).tensors)["text"]
        found.append(own + 0.4 * torch.randn(len(own), generator=rng))
    return found


SPLITS = (
    [list(range(8))],
    [[0, 1, 2, 3], [4, 5, 6, 7]],
    [[i] for i in range(8)],
    [[7, 0, 3], [], [5, 1, 2, 4, 6]],
)
OPTIONS: list[dict[str, Any]] = [
    {"aggregation": a, "advantage": b, "ratio": c}
    for a, b, c in itertools.product(
        ("dapo", "grpo", "dr_grpo", "bnpo"),
        ("group_std", "group", "leave_one_out", "batch_std"),
        ("token", "sequence"),
    )
]
OPTIONS += [
    {"clip_low": 0.1, "clip_high": 0.28, "clip_delta": 1.5},
    {"aggregation": "bnpo", "local_rows": 1},
    {"aggregation": "bnpo", "local_rows": 2},
    *({"mismatch": {"mode": m, "cap": 1.3}} for m in ("token_truncate", "token_mask", "sequence_mask")),
    {"mismatch": {"mode": "sequence_mask", "cap": 8.0}, "aggregation": "grpo"},
]


def made(options: dict[str, Any]) -> GrpoSettings:
    return GrpoSettings(
        **{"temperature": HEAT, "max_completion_len": ROOM, "mismatch": {"mode": "none"}, **options}
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("llama", scale=2.0).eval()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loss_and_gradient_are_the_oracles_for_every_split(model: Any, options: dict[str, Any]) -> None:
    settings = made(options)
    old = before(model)
    mine = rows(settings, old)
    wanted = oracle(model, settings, old)
    grad = gradients(model, wanted)
    size = float(grad.abs().max())
    for parts in SPLITS:
        value = loss(model, settings, mine, parts)
        assert float(value) == pytest.approx(float(wanted), rel=1e-4, abs=1e-6)
        assert float((gradients(model, value) - grad).abs().max()) < 2e-5 * size + 1e-9


def test_one_update_is_the_plain_policy_gradient(model: Any) -> None:
    """Without log-probs from before the ratio is 1: the gradient is that of -A log π."""
    settings = made({"aggregation": "dapo"})
    mine = rows(settings, None)
    found = gradients(model, loss(model, settings, mine, [list(range(8))]))
    total = torch.zeros(())
    for i, row in enumerate(mine):
        ids = row.sequence.ids
        logits = model(input_ids=torch.tensor([ids])).logits[0] / HEAT
        for p in row.sequence.text:
            total = total - row.advantage * logits[p - 1].log_softmax(-1)[ids[p]]
        assert i < 8
    wanted = gradients(model, total / sum(len(r.sequence.text) for r in mine))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_kl_in_the_loss_is_the_oracles_and_beta_0_asks_no_reference(model: Any) -> None:
    reference = tiny("llama", scale=2.1).eval()
    settings = made({"kl": {"beta": 0.3}})
    wanted = oracle(model, settings, None, reference)
    value = loss(model, settings, rows(settings, None), [list(range(8))], reference=reference)
    assert float(value) == pytest.approx(float(wanted), rel=1e-4)
    torch.testing.assert_close(gradients(model, value), gradients(model, wanted), atol=1e-6, rtol=1e-3)

    asked: list[int] = []
    reference.register_forward_pre_hook(lambda *_: asked.append(1))
    reference.get_decoder().register_forward_pre_hook(lambda *_: asked.append(1))
    settings = made({"kl": {"beta": 0.0}})
    loss(model, settings, rows(settings, None), [list(range(8))], reference=reference)
    assert not asked


def test_the_reference_of_lora_is_the_model_before_its_adapters() -> None:
    plain = tiny("llama", scale=2.0).eval()
    adapted = add_lora(tiny("llama", scale=2.0), LoraSpec(r=4, alpha=8), seed=1).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    ids = torch.tensor([[3, 4, 5, 6]])
    with without_adapters(adapted), torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, plain(ids).logits)
    assert float((adapted(ids).logits - plain(ids).logits).abs().max()) > 0.05
    settings = made({"kl": {"beta": 0.3}})
    value = loss(adapted, settings, rows(settings, None), [list(range(8))])
    assert float(value) == pytest.approx(float(oracle(adapted, settings, None, plain)), rel=1e-4)
    value.backward()
    trained = [n for n, p in adapted.named_parameters() if p.grad is not None]
    assert trained
    assert all("lora" in n for n in trained)


def test_kl_in_the_reward_is_the_log_ratio_of_the_whole_sample(model: Any) -> None:
    reference = tiny("llama", scale=2.1).eval()
    settings = made({"kl": {"beta": 0.3, "where": "reward"}})
    objective = GrpoObjective(settings, latent=None, pad=0, reference=reference)
    mine = rows(settings, None)
    with torch.no_grad():
        scores = objective.score(model, objective.collate([Item(r, i) for i, r in enumerate(mine)]).tensors)
    done = objective.put(mine, scores)
    for row in done:
        ids = torch.tensor([row.sequence.ids])
        both = [m(ids).logits[0].double() / HEAT for m in (model, reference)]
        a, b = (
            sum(float(each[p - 1].log_softmax(-1)[ids[0, p]]) for p in row.sequence.text) for each in both
        )
        assert row.scored is not None
        assert row.scored.reference == pytest.approx(a - b, abs=1e-3)


def test_searched_rows_have_ratio_one_whatever_was_before(model: Any) -> None:
    settings = made({"mismatch": {"mode": "sequence_mask", "cap": 1.01}})
    mine = [row._replace(drawn=False) for row in rows(settings, before(model))]
    plain = rows(made({}), None)
    found = gradients(model, loss(model, settings, mine, [list(range(8))]))
    wanted = gradients(model, loss(model, made({}), plain, [list(range(8))]))
    torch.testing.assert_close(found, wanted, atol=1e-7, rtol=1e-5)


def test_only_tokens_of_high_entropy_enter_the_policy_loss(model: Any) -> None:
    settings = made({"entropy_token_ratio": 0.5})
    objective = GrpoObjective(settings, latent=None, pad=0)
    mine = rows(settings, None)
    with torch.no_grad():
        scores = objective.score(model, objective.collate([Item(r, i) for i, r in enumerate(mine)]).tensors)
    scored = objective.put(mine, scores)
    limit = float(scores["entropy"].median())
    masked = [row._replace(high=limit) for row in scored]
    found = gradients(model, loss(model, settings, masked, [list(range(8))]))
    total, count = torch.zeros(()), 0
    for row in masked:
        ids = row.sequence.ids
        logits = model(input_ids=torch.tensor([ids])).logits[0] / HEAT
        for p in row.sequence.text:
            count += 1
            dist = torch.distributions.Categorical(logits=logits[p - 1])
            if float(dist.entropy()) >= limit - 1e-5:
                total = total - row.advantage * dist.log_prob(torch.tensor(ids[p]))
    torch.testing.assert_close(found, gradients(model, total / count), atol=1e-6, rtol=1e-3)


def test_groups_without_variance_give_no_gradient_at_all(model: Any) -> None:
    settings = made({})
    flat = torch.tensor([0.5] * 8)
    groups = torch.arange(8) // GROUP
    everyone = torch.ones(8, dtype=torch.bool)
    assert zero_variance(flat, groups, everyone).all()
    advantage = advantages(flat, groups, everyone, "group_std")
    mine = [row._replace(advantage=float(a)) for row, a in zip(rows(settings, None), advantage, strict=True)]
    assert float(gradients(model, loss(model, settings, mine, [list(range(8))])).abs().max()) == 0.0

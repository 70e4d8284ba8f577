"""The project as a contender of a harness that measures implementations beside one another.

Each function takes a transformers model and gives a function that the harness times; how to run it is in
`tests/bench/README.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def coconut_train(
    lm: Any, ids: dict[str, int], *, schedule: str = "sequential", sweeps: str = "", **_: str
) -> Callable[[dict[str, Any]], Any]:
    """Loss of a Coconut batch {input_ids, labels, attention_mask, position_ids}: the mean cross entropy over
    the labels that are not -100. `ids` names the tokens start, end and latent."""
    from torch.nn import functional

    from jobs.models.feed import make_feed
    from jobs.models.parts import parts
    from jobs.models.unroll import unroll
    from latentctl.spec.latent import HiddenInput

    taken = parts(lm)
    feed = make_feed(HiddenInput(), taken, token=ids["latent"])

    def loss(batch: dict[str, Any]) -> Any:
        latent = batch["input_ids"] == ids["latent"]
        counts = latent.sum(1)
        longest = int(counts.max())
        hidden = unroll(
            taken,
            batch["input_ids"],
            first=int(latent.float().argmax(1).max()) if longest else 0,
            counts=counts,
            longest=longest,
            feed=feed,
            mask=batch["attention_mask"],
            positions=batch["position_ids"],
            schedule="jacobi" if schedule == "jacobi" else "sequential",
            sweeps=int(sweeps) if sweeps else None,
        )
        after = batch["labels"][:, 1:]
        kept = after != -100
        return functional.cross_entropy(taken.head(hidden[:, :-1][kept]).float(), after[kept])

    return loss


def coconut_generate(
    lm: Any, ids: dict[str, int], *, batch: str = "128", **_: str
) -> Callable[[list[list[int]], int], list[list[int]]]:
    """Greedy tokens after prompts of the form `question | start | latents | end`; `batch` rows at most run
    together. Where the prompt has n latent tokens, n latent steps are taken."""
    from jobs.generate.protocol import Request, Thoughts
    from latentctl.spec.latent import LatentSpec
    from latentctl.spec.sampling import SamplingSpec

    engine = _engine(lm, int(batch))

    def asked(number: int, prompt: list[int], new: int) -> Request:
        latents = prompt.count(ids["latent"])
        spec = LatentSpec.model_validate(
            {"input": "hidden", "markers": "coconut", "start": "prompt", "stop": latents}
        )
        thoughts = Thoughts(spec, (ids["start"],), (ids["end"],), fixed=latents)
        question = prompt[: prompt.index(ids["start"]) + 1]
        sampling = SamplingSpec(max_new_tokens=latents + 1 + new)
        return Request(str(number), 0, question, sampling, thoughts=thoughts)

    def generate(prompts: list[list[int]], new: int) -> list[list[int]]:
        requests = [asked(i, prompt, new) for i, prompt in enumerate(prompts)]
        found = {sample.id: sample.ids[1:] for sample in engine.generate(requests)}  # without the end marker
        return [found[request.id] for request in requests]

    return generate


def soft_decode(
    lm: Any, *, T: str = "0.6", p: str = "0.95", max_topk: str = "30", **_: str
) -> Callable[[Any, int], Any]:
    """The most likely token (B, steps) at each of `steps` positions after prompts (B, L); every position but
    the last feeds the mixture of the nucleus at the next. `max_topk` 0: as many tokens as the nucleus has."""
    import torch

    from jobs.generate.runner import Runner
    from jobs.latent.knobs import Knobs, Row
    from jobs.latent.state import State
    from jobs.latent.step import step
    from latentctl.spec.latent import LatentSpec

    own = {"kind": "soft", "temperature": float(T), "top_p": float(p), "max_topk": int(max_topk) or None}

    runner = Runner(lm)

    @torch.inference_mode()
    def decode(prompts: Any, steps: int) -> Any:
        rows = len(prompts)
        spec = LatentSpec.model_validate({"input": own, "markers": "think", "start": "prompt", "stop": steps})
        knobs = Knobs.of([Row(spec, end=(0,), fixed=steps)] * rows, prompts.device)
        length = prompts.shape[1]
        runner.reset()
        runner.cache.ensure(rows, length + steps, limit=length + steps, budget=2**30)
        logits, states = runner.prefill_states(prompts.tolist(), [[i] for i in range(rows)], 1)
        state = State.start(knobs, states[:, 1:], torch.full((rows,), length - 1, device=prompts.device))
        hidden, tokens = states[:, 0], []
        for at in range(length, length + steps):
            out = step(logits, hidden, state, knobs, runner.parts.embedding)
            state = out.state
            tokens.append(out.thought.ids[:, 0])
            if len(tokens) < steps:
                hidden, logits = runner.feed(out.x, [at] * rows, head=True)
        return torch.stack(tokens, 1)

    return decode


class _Letters:
    """A tokenizer is asked for nothing here but the text of an answer."""

    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return "x" * len(ids)


def _engine(lm: Any, batch: int) -> Any:
    """Answers do not stop at an end token: the harness counts steps."""
    from jobs.generate.transformers_engine import TransformersEngine

    engine = TransformersEngine(lm, _Letters(), max_batch=batch, max_batch_tokens=2**30)
    engine.eos = frozenset()
    return engine


def soft_mix(*, max_topk: str = "", **_: str) -> Callable[[Any, Any, float, float], Any]:
    """The mixed input (B, d) of logits (B, V) and the input embedding (V, d) at a temperature and top-p;
    exact at any nucleus unless `max_topk` is given."""
    from jobs.latent.inputs import soft
    from jobs.latent.kept import keep
    from jobs.latent.knobs import Knobs, Row
    from latentctl.spec.latent import LatentSpec, SoftInput, StopSpec

    made: dict[tuple[int, float, float], Knobs] = {}

    def mix(logits: Any, embedding: Any, temperature: float, top_p: float) -> Any:
        asked = (len(logits), temperature, top_p)
        if asked not in made:
            cap = int(max_topk) if max_topk else None
            spec = SoftInput(temperature=temperature, top_p=top_p, max_topk=cap)
            row = Row(LatentSpec(input=spec, start="prompt", stop=StopSpec(max_len=1)), end=(0,))
            made[asked] = Knobs.of([row] * len(logits))
        kept = keep(logits, made[asked], made[asked].width)
        return soft(kept.logp.exp(), kept.ids, embedding)

    return mix

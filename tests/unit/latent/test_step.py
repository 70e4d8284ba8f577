"""One decoding step: stop rules, markers, phases, inputs; rows that do not see one another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.latent.inputs import contextual, window_weights
from jobs.latent.knobs import CAUSES, CLOSING, LATENT, TEXT, Knobs, Row
from jobs.latent.state import State, observe
from jobs.latent.step import Step, step
from latentctl.spec.latent import ContextualInput
from tests.unit.latent.rows import END, START, begun, row

pytestmark = pytest.mark.heavy

V, D = 30, 4
EMBEDDING = torch.randn(V, D, generator=torch.Generator().manual_seed(0))


def peaked(token: int, entropy_low: bool = True) -> Tensor:
    """(1, V) logits whose most likely token this is; nearly one-hot, or nearly flat."""
    logits = torch.zeros(1, V)
    logits[0, token] = 30.0 if entropy_low else 0.1
    return logits


def play(one: Row, logits: list[Tensor]) -> list[Step]:
    """The steps of one row over these logits."""
    knobs = Knobs.of([one])
    state, out = begun(knobs, D), []
    for row_logits in logits:
        out.append(step(row_logits, torch.randn(1, D), state, knobs, EMBEDDING))
        state = out[-1].state
    return out


def told(steps: list[Step]) -> list[str]:
    """x: a latent step; the cause and token where the span ends; a forced token alone; a dot: text."""
    said = []
    for s in steps:
        cause, token = CAUSES[int(s.cause)], int(s.token)
        forced = f"{cause}:{token}" if cause else str(token)
        said.append("x" if s.latent.item() else forced if token >= 0 else ".")
    return said


FLAT, SURE, OVER = peaked(1, False), peaked(1), peaked(END[0])


@pytest.mark.parametrize(
    ("settings", "logits", "want"),
    [
        ({"fixed": 0, "stop": 0}, [FLAT] * 3, ["fixed:7", "8", "."]),
        ({"fixed": 2, "stop": 2}, [FLAT] * 5, ["x", "x", "fixed:7", "8", "."]),
        ({"stop": {"max_len": 1}}, [FLAT] * 3, ["x", "max_len:7", "8"]),
        ({"stop": {"max_len": 9, "end_marker": True}}, [FLAT, OVER, FLAT], ["x", "end_marker:7", "8"]),
        ({"stop": {"max_len": 9, "end_marker": True}}, [OVER, FLAT, FLAT], ["end_marker:7", "8", "."]),
        ({"stop": {"max_len": 2}}, [OVER, OVER, OVER], ["x", "x", "max_len:7"]),
        (
            {"stop": {"max_len": 9, "entropy": {"threshold": 0.1, "patience": 3}}},
            [SURE, SURE, FLAT, SURE, SURE, SURE, FLAT],
            ["x", "x", "x", "x", "x", "entropy:7", "8"],
        ),
        ({"stop": {"max_len": 9, "entropy": {"threshold": 0.1, "patience": 1}}}, [SURE], ["entropy:7"]),
        (
            {"stop": {"max_len": 3, "entropy": {"threshold": 4.0, "patience": 4}}},
            [SURE] * 4,
            ["x", "x", "x", "entropy:7"],
        ),
        # several at once: fixed before end_marker before entropy before max_len
        (
            {
                "fixed": 1,
                "stop": {
                    "fixed": 1,
                    "max_len": 1,
                    "end_marker": True,
                    "entropy": {"threshold": 9, "patience": 2},
                },
            },
            [FLAT, OVER],
            ["x", "fixed:7"],
        ),
        (
            {"stop": {"max_len": 1, "end_marker": True, "entropy": {"threshold": 9, "patience": 2}}},
            [FLAT, OVER],
            ["x", "end_marker:7"],
        ),
        (
            {"stop": {"max_len": 1, "entropy": {"threshold": 9, "patience": 2}}},
            [FLAT, FLAT],
            ["x", "entropy:7"],
        ),
        ({"fixed": 5, "stop": {"per_step": {}, "max_len": 1}}, [FLAT, FLAT], ["x", "max_len:7"]),
    ],
)
@pytest.mark.parametrize("kind", ["soft", "hidden", "pause"])
def test_a_span_ends_where_its_rules_say(
    kind: str, settings: dict[str, Any], logits: list[Tensor], want: list[str]
) -> None:
    assert told(play(row(kind, **settings), logits)) == want


def test_an_end_marker_of_one_token_is_followed_by_text() -> None:
    got = play(row("hidden", end=(9,), fixed=1, stop=1), [FLAT] * 3)
    assert told(got) == ["x", "fixed:9", "."]
    assert [s.state.phase.item() for s in got] == [LATENT, TEXT, TEXT]


def test_the_rest_of_a_long_end_marker_is_forced() -> None:
    got = play(row("hidden", end=(9, 3, 4), fixed=0, stop=0), [FLAT] * 4)
    assert told(got) == ["fixed:9", "3", "4", "."]
    assert [s.state.phase.item() for s in got] == [CLOSING, CLOSING, TEXT, TEXT]


def test_the_entropy_rule_looks_at_the_distribution_that_it_names() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]])  # entropy 0.69 at temperature 1, 0.0027 at 0.25
    for on, ends in (("input", True), ("model", False)):
        rule = {"max_len": 9, "entropy": {"threshold": 0.1, "patience": 1, "on": on}}
        knobs = Knobs.of([row({"kind": "soft", "temperature": 0.25}, stop=rule)])
        out = step(logits, torch.zeros(1, D), begun(knobs, D), knobs, EMBEDDING[:3])
        assert (CAUSES[int(out.cause)] == "entropy") == ends


def test_what_each_kind_is_fed() -> None:
    hidden, logits = torch.randn(4, D), torch.randn(4, V)
    kinds = ["hidden", {"kind": "contextual", "window": 1}, "pause", {"kind": "soft", "max_topk": None}]
    knobs = Knobs.of([row(k, token=3) for k in kinds])
    out = step(logits, hidden, begun(knobs, D), knobs, EMBEDDING)
    assert out.latent.tolist() == [True] * 4
    assert torch.equal(out.x[:2], hidden[:2])
    assert torch.equal(out.x[2], EMBEDDING[3])
    assert torch.allclose(out.x[3], logits[3].softmax(-1) @ EMBEDDING, atol=1e-6)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("include", ["all", "latent_only", "from_start_marker"])
@pytest.mark.parametrize("prompt", [1, 2, 9])
def test_the_window_holds_the_states_that_it_may_look_at(include: str, compat: bool, prompt: int) -> None:
    spec = ContextualInput(window=4, weights=[4, 3, 2, 1], include=include, compat=compat)  # type: ignore[arg-type]
    line = torch.randn(prompt + 5, D)  # hidden states of all positions
    knobs = Knobs.of([row(spec, begin=(5, 6))])
    before = line[: prompt - 1].flip(0)[None, :3]
    state = State.start(knobs, before, torch.tensor([prompt - 1]))
    for j in range(5):
        out = step(None, line[None, prompt - 1 + j], state, knobs, EMBEDDING)
        state = out.state
        reach = {"all": prompt, "latent_only": 1, "from_start_marker": min(2, prompt)}[include] + j
        reach = 1 if compat and j else min(reach, 4)
        seen = line[: prompt + j].flip(0)[:reach]
        share = window_weights(spec)[:reach]
        assert torch.allclose(out.x[0], (share / share.sum()) @ seen, atol=1e-6)


def test_every_latent_step_looks_past_the_newest_state() -> None:
    knobs = Knobs.of([row({"kind": "contextual", "window": 3})])
    hidden = torch.randn(5, 1, D, requires_grad=True)
    state = begun(knobs, D)
    for j in range(5):
        out = step(None, hidden[j], state, knobs, EMBEDDING)
        state = out.state
        (grad,) = torch.autograd.grad(out.x.sum(), hidden, retain_graph=True)
        assert grad.abs().sum((1, 2)).nonzero().flatten().tolist() == list(range(max(0, j - 2), j + 1))


def heard(text: list[int], start: tuple[int, ...]) -> list[int]:
    """After which tokens of the text a span begins."""
    knobs = Knobs.of([row("hidden", begin=start, start="model")])
    state, out = begun(knobs, D), []
    assert state.phase.tolist() == [TEXT]
    for i, token in enumerate(text):
        state = observe(torch.tensor([token]), state, knobs)
        if state.phase.item() == LATENT:
            out.append(i)
            state = state._replace(phase=torch.tensor([TEXT]))
    return out


@pytest.mark.parametrize("start", [(5,), (5, 6), (5, 5, 6), (5, 6, 5, 7), (5, 5, 5), (5, 6, 5, 6, 7)])
def test_a_start_marker_is_found_wherever_it_is_written(start: tuple[int, ...]) -> None:
    """Against a search of the whole text, in which a marker that was found is not used again."""
    generator = torch.Generator().manual_seed(len(start))
    for _ in range(15):
        text = (5 + torch.randint(0, 3, (25,), generator=generator)).tolist()
        want, begin = [], 0
        for i in range(len(text)):
            if i + 1 - begin >= len(start) and tuple(text[i + 1 - len(start) : i + 1]) == start:
                want.append(i)
                begin = i + 1
        assert heard(text, start) == want


def test_a_model_that_opens_two_spans_takes_both_and_its_noise_goes_on() -> None:
    noise = {"kind": "gaussian", "strength": 0.5}
    knobs = Knobs.of([row("hidden", start="model", fixed=2, stop=2, noise=noise)])
    state, hidden, fed = begun(knobs, D), torch.ones(1, D), []
    for _ in range(2):
        for token in START:
            out = step(None, hidden, state, knobs, EMBEDDING)
            assert told([out]) == ["."]
            state = observe(torch.tensor([token]), out.state, knobs)
        said = []
        for _ in range(5):
            out = step(None, hidden, state, knobs, EMBEDDING)
            state = out.state
            said += told([out])
            fed += [out.x] if out.latent.item() else []
        assert said == ["x", "x", "fixed:7", "8", "."]
    assert state.total.tolist() == [4]
    assert len({x.sum().item() for x in fed}) == 4, "no span repeats another's noise"


def test_rows_in_another_phase_and_rows_that_do_not_wait_hear_nothing() -> None:
    knobs = Knobs.of([row("hidden", begin=(5,), start="model"), row("hidden", begin=(5,))])
    state = begun(knobs, D)
    state = state._replace(phase=torch.tensor([CLOSING, TEXT]))
    assert observe(torch.tensor([5, 5]), state, knobs).phase.tolist() == [CLOSING, TEXT]
    state = state._replace(phase=torch.tensor([TEXT, TEXT]))
    assert observe(torch.tensor([-1, 5]), state, knobs).phase.tolist() == [TEXT, TEXT]


MIXED = [
    row("hidden", fixed=2, stop=2),
    row({"kind": "soft", "top_p": 0.9}, stop={"max_len": 4, "end_marker": True}, key=4),
    row({"kind": "contextual", "window": 3, "rescale": True}, stop={"max_len": 3}),
    row({"kind": "contextual", "window": 2, "compat": True, "include": "latent_only"}, end=(1, 2, 3)),
    row("pause", fixed=1, stop=1),
    row({"kind": "soft", "top_k": 5}, stop={"max_len": 6, "entropy": {"threshold": 2.5, "patience": 2}}),
    row({"kind": "soft"}, noise={"kind": "concrete"}, key=5),
    row({"kind": "soft"}, noise={"kind": "dirichlet"}, key=6, trace=5),
    row("hidden", noise={"kind": "gaussian"}, key=7, start="model", begin=(0,)),
]


def run(rows: list[Row], logits: Tensor, hidden: Tensor, steps: int = 7) -> list[tuple[Tensor, ...]]:
    """Each step's latent, x where latent, token, cause; `logits` (steps, N, V), `hidden` (steps, N, D)."""
    knobs = Knobs.of(rows)
    state, out = begun(knobs, D), []
    for t in range(steps):
        s = step(logits[t], hidden[t], state, knobs, EMBEDDING)
        out.append((s.latent, s.x.masked_fill(~s.latent[:, None], 0), s.token, s.cause))
        state = observe(logits[t].argmax(-1) * 0, s.state, knobs)
    return out


def test_rows_of_every_recipe_share_a_batch_in_any_order() -> None:
    torch.manual_seed(7)
    n = len(MIXED)
    logits, hidden = torch.randn(7, n, V) * 3, torch.randn(7, n, D)
    together = run(MIXED, logits, hidden)
    order = torch.randperm(n)
    moved = run([MIXED[i] for i in order], logits[:, order], hidden[:, order])
    for a, b in zip(together, moved, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x[order], y)
    for i, one in enumerate(MIXED):
        alone = run([one], logits[:, i : i + 1], hidden[:, i : i + 1])
        for a, b in zip(together, alone, strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.allclose(x[i].double(), y[0].double(), atol=1e-6)


def test_rows_leave_and_join_without_a_trace() -> None:
    torch.manual_seed(8)
    n = len(MIXED)
    logits, hidden = torch.randn(7, n, V) * 3, torch.randn(7, n, D)
    together = run(MIXED, logits, hidden)
    first, second = list(range(4)), list(range(4, n))
    knobs = [Knobs.of([MIXED[i] for i in part]) for part in (first, second)]
    states = [begun(k, D) for k in knobs]
    parts = [first, second]
    for t in range(7):
        if t == 3:  # the second part joins, one row of the first leaves
            stay = [0, 2, 3]
            states = [State.join([states[0].take(torch.tensor(stay)), states[1]])]
            first = [first[i] for i in stay] + second
            knobs = [Knobs.of([MIXED[i] for i in first])]
            parts = [first]
        for p, part in enumerate(parts):
            s = step(logits[t][part], hidden[t][part], states[p], knobs[p], EMBEDDING)
            states[p] = observe(torch.zeros(len(part), dtype=torch.int64), s.state, knobs[p])
            assert torch.equal(s.latent, together[t][0][part])
            assert torch.equal(s.token, together[t][2][part])
            assert torch.allclose(s.x.masked_fill(~s.latent[:, None], 0), together[t][1][part], atol=1e-6)


def test_logits_are_asked_for_only_where_something_reads_them() -> None:
    for kind in ("hidden", "pause", {"kind": "contextual"}):
        knobs = Knobs.of([row(kind, fixed=2, stop=2)])
        assert not knobs.reads
        assert step(None, torch.zeros(1, D), begun(knobs, D), knobs, EMBEDDING).latent.item()
    rules: list[dict[str, Any]] = [{"end_marker": True}, {"entropy": {"threshold": 1}}]
    for reads in (row("hidden", trace=3), *(row("hidden", stop={"max_len": 2, **rule}) for rule in rules)):
        knobs = Knobs.of([reads])
        assert knobs.reads
        with pytest.raises(ValueError, match="read logits"):
            step(None, torch.zeros(1, D), begun(knobs, D), knobs, EMBEDDING)


def test_a_trace_of_a_hidden_step_holds_the_likely_tokens_with_their_probabilities() -> None:
    knobs = Knobs.of([row("hidden", trace=3), row({"kind": "soft", "top_p": 0.5})])
    logits = torch.randn(2, V)
    out = step(logits, torch.zeros(2, D), begun(knobs, D), knobs, EMBEDDING)
    want = logits[0].softmax(-1).topk(3)
    assert torch.equal(out.thought.ids[0, :3], want.indices)
    assert torch.allclose(out.thought.weights[0, :3], want.values)
    assert float(out.thought.weights[0, 3:].sum()) == 0
    assert out.thought.mass[0].item() == 1
    soft_mass = logits[1].softmax(-1)[out.thought.ids[1][out.thought.weights[1] > 0]].sum()
    assert out.thought.mass[1].item() == pytest.approx(soft_mass.item(), abs=1e-6)


@pytest.mark.parametrize(
    "rows", [MIXED, MIXED[:1], MIXED[1:2], MIXED[2:4]], ids=["all", "hidden", "soft", "window"]
)
def test_a_step_is_one_graph(rows: list[Row]) -> None:
    """No value is looked at on the host: the compiler would have to break the graph there."""
    torch._dynamo.reset()
    knobs = Knobs.of(rows)
    n = len(rows)
    logits, hidden = torch.randn(n, V), torch.randn(n, D)
    whole: Any = torch.compile(step, fullgraph=True, backend="eager")
    got = whole(logits, hidden, begun(knobs, D), knobs, EMBEDDING)
    want = step(logits, hidden, begun(knobs, D), knobs, EMBEDDING)
    assert torch.equal(got.latent, want.latent)
    assert torch.allclose(got.x, want.x, atol=1e-6)
    listen: Any = torch.compile(observe, fullgraph=True, backend="eager")
    tokens = torch.zeros(n, dtype=torch.int64)
    assert torch.equal(listen(tokens, got.state, knobs).phase, observe(tokens, want.state, knobs).phase)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stop": {"per_step": {}}}, "without an end"),
        ({"input": "pause", "token": None}, "needs the token"),
        ({"input": "none"}, "takes no latent steps"),
        ({"end": ()}, "no tokens"),
        ({"start": "model", "begin": ()}, "start marker"),
        ({"start": None}, "not settled"),
        ({"stop": None}, "not settled"),
        ({"input": {"kind": "contextual", "weights": "learned"}}, "come from training"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Knobs.of([row(**wrong)])


def test_gradients_pass_through_a_chain_of_steps() -> None:
    knobs = Knobs.of([row({"kind": "contextual", "window": 2}), row({"kind": "soft", "top_p": 0.9})])
    head = torch.randn(D, V, dtype=torch.float64)
    embedding = EMBEDDING.double()

    def chain(hidden: Tensor) -> Tensor:
        state, x = begun(knobs, D)._replace(window=torch.zeros(2, 2, D, dtype=torch.float64)), hidden
        for _ in range(3):
            out = step(x @ head, x, state, knobs, embedding)
            state, x = out.state, out.x.tanh()
        return x

    torch.manual_seed(9)
    assert torch.autograd.gradcheck(chain, torch.randn(2, D, dtype=torch.float64, requires_grad=True))


def test_a_window_of_one_feeds_what_hidden_feeds() -> None:
    knobs = Knobs.of([row("hidden"), row({"kind": "contextual", "window": 1}), row({"kind": "contextual"})])
    state, weights = begun(knobs, D), window_weights(ContextualInput())
    for j in range(4):
        hidden = torch.randn(1, D).expand(3, -1)
        out = step(None, hidden, state, knobs, EMBEDDING)
        state = out.state
        assert torch.equal(out.x[0], out.x[1])
        want = contextual(state.window[2:], weights, torch.arange(3)[None] <= j)
        assert torch.allclose(out.x[2], want[0], atol=1e-6)

"""Key-token tree search: bookkeeping against a plain recursion, rows against a recomputation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from engine_harness import NumberTokenizer, by_key, tiny
from torch import Tensor

from jobs.generate.protocol import Request
from jobs.generate.transformers_engine import TransformersEngine
from jobs.generate.tree import TreeSearch
from jobs.generate.tree.distance import edit_distance
from jobs.generate.tree.words import idle
from latentctl.spec.sampling import SamplingSpec
from latentctl.spec.tree import TreeRollouts, TreeSpec

pytestmark = pytest.mark.heavy

PROMPTS = {"a": [3, 14, 15], "b": [9, 2, 6, 5, 3], "c": [7]}
OPEN = {"min_prob": 0.05, "max_gap": None, "look_ahead": []}


def requests(
    id: str, n: int, spec: TreeSpec | None, *, new: int = 12, temperature: float = 1.0, **sampling: Any
) -> list[Request]:
    said = SamplingSpec(temperature=temperature, max_new_tokens=new, seed=5, **sampling)
    return [Request(id, i, PROMPTS[id], said, tree=spec) for i in range(n)]


def engine(model: Any, **kw: Any) -> TransformersEngine:
    return TransformersEngine(model, NumberTokenizer(), **{"max_batch": 32, "max_batch_tokens": 8192, **kw})


@pytest.fixture(scope="module")
def model() -> Any:
    made = tiny("qwen3", scale=3.0).eval()
    with torch.no_grad():  # as sure of itself as a trained one: the likeliest token has about a half
        made.get_output_embeddings().weight.mul_(14.0)
    return made


@dataclass
class Plain:
    """A row of the plain recursion."""

    ids: list[int]
    parent: int | None
    birth: int
    children: list[int] = field(default_factory=list)
    gone: bool = False


def naive(model: Any, prompt: list[int], n: int, spec: TreeSpec, new: int) -> list[Plain]:
    """The rules, with a whole forward for every row and step; greedy rows, no ends of sequence."""
    rows = [Plain([], None, 0)]
    for _ in range(new):
        found = []
        probs = []
        for i, row in enumerate(rows):
            if row.gone:
                probs.append(None)
                continue
            with torch.no_grad():
                p = model(torch.tensor([[*prompt, *row.ids]])).logits[0, -1].softmax(-1)
            top = p.topk(spec.branches)
            probs.append(top)
            for rank in range(1, spec.branches):
                prob = float(top.values[rank])
                gap = float(top.values[0]) - prob
                if prob >= spec.min_prob and (spec.max_gap is None or gap <= spec.max_gap):
                    found.append((rank, -prob, i, int(top.indices[rank])))
        found.sort()
        room = n - sum(not r.gone for r in rows)
        born = []
        for _, _, i, token in found[:room]:
            born.append((i, token))
        for i, token in born:
            rows[i].children.append(len(rows))
            rows.append(Plain([*rows[i].ids, token], i, len(rows[i].ids)))
        for i in range(len(rows) - len(born)):
            if not rows[i].gone:
                rows[i].ids.append(int(probs[i].indices[0]))
        for i in range(len(rows) - len(born)):
            row = rows[i]
            age = len(row.ids) - row.birth
            if len(row.ids) == new:
                continue  # a row that has ended stays
            if row.gone or row.parent is None or age not in spec.look_ahead or rows[row.parent].gone:
                continue
            theirs = rows[row.parent].ids[row.birth : row.birth + age]
            if edit_distance(row.ids[row.birth :], theirs) < spec.min_distance * age:
                left = [i]
                while left:
                    one = left.pop()
                    rows[one].gone = True
                    left += rows[one].children
    return [row for row in rows if not row.gone]


SPECS = [
    TreeSpec(**OPEN),
    TreeSpec(**{**OPEN, "branches": 3}),
    TreeSpec(min_prob=0.1, max_gap=0.3, look_ahead=[]),
    TreeSpec(**{**OPEN, "look_ahead": [3, 6], "min_distance": 0.9}),
]


@pytest.mark.parametrize("spec", SPECS, ids=["open", "three", "near", "pruned"])
def test_the_rows_are_those_of_the_plain_recursion(model: Any, spec: TreeSpec) -> None:
    for id, prompt in PROMPTS.items():
        found = by_key(engine(model).generate(requests(id, 6, spec)))
        wanted = naive(model, prompt, 6, spec, 12)
        mine = [s for i in range(6) if not (s := found[id, i]).branch.duplicate]  # type: ignore[union-attr]
        assert [s.ids for s in mine] == [row.ids for row in wanted]
        assert [s.branch.birth for s in mine] == [row.birth for row in wanted]  # type: ignore[union-attr]
        for sample in mine:
            branch = sample.branch
            assert branch is not None
            if branch.parent is not None:
                parent = mine[branch.parent]
                assert parent.ids[: branch.birth] == sample.ids[: branch.birth]
                assert parent.ids[branch.birth] != sample.ids[branch.birth]


def test_pruning_happens_and_takes_descendants_along(model: Any) -> None:
    one = engine(model)
    list(one.generate(r for id in PROMPTS for r in requests(id, 8, SPECS[3], new=16)))
    assert one.told["removed"] > 0
    assert one.told["branches"] > one.told["removed"] / 2


def test_log_probs_are_those_of_a_recomputation(model: Any) -> None:
    one = engine(model)
    asked = [r for id in PROMPTS for r in requests(id, 6, SPECS[3], new=14)]
    found = list(one.generate(asked))
    items = [(PROMPTS[s.id], s.ids) for s in found]
    for sample, scores in zip(found, one.score(items), strict=True):
        assert sample.logps == pytest.approx(scores, abs=1e-4)


def test_there_are_never_more_rows_than_asked(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = TreeSearch._take

    def watched(self: TreeSearch, logits: Tensor, nodes: Any) -> None:
        plain(self, logits, nodes)
        for root in {id(n.root): n.root for n in nodes}.values():
            seen.append(len(root.alive) - len(root.requests))

    monkeypatch.setattr(TreeSearch, "_take", watched)
    found = list(engine(model).generate(r for id in PROMPTS for r in requests(id, 4, SPECS[0])))
    assert max(seen) <= 0
    assert len(found) == 12


def test_what_was_not_found_is_doubled_and_marked(model: Any) -> None:
    spec = TreeSpec(min_prob=0.99, look_ahead=[])
    found = by_key(engine(model).generate(requests("a", 4, spec)))
    assert [found["a", i].branch.duplicate for i in range(4)] == [False, True, True, True]  # type: ignore[union-attr]
    assert len({tuple(s.ids) for s in found.values()}) == 1


def test_without_branches_always_drawn_rows_are_plain_samples(model: Any) -> None:
    spec = TreeSpec(min_prob=0.99, look_ahead=[], sample="always")
    tree = by_key(engine(model).generate(requests("b", 1, spec, new=20)))
    plain = by_key(engine(model).generate(requests("b", 1, None, new=20)))
    assert tree["b", 0].ids == plain["b", 0].ids
    assert tree["b", 0].logps == pytest.approx(plain["b", 0].logps, abs=1e-5)


def test_beyond_max_len_rows_are_drawn(model: Any) -> None:
    spec = TreeRollouts(**{**OPEN, "max_len": 3})
    found = by_key(engine(model).generate(requests("a", 6, spec, new=20)))
    real = [s for s in found.values() if s.branch is not None and not s.branch.duplicate]
    assert max(s.branch.birth for s in real if s.branch is not None) < 3
    greedy = by_key(engine(model).generate(requests("a", 6, TreeSpec(**OPEN), new=20)))
    assert found["a", 0].ids[:3] == greedy["a", 0].ids[:3]
    assert found["a", 0].ids != greedy["a", 0].ids


def test_a_problem_is_searched_alike_alone_and_among_others(model: Any) -> None:
    alone = by_key(engine(model).generate(requests("b", 5, SPECS[3])))
    every = [r for id in PROMPTS for r in requests(id, 5, SPECS[3])]
    for limit in (5, 12, 32):
        found = by_key(engine(model, max_batch=limit).generate(every))
        for i in range(5):
            assert found["b", i].ids == alone["b", i].ids
            one, other = found["b", i].branch, alone["b", i].branch
            assert one is not None
            assert other is not None
            assert one._replace(prob=0) == other._replace(prob=0)
            assert one.prob == pytest.approx(other.prob, abs=1e-5)


def test_searched_and_sampled_requests_go_together(model: Any) -> None:
    asked = [*requests("a", 3, SPECS[0]), *requests("b", 2, None)]
    found = by_key(engine(model).generate(asked))
    assert all(found["a", i].branch is not None for i in range(3))
    assert all(found["b", i].branch is None for i in range(2))


def test_a_judge_keeps_what_it_says_differs(model: Any) -> None:
    asked: list[tuple[str, str, str]] = []

    def judge(triples: Any) -> list[float]:
        asked.extend(triples)
        return [0.9] * len(triples)

    one = engine(model)
    one.judge = judge
    spec = TreeSpec(**OPEN, divergence="some/model")
    same = by_key(one.generate(requests("a", 4, spec)))
    assert asked
    assert sum(not s.branch.duplicate for s in same.values()) == 1  # type: ignore[union-attr]
    one.judge = lambda triples: [0.1] * len(triples)
    other = by_key(one.generate(requests("a", 4, spec)))
    assert [s.ids for s in other.values()] == [
        s.ids for s in by_key(one.generate(requests("a", 4, TreeSpec(**OPEN)))).values()
    ]


def test_rows_end_where_any_row_does(model: Any) -> None:
    one = engine(model)
    whole = by_key(one.generate(requests("a", 1, TreeSpec(**OPEN))))["a", 0]
    one.eos = frozenset({whole.ids[4]})
    first = whole.ids.index(whole.ids[4])
    found = by_key(one.generate(requests("a", 4, TreeSpec(**OPEN))))
    assert found["a", 0].cause == "eos"
    assert found["a", 0].ids == whole.ids[:first]
    assert found["a", 0].end is not None
    for sample in found.values():
        assert whole.ids[4] not in sample.ids


def test_latent_steps_are_refused_in_words(model: Any) -> None:
    from latent_requests import latent

    (request,) = requests("a", 1, TreeSpec(**OPEN))
    asked = latent("hidden", 3)
    wrong = replace(request, ids=[*request.ids, *asked.start], thoughts=asked)
    (sample,) = engine(model).generate([wrong])
    assert sample.cause == "error"
    assert "tree search is for text alone" in str(sample.error)


def test_edit_distance_by_hand() -> None:
    assert edit_distance([], [1, 2]) == 2
    assert edit_distance([1, 2, 3], [1, 2, 3]) == 0
    assert edit_distance([1, 2, 3], [2, 3, 4]) == 2
    assert edit_distance([1, 2, 3, 4], [1, 9, 3]) == 2


def test_tokens_at_which_nothing_is_decided() -> None:
    assert all(idle(t) for t in (" the", ",", ".", "\n", " ", " Of"))
    assert not any(idle(t) for t in (" 7", "+", "*", " therefore", "=", "("))


def test_the_share_of_searched_problems_falls_and_is_spread_out() -> None:
    spec = TreeRollouts()
    assert [spec.share_at(s) for s in (0, 9, 10, 20, 79, 80, 199, 200, 999)] == [
        1.0, 1.0, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0, 0.0,
    ]  # fmt: skip
    assert [spec.searched(10, g) for g in range(8)] == [False, True, True, True] * 2
    assert sum(spec.searched(80, g) for g in range(16)) == 4


def test_a_crowded_problem_becomes_stricter(model: Any) -> None:
    loose = TreeSpec(min_prob=0.05, max_gap=0.9, look_ahead=[], adapt=True)
    fixed = TreeSpec(min_prob=0.05, max_gap=0.9, look_ahead=[])
    counts = []
    for spec in (loose, fixed):
        one = engine(model)
        list(one.generate(requests("a", 3, spec, new=30)))
        counts.append(one.told["suppressed"])
    assert counts[0] < counts[1]

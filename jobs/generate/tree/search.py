"""The search itself: all rows of several problems take a token, some of them two.

At each step of a row the likeliest token goes on with the row, and further candidates that pass the filters
become rows of their own, as long as the problem has room (document 000; LATR, arXiv 2510.24302). Rows that
turn out like their parent are removed. What is found is not a draw from the policy: likely tokens are taken,
not drawn, so its log-probs are those of its tokens and no importance ratio may be formed of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from jobs.generate.admission import total
from jobs.generate.protocol import Request, Sample
from jobs.generate.sampling import Knobs, draw, kept_tokens
from jobs.generate.text import decode
from jobs.generate.tree.distance import edit_distance
from jobs.generate.tree.nodes import Node, Root
from jobs.generate.tree.words import idle
from jobs.latent.noise import uniform
from jobs.runtime.errors import JobUserError
from latentctl.spec.tree import TreeRollouts, TreeSpec

if TYPE_CHECKING:
    from jobs.generate.transformers_engine import TransformersEngine

Judge = Callable[[Sequence[tuple[str, str, str]]], list[float]]
"""(text before, one continuation, another) -> scores from 0 to 1 of coming to the same answer."""

_BEFORE = 100  # tokens of the answer that a judge is shown
_STEP = 0.01  # by which a threshold moves
_MOVES = 10
_CROWDED, _EMPTY = 0.1, 0.05


class Candidate(NamedTuple):
    """A token that may become a row."""

    node: Node
    rank: int
    token: int
    prob: float
    """Under the model at temperature 1, before filters."""


class TreeSearch:
    """On an engine `transformers`, for requests of text alone; those of one problem are its room.

    `told`: `problems`, `branches`, `suppressed`, `removed`, `duplicates`, `rows` so far.
    """

    def __init__(self, engine: TransformersEngine, spec: TreeSpec, judge: Judge | None = None) -> None:
        if spec.divergence is not None and judge is None:
            raise JobUserError("tree.divergence names a model, and none was loaded")
        self.engine, self.spec, self.judge = engine, spec, judge
        self.runner = engine.runner
        self.until = spec.max_len if isinstance(spec, TreeRollouts) else None
        self.told: Counter[str] = Counter()
        self.stopped = False
        self.active: list[Node] = []
        """By slot."""

    def run(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """All samples of a problem as soon as it is finished. Requests that the engine admitted."""
        problems: dict[str, list[Request]] = {}
        for request in requests:
            problems.setdefault(request.id, []).append(request)
        waiting = [Root(each, self.spec) for each in problems.values()]
        roots: list[Root] = []
        try:
            while waiting or roots:
                if new := self._admit(waiting, roots):
                    self._prefill(new)
                else:
                    self._step()
                for root in [r for r in roots if r.whole]:
                    roots.remove(root)
                    yield from self._done(root)
                if self.engine.on_step is not None and self.engine.on_step(self.engine.tokens):
                    self.stopped = True
                    return
        finally:
            self.active = []
            self.runner.reset()

    def _admit(self, waiting: list[Root], roots: list[Root]) -> list[Root]:
        """Waiting problems whose rows all fit beside those that are searched."""
        new: list[Root] = []
        while waiting:
            root = waiting[0]
            every = [*roots, *new, root]
            rows = sum(len(r.requests) for r in every)
            longest = max(total(r.requests[0]) for r in every)
            full = rows > self.engine.max_batch or rows * longest > self.engine.max_batch_tokens
            if full and (roots or new):
                break
            new.append(waiting.pop(0))
        roots += new
        return new

    @torch.inference_mode()
    def _prefill(self, new: Sequence[Root]) -> None:
        planted = [root.plant(self.engine.tokenizer, self.engine.eos) for root in new]
        first = len(self.active)
        self.active += planted
        prompts = [tuple(node.row.request.ids) for node in planted]
        self._room(max(map(len, prompts)))
        logits = self.runner.prefill(prompts, [[first + i] for i in range(len(planted))])
        self._take(logits, planted)

    @torch.inference_mode()
    def _step(self) -> None:
        positions = [node.row.next_position for node in self.active]
        self._room(max(positions) + 1)
        logits = self.runner.step([node.row.ids[-1] for node in self.active], positions)
        self._take(logits, list(self.active))

    def _room(self, columns: int) -> None:
        roots = {id(node.root): node.root for node in self.active}.values()
        rows = max(len(self.active), sum(len(root.requests) for root in roots))
        longest = max(total(node.row.request) for node in self.active)
        columns = max([columns, *(node.row.next_position + 1 for node in self.active)])
        budget = max(self.engine.max_batch_tokens, rows * longest)
        self.runner.cache.ensure(rows, columns, limit=longest, budget=budget)

    def _take(self, logits: Tensor, nodes: Sequence[Node]) -> None:
        """Let these rows, whose last `logits` (rows, V) these are, go on, and branch."""
        own = [node.row.request for node in nodes]
        knobs = Knobs.of([r.sampling for r in own], logits.device, [r.tempered for r in own])
        probs = logits.softmax(-1)
        ranked = self._ranked(logits, knobs)
        chosen = self._chosen(nodes, probs, ranked)
        branching = {id(c.node) for c in chosen}
        tokens, logps = self._tokens(logits, knobs, nodes, ranked, branching)
        scores = logits if knobs.heat is None else logits / knobs.heat[:, None]
        norms = scores.logsumexp(-1)
        born = [(self._born(c), c.token) for c in chosen]
        for i, node in enumerate(nodes):
            self._accept(node, tokens[i], logps[i])
        place = {id(node): i for i, node in enumerate(nodes)}
        for node, token in born:
            assert node.parent is not None
            i = place[id(node.parent)]
            self._accept(node, token, float(scores[i, token] - norms[i]))
        self.engine.tokens += len(nodes) + len(born)
        for root in {id(node.root): node.root for node in nodes}.values():
            self._look_back(root)
            root.steps += 1
            if self.spec.adapt:
                _adapt(root)
        self._close_up()

    def _ranked(self, logits: Tensor, knobs: Knobs) -> list[list[int]]:
        """For each row the likeliest tokens that its sampling keeps, at most `branches`."""
        _, ids, kept = kept_tokens(logits / knobs.temperature[:, None], knobs)
        count = self.spec.branches
        pairs = zip(ids[:, :count].tolist(), kept[:, :count].tolist(), strict=True)
        return [[token for token, there in zip(*pair, strict=True) if there] for pair in pairs]

    def _chosen(
        self, nodes: Sequence[Node], probs: Tensor, ranked: Sequence[Sequence[int]]
    ) -> list[Candidate]:
        """Candidates that pass every filter and find room: those of higher rank first, then the likelier."""
        found = []
        for i, node in enumerate(nodes):
            root, row = node.root, node.row
            beyond = self.until is not None and len(row.ids) >= self.until
            if len(ranked[i]) < 2 or beyond or row.wanted is not None:
                continue
            own = probs[i, torch.tensor(ranked[i], device=probs.device)].tolist()
            for rank in range(1, len(own)):
                near = root.max_gap is None or own[0] - own[rank] <= root.max_gap
                if own[rank] >= root.min_prob and near and not self._idle(ranked[i][rank]):
                    found.append(Candidate(node, rank, ranked[i][rank], own[rank]))
        first = {id(node): tokens[0] for node, tokens in zip(nodes, ranked, strict=True)}
        found = self._diverging(found, first)
        found.sort(key=lambda c: (c.rank, -c.prob))
        kept, room = [], {}
        for one in found:
            left = room.setdefault(id(one.node.root), one.node.root.room)
            if left > 0:
                room[id(one.node.root)] -= 1
                kept.append(one)
            else:
                one.node.root.told["suppressed"] += 1
        return kept

    def _idle(self, token: int) -> bool:
        return self.spec.stop_words and idle(decode(self.engine.tokenizer, [token]))

    def _diverging(self, found: list[Candidate], first: dict[int, int]) -> list[Candidate]:
        """Those of which the judge says that another answer comes of them."""
        if self.judge is None or not found:
            return found
        text = lambda ids: decode(self.engine.tokenizer, ids)  # noqa: E731
        asked = [(text(c.node.row.ids[-_BEFORE:]), text([first[id(c.node)]]), text([c.token])) for c in found]
        limit = self.spec.divergence_threshold
        return [c for c, score in zip(found, self.judge(asked), strict=True) if score < limit]

    def _tokens(
        self,
        logits: Tensor,
        knobs: Knobs,
        nodes: Sequence[Node],
        ranked: Sequence[Sequence[int]],
        branching: set[int],
    ) -> tuple[list[int], list[float]]:
        """What each row goes on with: its likeliest token, or a drawn one where it does not branch and its
        problem draws."""
        keys = torch.tensor([node.row.key for node in nodes], device=logits.device)
        steps = torch.tensor([len(node.row.ids) for node in nodes], device=logits.device)
        forced = []
        for node, tokens in zip(nodes, ranked, strict=True):
            wanted = node.row.wanted
            drawn = id(node) not in branching and self._draws(node)
            forced.append(wanted if wanted is not None else -1 if drawn else tokens[0])
        uniforms = uniform(keys, steps) if knobs.sampled else None
        found = draw(logits, knobs, uniforms, torch.tensor(forced, device=logits.device))
        return found[0].tolist(), found[1].tolist()

    def _draws(self, node: Node) -> bool:
        beyond = self.until is not None and len(node.row.ids) >= self.until
        full = self.spec.sample == "full" and node.root.room == 0
        return beyond or full or self.spec.sample == "always"

    def _born(self, one: Candidate) -> Node:
        """A new row in a slot of its own, with the keys and values of what it shares with its parent."""
        node = one.node.root.branch(one.node, one.prob)
        slot = len(self.active)
        self.active.append(node)
        self._room(one.node.row.next_position + 1)
        length = one.node.row.next_position + 1
        self.runner.cache.copy(self.active.index(one.node), slot, length)
        return node

    def _accept(self, node: Node, token: int, logp: float) -> None:
        if not math.isfinite(logp):
            words = f"the model's logits are not finite at token {len(node.row.ids)}"
            node.root.finish(node, "error", words)
        elif cause := node.row.accept(token, logp):
            node.root.finish(node, cause)

    def _look_back(self, root: Root) -> None:
        """Remove rows that turned out like their parent, so many tokens after they left it; older ones
        first."""
        for node in root.nodes:
            parent = node.parent
            if node.removed or node.sample is not None or parent is None:
                continue
            if node.age not in self.spec.look_ahead or parent.removed:
                continue
            r = node.age
            mine = node.row.ids[node.birth :]
            theirs = parent.row.ids[node.birth : node.birth + r]
            if len(theirs) == r and self._alike(node, mine, theirs):
                root.remove(node)

    def _alike(self, node: Node, mine: Sequence[int], theirs: Sequence[int]) -> bool:
        if edit_distance(mine, theirs) < self.spec.min_distance * len(mine):
            return True
        if self.judge is None:
            return False
        before = node.row.ids[: node.birth][-_BEFORE:]
        (score,) = self.judge([tuple(decode(self.engine.tokenizer, ids) for ids in (before, mine, theirs))])  # type: ignore[list-item]
        return score >= self.spec.divergence_threshold

    def _close_up(self) -> None:
        """Free the slots of rows that are finished or removed."""
        for slot in range(len(self.active) - 1, -1, -1):
            node = self.active[slot]
            if not node.removed and node.sample is None:
                continue
            if node.sample is not None and node.sample.cause == "error":
                self.runner.cache.wipe(slot)
            last = self.active.pop()
            if last is not node:
                self.active[slot] = last
                self.runner.cache.copy(len(self.active), slot, last.row.next_position)

    def _done(self, root: Root) -> list[Sample]:
        samples = root.samples()
        self.told.update(root.told)
        self.told["problems"] += 1
        self.told["rows"] += len(root.alive)
        self.told["duplicates"] += len(samples) - len(root.alive)
        return samples


def _adapt(root: Root) -> None:
    """Thresholds follow the crowd: stricter where many candidates found no room, looser where rooms stay
    empty; at most so many moves."""
    if root.moves >= _MOVES or root.max_gap is None:
        return
    crowded = root.told["suppressed"] / (len(root.alive) * root.steps) > _CROWDED
    empty = root.room / len(root.requests) > _EMPTY
    if not (crowded or empty):
        return
    sign = 1 if crowded else -1
    root.min_prob = min(0.99, max(0.01, root.min_prob + sign * _STEP))
    root.max_gap = max(_STEP, root.max_gap - sign * _STEP)
    root.moves += 1

"""Graph problems in ProsQA's form: one of two kinds can be reached from a named thing, the other cannot."""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise

from pydantic import Field, model_validator

from jobs.data.example import Example
from jobs.data.registry import Generator, NothingFits, register
from jobs.data.sets.graphs import PROSQA_INSTRUCTION
from latentctl.spec.base import Spec

NAMES = [
    "Alex",
    "Anna",
    "Bob",
    "Carl",
    "Clara",
    "Davis",
    "Dora",
    "Emma",
    "Eric",
    "Fay",
    "Finn",
    "Grace",
    "Hugo",
    "Ida",
    "Jack",
    "Jane",
    "Kim",
    "Leo",
    "Lily",
    "Max",
    "Mia",
    "Nora",
    "Oscar",
    "Paul",
    "Rex",
    "Rosa",
    "Sally",
    "Sam",
    "Stella",
    "Tom",
    "Vera",
    "Will",
    "Wren",
    "Zoe",
]
_HEADS = [
    "b",
    "br",
    "d",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "sh",
    "st",
    "t",
    "v",
    "w",
    "y",
    "z",
]
_TAILS = ["ampus", "empus", "impus", "ompus", "umpus", "arpus", "erpus", "orpus"]
KINDS = [head + tail for head in _HEADS for tail in _TAILS]
"""Invented kinds, 176 of them."""


class Options(Spec):
    """Settings of `prosqa-gen`."""

    kinds: list[int] = Field(default=[16, 24], min_length=2, max_length=2)
    """Fewest and most kinds in a problem."""
    hops: list[int] = Field(default=[3, 6], min_length=2, max_length=2)
    """Fewest and most edges from the named thing to the right answer, by the shortest way."""
    names: int = Field(default=3, ge=2, le=8)
    """Named things in a problem; one is asked about."""

    @model_validator(mode="after")
    def _ranges(self) -> Options:
        if not 4 <= self.kinds[0] <= self.kinds[1] <= 120:
            raise ValueError(f"kinds is [fewest, most] within 4 to 120, not {self.kinds}")
        if not 2 <= self.hops[0] <= self.hops[1] <= 20:
            raise ValueError(f"hops is [fewest, most] within 2 to 20, not {self.hops}")
        if self.hops[0] + 1 > self.kinds[0] // 2:
            raise ValueError(f"{self.hops[0]} hops need more than {self.kinds[0]} kinds")
        return self


def draw(rng: random.Random, options: Options) -> tuple[str, Example]:
    """One problem; tries until a kind lies at a fitting distance. The key is the graph and the question."""
    for _ in range(1000):
        made = _graph(rng, options)
        if made is not None:
            return _told(rng, *made)
    raise NothingFits


def _graph(
    rng: random.Random, options: Options
) -> tuple[list[str], list[tuple[int, int]], dict[int, int], int, int] | None:
    """(symbols, edges, parent on the shortest way from node 0, target, neg_target); None where none fits.

    Node 0 is asked about, the other names belong to the far side. Kinds come one by one: those of the near
    side hang on at least one near node, those of the far side on far nodes alone, so that node 0 can reach no
    far kind.
    """
    count = rng.randint(*options.kinds)
    symbols = rng.sample(NAMES, options.names) + rng.sample(KINDS, count)
    near, far = [0], list(range(1, options.names))
    edges: list[tuple[int, int]] = []
    for node in range(options.names, options.names + count):
        is_near = rng.random() < 0.5
        parents = {_late(rng, near if is_near else far)}
        while rng.random() < 0.4:
            parents.add(_late(rng, near + far if is_near else far))
        edges += [(parent, node) for parent in sorted(parents)]
        (near if is_near else far).append(node)
    parent, depth = _walk(edges, 0)
    fitting = [n for n in near if options.hops[0] <= depth[n] <= options.hops[1]]
    others = [n for n in far if n >= options.names]
    if not fitting or not others:
        return None
    rng.shuffle(edges)
    return symbols, edges, parent, rng.choice(fitting), rng.choice(others)


def _late(rng: random.Random, nodes: list[int]) -> int:
    """Prefers newer nodes, so that chains grow long."""
    return nodes[max(rng.randrange(len(nodes)), rng.randrange(len(nodes)))]


def _walk(edges: list[tuple[int, int]], root: int) -> tuple[dict[int, int], dict[int, int]]:
    """Breadth first: parent and depth of each node that the root reaches."""
    after: dict[int, list[int]] = {}
    for start, end in edges:
        after.setdefault(start, []).append(end)
    parent, depth = {}, {root: 0}
    queue = deque([root])
    while queue:
        node = queue.popleft()
        for following in after.get(node, ()):
            if following not in depth:
                parent[following], depth[following] = node, depth[node] + 1
                queue.append(following)
    return parent, depth


def _told(
    rng: random.Random,
    symbols: list[str],
    edges: list[tuple[int, int]],
    parent: dict[int, int],
    target: int,
    neg_target: int,
) -> tuple[str, Example]:
    def says(start: int, end: int) -> str:
        subject = symbols[start] if symbols[start][0].isupper() else f"Every {symbols[start]}"
        return f"{subject} is a {symbols[end]}."

    chain = [target]
    while chain[-1] != 0:
        chain.append(parent[chain[-1]])
    chain.reverse()
    root, right, wrong = symbols[0], symbols[target], symbols[neg_target]
    first, second = (right, wrong) if rng.random() < 0.5 else (wrong, right)
    facts = [says(*edge) for edge in edges]
    question = f"{' '.join(facts)} Is {root} a {first} or {second}?"
    steps = tuple(says(a, b) for a, b in pairwise(chain))
    meta = {"root": root, "target": right, "neg_target": wrong, "hops": len(steps)}
    key = "|".join([*sorted(facts), root, right, wrong])
    return key, Example("", question, f"{root} is a {right}.", steps, meta)


register(
    Generator(
        "prosqa-gen",
        "graph problems in ProsQA's form, made on the spot",
        grader="prosqa",
        instruction=PROSQA_INSTRUCTION,
        options=Options,
        draw=draw,
    )
)

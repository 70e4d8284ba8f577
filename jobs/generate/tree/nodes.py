"""The rows of one problem and how they descend from one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.generate.protocol import Branch, Request, Sample, StopCause
from jobs.generate.rows import Row
from latentctl.spec.tree import TreeSpec


@dataclass(eq=False)
class Node:
    """One row: active, finished (`sample`), or removed."""

    row: Row
    root: Root
    number: int
    """Of the rows of its problem, in the order in which they came: the index of the request that it takes."""
    parent: Node | None = None
    birth: int = 0
    """Tokens before the one at which it left its parent."""
    prob: float = 1.0
    """Of that token, under the model at temperature 1."""
    children: list[Node] = field(default_factory=list)
    sample: Sample | None = None
    removed: bool = False

    @property
    def age(self) -> int:
        """Tokens since its birth."""
        return len(self.row.ids) - self.birth

    def family(self) -> list[Node]:
        """It and all that descend from it, but for those removed before."""
        found, left = [], [self]
        while left:
            node = left.pop()
            if not node.removed:
                found.append(node)
                left += node.children
        return found


class Root:
    """One problem: at most as many rows as it has requests."""

    def __init__(self, requests: Sequence[Request], spec: TreeSpec) -> None:
        self.requests = sorted(requests, key=lambda r: r.index)
        self.nodes: list[Node] = []
        self.told: Counter[str] = Counter()
        """`branches`, `suppressed`, `removed`: what happened."""
        self.min_prob, self.max_gap = spec.min_prob, spec.max_gap
        self.moves = 0
        """How often its thresholds were adapted."""
        self.steps = 0

    @property
    def id(self) -> str:
        return self.requests[0].id

    @property
    def alive(self) -> list[Node]:
        """Active and finished rows."""
        return [node for node in self.nodes if not node.removed]

    @property
    def room(self) -> int:
        return len(self.requests) - len(self.alive)

    @property
    def whole(self) -> bool:
        return all(node.sample is not None for node in self.alive)

    def plant(self, tokenizer: Any, eos: frozenset[int]) -> Node:
        """The first row."""
        return self._add(Node(Row(self.requests[0], tokenizer=tokenizer, eos=eos), self, 0))

    def branch(self, parent: Node, prob: float) -> Node:
        """A row that has written what `parent` has so far. Its draws are those of the next free request."""
        number = self._free()
        row = Row(self.requests[number], tokenizer=parent.row.tokenizer, eos=parent.row.eos)
        for token, logp in zip(parent.row.ids, parent.row.logps, strict=True):
            row.accept(token, logp)
        node = Node(row, self, number, parent, len(row.ids), prob)
        parent.children.append(node)
        self.told["branches"] += 1
        return self._add(node)

    def finish(self, node: Node, cause: StopCause, error: str | None = None) -> None:
        node.sample = node.row.sample(cause, error)

    def remove(self, node: Node) -> list[Node]:
        """With all its descendants."""
        family = node.family()
        for one in family:
            one.removed = True
        self.told["removed"] += len(family)
        return family

    def samples(self) -> list[Sample]:
        """One for each request: those that were found in the order in which they came, then doubles of the
        first."""
        alive = self.alive
        places = {id(node): i for i, node in enumerate(alive)}
        found = []
        for i, request in enumerate(self.requests):
            node = alive[i] if i < len(alive) else alive[0]
            assert node.sample is not None, "the problem is not finished"
            parent = None if node.parent is None else places[id(node.parent)]
            branch = Branch(parent, node.birth, node.prob, duplicate=i >= len(alive))
            found.append(_as(node.sample, request, branch))
        return found

    def _add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def _free(self) -> int:
        taken = {node.number for node in self.alive}
        return next(i for i in range(len(self.requests)) if i not in taken)


def _as(sample: Sample, request: Request, branch: Branch) -> Sample:
    return replace(sample, index=request.index, branch=branch)

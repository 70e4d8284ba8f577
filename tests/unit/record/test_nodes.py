"""Nodes that are left out for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentctl.record import nodes
from latentctl.record.nodes import exclude, excluded


def test_a_node_is_left_out_on_its_cluster_until_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert excluded(tmp_path, "c") == {}
    exclude(tmp_path, "c", "n1", seconds=100, run="r", rule="gpu_broken")
    exclude(tmp_path, "c", "n1", seconds=10, run="s", rule="rank_lost")
    exclude(tmp_path, "other", "n2", seconds=100, run="r", rule=None)
    with (tmp_path / "excluded-nodes.jsonl").open("a") as file:
        file.write('{"torn')
    found = excluded(tmp_path, "c")
    assert list(found) == ["n1"]
    assert (found["n1"]["run"], found["n1"]["rule"]) == ("r", "gpu_broken")  # the one that lasts longest
    now = nodes.time.time()
    monkeypatch.setattr(nodes.time, "time", lambda: now + 101)
    assert excluded(tmp_path, "c") == {}

"""Jobs on real daemons: many nodes, chains, signals, failures."""

from __future__ import annotations

import json
from dataclasses import replace

from conftest import JOB, profile


def test_two_nodes_two_tasks_meet_and_each_rank_has_its_log(make_run):
    run = make_run({"train": {"do": "meet"}}, nodes=2, tasks_per_node=2, gpus_per_node=2)
    run.submit()
    run.wait(lambda: run.state() == "succeeded", what="success")
    attempt = run.job().attempt(1)
    places = []
    for rank in range(4):
        assert attempt.stderr(rank).read_text() == f"rank {rank} of 4 is done\n"
        said = json.loads(attempt.stdout(rank).read_text())
        env = said["env"]
        assert said["module"] == str(run.paths.code / "jobs" / "worker.py")
        places.append(
            (env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"], env["MASTER_ADDR"])
        )
    master = places[0][4]
    assert master.startswith("node")
    assert places == [(str(r), "4", str(r % 2), "2", master) for r in range(4)]

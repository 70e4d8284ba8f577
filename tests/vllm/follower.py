"""A vLLM engine in a process of its own, which follows a folder of weights until it has the versions that it
was told to wait for; writes down what it says under each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    model, weights, out, items, versions = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "generate"))
    from syncing import QUESTIONS
    from tiny import Both

    from jobs.rl.folder import Follower

    engine = Both(Path(model), "", max_batch=4).vllm
    follower = Follower(engine, Path(weights))

    def say(version: int) -> None:
        told: dict[str, Any] = {"scores": list(engine.score(json.loads(items)))}
        told["answers"] = {s.id: [s.version, s.ids] for s in engine.generate(QUESTIONS)}
        part = Path(out) / f".{version}"
        part.write_text(json.dumps(told))
        part.rename(Path(out) / f"{version}.json")

    say(0)
    for version in json.loads(versions):
        follower.wait(version, timeout=200, every=0.05)
        say(version)
    engine.close()


if __name__ == "__main__":
    main()

"""A trainer of next tokens through DeepSpeed, in this process or in several. Run as a script it is one rank
that trains, pushes and writes down what its model says."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

VOCAB = 320


class NextToken:
    """The objective: the log-prob of every token but the first of each row, a list of ids."""

    metrics: tuple[str, ...] = ()

    def collate(self, items: Sequence[Any]) -> Any:
        from jobs.train.objective import Batch

        ids = torch.tensor([item.row for item in items])
        return Batch({"ids": ids}, float(ids[:, 1:].numel()), ids.numel(), len(ids))

    def loss(self, model: Any, tensors: dict[str, Any], *, measure: bool) -> Any:
        from jobs.train.objective import Outcome

        ids = tensors["ids"]
        logits = model(input_ids=ids).logits[:, :-1].float()
        return Outcome(
            nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"), {}
        )


class Trainer:
    """AdamW steps large enough to be seen in every log-prob."""

    def __init__(self, model: Any, *, zero: int = 0, rank: int = 0, size: int = 1, lr: float = 1e-2) -> None:
        from jobs.methods.protocol import World
        from jobs.runtime import distributed
        from jobs.train.engine import Engine
        from jobs.train.split import Split
        from latentctl.spec.train import TrainSpec

        distributed.init(World(rank, size, rank, size), deepspeed=True)
        spec = TrainSpec.model_validate(
            {
                "lr": lr,
                "batch": 2 * size,
                "micro_batch": 2,
                "zero_stage": zero,
                "warmup": 0,
                "precision": "fp32",
            }
        )
        self.objective, self.rank, self.model = NextToken(), rank, model
        self.engine = Engine(
            model.train(),
            self.objective,
            spec,
            split=Split(2, 1, size, rank),
            total=100,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )

    def step(self, seed: int = 0) -> None:
        from jobs.train.objective import Item

        draw = torch.Generator().manual_seed(seed * 100 + self.rank)
        rows = torch.randint(0, 256, (2, 12), generator=draw).tolist()
        self.engine.step([self.objective.collate([Item(row, i) for i, row in enumerate(rows)])])

    def close(self) -> None:
        self.engine.close()


def llama(*, tied: bool = False, seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=128, max_position_embeddings=128, tie_word_embeddings=tied,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def adapted(model: Any) -> Any:
    """With adapters that change what it says."""
    from jobs.models.lora import add_lora
    from latentctl.spec.model import LoraSpec

    made = add_lora(model, LoraSpec(r=4, alpha=16.0), seed=0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return made


ITEMS = [([1, 2, 3, 4], [5, 6, 7, 8, 9]), ([10, 200, 33] * 12, [11, 12, 13]), ([7], [250, 1, 0, 7])]


def main() -> None:
    """One rank: two steps, pushes after each, then a push that rank 0 refuses."""
    from jobs.generate.protocol import Request
    from jobs.generate.transformers_engine import TransformersEngine
    from jobs.rl.agree import trainer_scores
    from jobs.rl.folder import Folder
    from jobs.rl.weights import InProcess
    from jobs.runtime import distributed
    from jobs.runtime.errors import JobUserError
    from jobs.train import config
    from latentctl.spec.sampling import SamplingSpec

    torch.set_num_threads(1)
    config._PERSIST = 0
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    zero, lora, root = int(sys.argv[1]), sys.argv[2] == "lora", Path(sys.argv[3])
    model = llama(tied=True)
    trainer = Trainer(adapted(model) if lora else model, zero=zero, rank=rank, size=size)
    into = Folder(root / "weights", main=rank == 0)
    trainer.step(1)
    into.push(model, 1)
    trainer.step(2)
    into.push(model, 2)
    said: dict[str, Any] = {"scores": trainer_scores(model, ITEMS), "refused": []}

    class Tokens:
        eos_token_id = None

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(chr(i + 32) for i in ids)

    own = TransformersEngine(llama(tied=True, seed=9).eval(), Tokens()) if rank == 0 else None
    inside = InProcess(own)
    inside.push(model, 2)
    if own is not None:
        request = Request("a", 0, [5, 6], SamplingSpec(max_new_tokens=6))
        (sample,) = own.generate([request])
        said["version"] = sample.version
        said["copied"] = list(own.score(ITEMS))
    for pusher, version in ((into, 2), (inside, 1)):
        try:
            pusher.push(model, version)
        except JobUserError as error:
            said["refused"].append(str(error))
    trainer.step(3)  # nothing hangs, and nothing is left gathered
    (root / f"said-{rank}.json").write_text(json.dumps(said))
    distributed.barrier()
    trainer.close()
    distributed.shutdown()


if __name__ == "__main__":
    main()

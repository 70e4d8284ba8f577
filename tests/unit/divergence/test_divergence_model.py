"""The model: what it is shown, what it says, and that it learns."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

from jobs.models.divergence import (
    DivergenceConfig,
    DivergenceJudge,
    DivergenceModel,
    Encoding,
    Triple,
    padded,
)
from jobs.models.vocab import train
from jobs.runtime.errors import JobUserError
from latentctl.spec.model import TokenizerInit

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import train_harness as harness

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train(TokenizerInit(kind="byte"), [], max_len=64)


def qwen() -> Qwen3Model:
    torch.manual_seed(0)
    return Qwen3Model(Qwen3Config(vocab_size=300, head_dim=8, num_key_value_heads=2, **SMALL))  # type: ignore[arg-type]


def bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=300, max_position_embeddings=64, **SMALL))  # type: ignore[arg-type]


class Dressed:
    """A tokenizer that puts special tokens around a text, as BERT's does."""

    pad_token_id = 0

    def __call__(self, texts: Any, add_special_tokens: bool = True) -> dict[str, Any]:
        many = [texts] if isinstance(texts, str) else texts
        ids = [[ord(c) for c in text] for text in many]
        ids = [[1, *row, 2] for row in ids] if add_special_tokens else ids
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}


def shown(encoding: Encoding, triple: Triple) -> str:
    (ids,) = encoding.rows([triple])
    assert len(ids) <= encoding.max_len
    assert (ids[0], ids[-1]) == (1, 2)
    return "".join(map(chr, ids[1:-1]))


def test_what_fits_is_shown_whole() -> None:
    encoding = Encoding(Dressed(), "#", 40)
    assert shown(encoding, Triple("before", "one", "other")) == "before#one#other"


def test_the_place_where_the_two_part_is_never_cut_away() -> None:
    encoding = Encoding(Dressed(), "#", 24)  # 20 tokens of text
    far = Triple("a" * 50 + "b", "c" * 4, "d" * 4)
    assert shown(encoding, far) == "a" * 11 + "b#cccc#dddd"
    long = Triple("before", "one" + "c" * 40, "other" + "d" * 40)
    assert shown(encoding, long) == "#onecccccccc#otherdddddd"[:11] + "#otherddddd"
    uneven = Triple("before", "one", "other" + "d" * 40)
    assert shown(encoding, uneven) == "#one#other" + "d" * 12
    other_way = Triple("before", "other" + "d" * 40, "one")
    assert shown(encoding, other_way) == "#other" + "d" * 12 + "#one"


def test_no_room_is_an_error() -> None:
    with pytest.raises(JobUserError, match="no room"):
        Encoding(Dressed(), " ## ", 12)


@pytest.mark.parametrize("pooling", ["last", "mean", "first"])
@pytest.mark.parametrize("make", [qwen, bert])
def test_padding_changes_nothing(make: Any, pooling: str) -> None:
    encoder = make().eval()
    config = DivergenceConfig(encoder.config.to_dict(), pooling=pooling, norm="layer")
    model = DivergenceModel(config, encoder).eval()
    rows = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [14]]
    with torch.no_grad():
        together = model(*padded(rows, 0))
        alone = torch.cat([model(*padded([row], 0)) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    hidden = encoder(input_ids=torch.tensor([rows[0]])).last_hidden_state[0]
    pooled = {"last": hidden[-1], "mean": hidden.mean(0), "first": hidden[0]}[pooling]
    torch.testing.assert_close(together[0], model.linear(model.norm(pooled))[0], atol=1e-6, rtol=1e-5)


def test_the_encoder_keeps_its_weights() -> None:
    encoder = qwen()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    model = DivergenceModel(DivergenceConfig(encoder.config.to_dict()), encoder)
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_what_is_saved_comes_back(tmp_path: Path, tokenizer: Any, norm: str) -> None:
    encoder = qwen()
    model = DivergenceModel(DivergenceConfig(encoder.config.to_dict(), norm=norm, max_len=50), encoder)
    model.train()(*padded([[5, 6], [7, 8, 9]], 0))  # moves the running statistics
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    judge = DivergenceJudge.load(tmp_path / "m")
    asked = [("x", "ab", "cd"), ("y" * 80, "e", "f" * 30)]
    assert judge.score(asked) == pytest.approx(DivergenceJudge(model, tokenizer).score(asked), abs=1e-6)
    assert judge.config.max_len == 50


def test_a_language_model_is_no_judge(tmp_path: Path) -> None:
    qwen().save_pretrained(tmp_path / "m")
    with pytest.raises(JobUserError, match="holds no divergence model"):
        DivergenceJudge.load(tmp_path / "m")


def test_one_row_in_a_batch_is_measured_by_those_before() -> None:
    encoder = qwen()
    model = DivergenceModel(DivergenceConfig(encoder.config.to_dict(), dropout=0.0), encoder).train()
    held = model.norm.running_mean.clone()
    alone = model(*padded([[5, 6, 7]], 0))
    assert torch.isfinite(alone).all()
    assert torch.equal(model.norm.running_mean, held)
    torch.testing.assert_close(alone, model.eval()(*padded([[5, 6, 7]], 0)))


# Training, through the method itself.


def write(path: Path, count: int, *, seed: int = 0) -> Path:
    """The answer is the same where both continuations begin with an a."""
    rng = random.Random(seed)
    word = lambda first: first + "".join(rng.choices("xyz", k=rng.randint(1, 4)))  # noqa: E731
    with path.open("w") as file:
        for i in range(count):
            one, other = (rng.choice("aab") for _ in range(2))
            row = {"problem": f"p{i // 4}", "before": word("q") * 3, "one": word(one), "other": word(other)}
            file.write(json.dumps(row | {"label": float(one == other == "a")}) + "\n")
    return path


def recipe(data: list[Path], train: dict[str, Any], **settings: Any) -> dict[str, Any]:
    stage = {
        "name": "judge",
        "method": "divergence",
        "from": "model",
        "model": {"init": {**harness.INIT, "arch": "qwen3"}, "tokenizer": {"kind": "byte"}},
        "dataset": None,
        "train": {"lr": 3e-3, "batch": 16, "max_len": 48, "precision": "fp32", **train},
        "divergence": {"data": [str(p) for p in data], "held_out": 0.2, **settings},
    }
    return {"name": "test", "seed": 3, "stages": [stage]}


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_it_learns_and_high_means_the_same(tmp_path: Path, loss: str) -> None:
    data = write(tmp_path / "d.jsonl", 800)
    case = harness.Case(str(tmp_path / "run"), recipe([data], {"steps": 150, "warmup": 10}, loss=loss))
    told = harness.run_case(case)["held_out"]
    assert told["auroc"] > 0.9
    judge = DivergenceJudge.load(case.stage / "model")
    same, other = judge.score([("qx", "axy", "az"), ("qx", "axy", "bz")])
    assert same > 0.5 > other
    assert json.loads((case.stage / "evaluation.json").read_text())["auroc"] == told["auroc"]


def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", 200)
    said = recipe([data], {"steps": 8, "save_every": 2, "eval_every": 4, "keep": {"best": "near"}})
    whole = harness.Case(str(tmp_path / "whole"), said)
    harness.launch(tmp_path, [whole], size=1)
    killed = harness.Case(str(tmp_path / "killed"), said, kill_at=5)
    harness.launch(tmp_path, [killed], size=1, killed=True)
    harness.launch(tmp_path, [harness.Case(killed.root, said, attempt=2)], size=1)
    weights = [load_file(case.stage / "model" / "model.safetensors") for case in (whole, killed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert "norm.running_mean" in weights[0]


def test_sources_are_mixed_in_equal_parts(tmp_path: Path) -> None:
    data = [write(tmp_path / "a.jsonl", 200), write(tmp_path / "b.jsonl", 60, seed=1)]
    found = []
    for mix in ("equal", "all"):
        case = harness.Case(str(tmp_path / mix), recipe(data, {"steps": 1}, mix=mix))
        found.append(sum(harness.run_case(case)["labels"].values()))
    assert found[0] < 2 * 60 < found[1]

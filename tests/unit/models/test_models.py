"""Loading, random models, the plain export: what is written is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.models import export, load_model, read_latent
from jobs.models.lora import add_lora
from jobs.models.vocab import train
from jobs.runtime.errors import JobUserError
from latentctl.spec.methods import stage_model
from latentctl.spec.model import LoraSpec, TokenizerInit

pytestmark = pytest.mark.heavy

ARCHS = ["gpt2", "llama", "qwen2", "qwen3"]
LATENT = {"prompt": {"form": "coconut"}, "stage": "sft", "method": "sft"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train(TokenizerInit(kind="byte"), [], max_len=64)


def stage(**model: Any) -> Any:
    return stage_model("sft").model_validate(
        {"name": "s", "method": "sft", "model": model, "dataset": {"name": "gsm8k"}}
    )


def random(arch: str = "gpt2", *, precision: Any = "fp32", vocab: int = 259, **init: Any) -> Any:
    init = {"arch": arch, "hidden": 16, "layers": 2, "heads": 2, "max_len": 64, **init}
    return load_model(stage(init=init), None, precision=precision, device="cpu", vocab_size=vocab)


def ids() -> torch.Tensor:
    return torch.randint(0, 259, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("tied", [True, False])
def test_export_reloads_with_equal_logits(arch: str, tied: bool, tokenizer: Any, tmp_path: Path) -> None:
    model = random(arch, tie_embeddings=tied)
    export(model, tokenizer, tmp_path / "m", LATENT)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    torch.testing.assert_close(again(ids()).logits, model(ids()).logits, atol=0, rtol=0)
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id
    assert again.generation_config.pad_token_id == tokenizer.pad_token_id
    assert AutoTokenizer.from_pretrained(tmp_path / "m").get_vocab() == tokenizer.get_vocab()
    assert read_latent(tmp_path / "m") == {"version": 1, "input": None, **LATENT}
    loaded = load_model(
        stage(path=str(tmp_path / "m")), tmp_path / "m", precision="fp32", device="cpu", vocab_size=259
    )
    torch.testing.assert_close(loaded(ids()).logits, model(ids()).logits, atol=0, rtol=0)


def test_init_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    one = random(seed=5).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = random(seed=5).state_dict()
    assert torch.equal(before, torch.get_rng_state()), "it moved the process's own stream"
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(
        one["transformer.wte.weight"], random(seed=6).state_dict()["transformer.wte.weight"]
    )


def test_the_shape_is_what_the_recipe_says() -> None:
    config = random("qwen3", kv_heads=1, intermediate=24, hidden=32, layers=3, tie_embeddings=False).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 3, 2)
    assert (config.num_key_value_heads, config.intermediate_size, config.head_dim) == (1, 24, 16)
    assert (config.vocab_size, config.max_position_embeddings, config.tie_word_embeddings) == (259, 64, False)
    config = random("gpt2", intermediate=24).config
    assert (config.n_inner, config.n_positions, config.resid_pdrop) == (24, 64, 0.0)


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(JobUserError, match="even head size"):
        random("llama", hidden=10, heads=2)
    with pytest.raises(JobUserError, match="grouped key/value"):
        random("gpt2", kv_heads=1)


def test_bf16_is_the_rounded_fp32_and_exports_as_bf16(tokenizer: Any, tmp_path: Path) -> None:
    model, exact = random(precision="bf16"), random()
    for a, b in zip(model.parameters(), exact.parameters(), strict=True):
        assert torch.equal(a, b.to(torch.bfloat16))
    export(model, tokenizer, tmp_path / "m", LATENT)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert again.dtype == torch.bfloat16
    assert torch.equal(again(ids()).logits, model(ids()).logits)


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_lora_is_merged_into_the_export_only(arch: str, tokenizer: Any, tmp_path: Path) -> None:
    model = random(arch)
    base = model(ids()).logits.detach()
    add_lora(model, LoraSpec(r=4, alpha=8.0), seed=0)
    assert torch.equal(model(ids()).logits, base), "fresh adapters change nothing"
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in n for n in trainable)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.2)
    adapted = model(ids()).logits.detach()
    assert (adapted - base).abs().max() > 0.01
    export(model, tokenizer, tmp_path / "m", LATENT)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    torch.testing.assert_close(again(ids()).logits, adapted, atol=1e-5, rtol=1e-4)
    assert torch.equal(model(ids()).logits, adapted), "the model in training was touched"
    assert not any("lora" in k for k in again.state_dict())


def test_lora_modules_that_do_not_exist_are_refused() -> None:
    with pytest.raises(JobUserError, match="nowhere"):
        add_lora(random(), LoraSpec(target_modules=["nowhere"]), seed=0)


def test_an_export_replaces_whole_or_not_at_all(tokenizer: Any, tmp_path: Path) -> None:
    target = tmp_path / "m"
    export(random(), tokenizer, target, LATENT)
    (target / "left-over").touch()
    export(random(), tokenizer, target, {**LATENT, "stage": "later"})
    assert not (target / "left-over").exists()
    assert (read_latent(target) or {})["stage"] == "later"

    class Broken:
        eos_token_id, pad_token_id = 0, 0

        def save_pretrained(self, folder: Path) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        export(random(), Broken(), target, LATENT)  # type: ignore[arg-type]
    assert (read_latent(target) or {})["stage"] == "later"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_pretrained_ends_stay_beside_the_tokenizers(tokenizer: Any, tmp_path: Path) -> None:
    model = random()
    model.generation_config.eos_token_id = [7, 9]
    export(model, tokenizer, tmp_path / "m", LATENT)
    raw = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert raw["eos_token_id"] == [tokenizer.eos_token_id, 7, 9]


def test_latent_json_absent_damaged_or_of_another_version(tmp_path: Path) -> None:
    assert read_latent(tmp_path) is None
    assert read_latent(tmp_path / "absent") is None
    for text, found in [("{", "damaged"), ("[]", "list"), ('{"version": 2}', "version 2")]:
        (tmp_path / "latent.json").write_text(text)
        with pytest.raises(JobUserError, match=found):
            read_latent(tmp_path)


def load(folder: Any, **more: Any) -> Any:
    recipe = stage(path=str(folder), **more)
    return load_model(recipe, folder, precision="fp32", device="cpu", vocab_size=259)


def test_pickled_weights_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model = random()
    export(model, tokenizer, folder, LATENT)
    (folder / "model.safetensors").unlink()
    with pytest.raises(JobUserError, match="no weights"):
        load(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(JobUserError, match=r"no safetensors weights, only pytorch_model\.bin"):
        load(folder)


def test_weights_that_lack_a_tensor_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    """transformers would fill in random numbers and only warn."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    export(random(), tokenizer, folder, LATENT)
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.ln_1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JobUserError, match=r"lack 1 tensors .* transformer\.h\.1\.ln_1\.weight"):
        load(folder)


def test_what_is_not_a_model_is_one_clear_error(tokenizer: Any, tmp_path: Path) -> None:
    cases = {
        "empty": "no config.json",
        "adapter": "LoRA adapter",
        "cut": "cannot be read",
        "strange": "cannot be read",
    }
    for name in cases:
        (tmp_path / name).mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    export(random(), tokenizer, tmp_path / "cut", LATENT)
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "no-such-family"}')
    (tmp_path / "strange" / "model.safetensors").touch()
    for name, words in cases.items():
        with pytest.raises(JobUserError, match=words):
            load(tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(JobUserError, match="is a file"):
        load(tmp_path / "file")
    with pytest.raises(JobUserError, match="no such model directory"):
        load(tmp_path / "absent")


def test_a_hub_id_without_a_network_says_so() -> None:
    with pytest.raises(JobUserError, match="Hub cannot be reached"):
        load("some-body/some-model")


def test_code_that_comes_with_a_model_does_not_run(tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    export(random(), tokenizer, folder, LATENT)
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(JobUserError, match="its own Python code") as caught:
        load(folder)
    assert "trust_remote_code" in (caught.value.hint or "")
    assert not ran.exists()


def test_a_tokenizer_larger_than_the_model_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    export(random(vocab=100), tokenizer, tmp_path / "m", LATENT)
    with pytest.raises(JobUserError, match=r"259 tokens, .* embeddings for 100"):
        load(tmp_path / "m")


@pytest.mark.parametrize("arch", ARCHS)
def test_the_deviation_of_the_initial_weights_is_what_the_recipe_says(arch: str) -> None:
    model = random(arch, hidden=64, std=0.1)
    assert float(model.get_input_embeddings().weight.detach().std()) == pytest.approx(0.1, rel=0.05)

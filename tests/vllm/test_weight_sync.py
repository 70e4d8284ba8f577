"""New weights in a running vLLM: afterwards it says what the trainer's model says, and nothing of before."""

from __future__ import annotations

import inspect
import queue
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import v2_rig

pytest.importorskip("vllm", reason="vllm is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "rl"))

from syncing import QUESTIONS, started
from tiny import Both, ask, by_key, model
from tiny_trainer import ITEMS, adapted

from jobs.generate import vllm_engine, weight_files
from jobs.generate.thoughts import thoughts
from jobs.generate.transformers_engine import TransformersEngine
from jobs.generate.vllm_args import Devices
from jobs.generate.vllm_sync import Changes, sync_args
from jobs.generate.weights import Stream
from jobs.models.plain_export import plain_weights
from jobs.rl.agree import Disagreement, agrees
from jobs.rl.weights import InProcess, plain_stream
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import LatentSpec

pytestmark = pytest.mark.heavy
TOLERANCE = 1e-4
RUNNER = v2_rig.RUNNER


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen2", "qwen3"])
def each(request: pytest.FixtureRequest, both: Callable[..., Both]) -> Both:
    """gpt2 and llama with tied embeddings."""
    return both(request.param, latent=True)


@pytest.fixture
def engines(both: Callable[..., Both]) -> Both:
    """Llama, with the weights that it was started with."""
    found = both("llama", latent=True)
    found.vllm.wake()
    found.vllm.load(plain_weights(found.model).items(), found.vllm.version)
    return found


def test_after_a_load_it_says_what_the_new_model_says(each: Both) -> None:
    new = model(each.model.config.model_type, seed=5)
    old = by_key(each.vllm.generate(QUESTIONS))
    with pytest.raises(Disagreement, match=r"\d+ of 12 tokens differ by more than 0\.001"):
        agrees(each.vllm, new, ITEMS)
    each.vllm.load(plain_stream(new), 3)
    assert agrees(each.vllm, new, ITEMS) < TOLERANCE
    shared = each.vllm.shared
    found = by_key(each.vllm.generate(QUESTIONS))
    assert each.vllm.shared == shared, "keys of the old weights were used again"
    want = by_key(TransformersEngine(new, each.tokenizer).generate(QUESTIONS))
    for key, sample in found.items():
        assert (sample.version, old[key].version) == (3, 0)
        assert sample.ids == want[key].ids != old[key].ids
        assert sample.logps == pytest.approx(want[key].logps, abs=TOLERANCE)
    by_key(each.vllm.generate(QUESTIONS))
    assert each.vllm.shared > shared, "the cache is used again with the new weights"


@pytest.mark.parametrize("input", ["soft", "hidden"])
def test_thoughts_after_a_load_mix_the_new_embedding(each: Both, input: str) -> None:
    new = model(each.model.config.model_type, seed=6)
    each.vllm.load(plain_stream(new), 4)
    spec = LatentSpec.model_validate({"markers": "think", "start": "prompt", "stop": 5, "input": input})
    asked = thoughts(spec, each.tokenizer, trace=3)
    requests = [
        replace(ask(f"l{i}", [3 + i, *range(9 * i), *asked.start], max_new_tokens=12), thoughts=asked)
        for i in range(4)
    ]
    found = by_key(each.vllm.generate([*requests, *QUESTIONS]))
    want = by_key(TransformersEngine(new, each.tokenizer).generate([*requests, *QUESTIONS]))
    for key, sample in found.items():
        assert (sample.ids, sample.latents) == (want[key].ids, want[key].latents)
        assert sample.logps == pytest.approx(want[key].logps, abs=TOLERANCE)
        for one, other in zip(sample.thoughts or (), want[key].thoughts or (), strict=True):
            assert one.ids == other.ids
            assert one.weights == pytest.approx(other.weights, abs=TOLERANCE)


def test_the_plugin_takes_the_embedding_anew_where_it_moved(engines: Both) -> None:
    def lose(worker: Any) -> None:
        worker._slots.embedding = worker._slots.embedding.clone()

    def own(worker: Any) -> bool:
        from jobs.generate.vllm_plugin.table import table

        return worker._slots.embedding is table(worker.model_runner.get_model())[0]

    call = engines.vllm.sync._vllm.engine_core.collective_rpc
    call(lose)
    assert call(own) == [False]
    engines.vllm.load(plain_stream(engines.model), engines.vllm.version)
    assert call(own) == [True]


def test_this_is_the_runner_that_was_asked_for(engines: Both) -> None:
    assert engines.vllm.info().extra["runner"] == RUNNER.upper()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda w: w.pop("model.norm.weight"), r"model\.norm\.weight is missing"),
        (
            lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}),
            "has no lm_head.weight",
        ),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(63)}),
            r"model\.norm\.weight is \(63,\), the model's \(64,\)",
        ),
    ],
)
def test_weights_of_another_model_are_refused_and_the_old_ones_stay(
    engines: Both, harm: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
) -> None:
    weights = plain_weights(model("llama", seed=5))
    harm(weights)
    weight_files.write(tmp_path, weights.items())
    version = engines.vllm.version
    for source in (weights.items(), tmp_path):
        with pytest.raises(JobUserError, match=words):
            engines.vllm.load(source, version + 1)
    assert engines.vllm.version == version
    assert agrees(engines.vllm, engines.model, ITEMS) < TOLERANCE


def test_a_load_that_fails_half_way_leaves_no_weights_and_the_next_one_is_whole(engines: Both) -> None:
    new = plain_stream(model("llama", seed=5))
    version = engines.vllm.version

    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in new:
            if name == "model.layers.1.self_attn.v_proj.weight":  # q and k are held back until it comes
                raise OSError("the trainer is gone")
            yield name, tensor

    with pytest.raises(OSError, match="the trainer is gone"):
        engines.vllm.load(Stream(new.shapes, broken()), version + 1)
    for answers in (lambda: engines.vllm.generate(QUESTIONS), lambda: engines.vllm.score(ITEMS)):
        with pytest.raises(JobUserError, match=f"no weights: the loading of version {version + 1} failed"):
            list(answers())
    assert engines.vllm.version == version
    engines.vllm.load(plain_stream(engines.model), version)
    assert agrees(engines.vllm, engines.model, ITEMS) < TOLERANCE


def test_a_torn_file_is_told_and_a_whole_one_helps(engines: Both, tmp_path: Path) -> None:
    weight_files.write(tmp_path, plain_weights(model("llama", seed=5)).items(), shard=1)
    files = sorted(tmp_path.glob("*.safetensors"))
    data = files[3].read_bytes()
    files[3].write_bytes(data[:-1])
    version = engines.vllm.version
    with pytest.raises(weight_files.Unreadable, match="the file is torn") as caught:
        engines.vllm.load(tmp_path, version + 1)
    assert caught.value.where == str(files[3])
    assert agrees(engines.vllm, engines.model, ITEMS) < TOLERANCE, "it was seen before anything was replaced"
    files[3].write_bytes(data)
    engines.vllm.load(tmp_path, version + 1)
    assert agrees(engines.vllm, model("llama", seed=5), ITEMS) < TOLERANCE


def test_files_that_vanish_while_they_are_read_are_told(
    engines: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight_files.write(tmp_path, plain_weights(engines.model).items(), shard=1)
    files = sorted(tmp_path.glob("*.safetensors"))
    plain = weight_files._tensor

    def slow(path: Path, *rest: Any) -> torch.Tensor:
        files[5].unlink(missing_ok=True)
        return plain(path, *rest)

    monkeypatch.setattr(weight_files, "_tensor", slow)
    with pytest.raises(weight_files.Unreadable, match="cannot be read: No such file"):
        engines.vllm.load(tmp_path, engines.vllm.version)
    with pytest.raises(JobUserError, match="no weights"):
        list(engines.vllm.score(ITEMS))


def test_steps_of_a_trainer_with_adapters_arrive(engines: Both) -> None:
    """In one process; its optimizer is PyTorch's, because DeepSpeed's process group would be vLLM's too."""
    own = adapted(model("llama"))
    adamw = torch.optim.AdamW((p for p in own.parameters() if p.requires_grad), lr=1e-2)
    first = engines.vllm.version + 1
    seen = []
    for version in range(first, first + 2):
        own.train()(torch.tensor([list(range(20))])).logits.square().mean().backward()
        adamw.step()
        with pytest.raises(Disagreement):
            agrees(engines.vllm, own, ITEMS)
        InProcess(engines.vllm).push(own, version)
        assert own.training
        assert agrees(engines.vllm, own, ITEMS) < TOLERANCE
        seen.append(by_key(engines.vllm.generate(QUESTIONS))["long", 0])
    assert [s.version for s in seen] == [first, first + 1]
    assert seen[0].ids != seen[1].ids


def test_older_weights_and_weights_amid_requests_are_refused(engines: Both) -> None:
    weights = plain_weights(engines.model)
    version = engines.vllm.version + 1
    engines.vllm.load(weights.items(), version)
    with pytest.raises(
        JobUserError, match=rf"version {version - 1} are older than those in use \({version}\)"
    ):
        engines.vllm.load(weights.items(), version - 1)
    samples = engines.vllm.generate([QUESTIONS[1], ask("more", [9], max_new_tokens=40)])
    assert next(samples).id == "short"
    for change in (lambda: engines.vllm.load(weights.items(), version + 1), engines.vllm.sleep):
        with pytest.raises(JobUserError, match="while requests are under way"):
            change()
    samples.close()  # type: ignore[attr-defined]
    engines.vllm.load(weights.items(), version + 1)


def test_asleep_it_answers_nothing_and_forgets_its_prompts(engines: Both) -> None:
    list(engines.vllm.generate(QUESTIONS))
    version = engines.vllm.version
    engines.vllm.sleep()
    for use in (
        lambda: list(engines.vllm.generate(QUESTIONS)),
        lambda: list(engines.vllm.score(ITEMS)),
        lambda: engines.vllm.load(plain_stream(engines.model), version),
    ):
        with pytest.raises(JobUserError, match="the engine is asleep"):
            use()
    engines.vllm.wake()
    shared = engines.vllm.shared
    list(engines.vllm.generate(QUESTIONS))
    assert engines.vllm.shared == shared
    engines.vllm.sleep(keep=False)
    engines.vllm.wake()
    with pytest.raises(JobUserError, match="they were given up when it was put to sleep"):
        list(engines.vllm.generate(QUESTIONS))
    engines.vllm.load(plain_stream(engines.model), version)
    assert agrees(engines.vllm, engines.model, ITEMS) < TOLERANCE


class Wire:
    """Stands in for NCCL between two threads of this process."""

    def __init__(self) -> None:
        self.sent: queue.Queue[torch.Tensor] = queue.Queue()
        self.sender, self.receiver = _Sends(self), _Receives(self)


class _Sends:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        self.wire.sent.put(tensor.clone())

    def destroy(self) -> None:
        pass


class _Receives(_Sends):
    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        tensor.copy_(self.wire.sent.get(timeout=60))


def stand_in_for_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer import nccl_engine

    wire = Wire()
    monkeypatch.setattr(nccl_engine, "worker_init_process_group", lambda *a: wire.receiver)
    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda *a: wire.sender)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *a: None)


def stand_in_for_cuda_ipc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle is a number under which a tensor is found."""
    from vllm.distributed.weight_transfer import ipc_engine

    held: list[torch.Tensor] = []

    def share(tensor: torch.Tensor) -> Any:
        held.append(tensor.clone())
        return None, (*range(6), "device", len(held) - 1)

    gpu = type("Gpu", (), {"uuid": "gpu-0"})()
    monkeypatch.setattr(ipc_engine, "reduce_tensor", share)
    monkeypatch.setattr(ipc_engine, "rebuild_cuda_tensor", lambda *args: held[args[7]])
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *a: gpu)
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)


@pytest.mark.skipif(RUNNER == "v2", reason="what is asked here is the same with every runner")
@pytest.mark.parametrize(
    ("transport", "stand_in"), [("nccl", stand_in_for_nccl), ("ipc", stand_in_for_cuda_ipc)]
)
def test_vllms_own_transfer_brings_weights_through_the_calls_made_here(
    transport: Any, stand_in: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's sender and receiver as they are, one tensor at a time; what needs a GPU is a stand-in."""
    from jobs.rl import transfer

    stand_in(monkeypatch)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *a: None)
    plain = transfer._init
    monkeypatch.setattr(transfer, "_init", lambda *a: replace(plain(*a), packed=False))
    also = {"weight_transfer_config": {"backend": transport}}
    monkeypatch.setattr(vllm_engine, "sync_args", lambda *a, **k: sync_args(*a, **k) | also)
    engine, own = started(tmp_path, own_process=False, latent=True)
    try:
        with pytest.raises(JobUserError, match=f"was not started for weights by {transport}"):
            transfer.Transfer(own, engine, transport=transport, rank=0, device=torch.device("cpu"))
        engine.sync.changes = Changes(transport)
        pushes = transfer.Transfer(own, engine, transport=transport, rank=0, device=torch.device("cpu"))
        for version in (1, 2):
            with torch.no_grad():
                for parameter in own.parameters():
                    parameter.mul_(1.1)
            with pytest.raises(Disagreement):
                agrees(engine, own, ITEMS)
            pushes.push(own, version)
            assert agrees(engine, own, ITEMS) < TOLERANCE
        assert engine.version == 2
        own.get_input_embeddings().weight.data.mul_(2)
        with pytest.raises(JobUserError, match="older"):
            pushes.push(own, 1)
        with pytest.raises(Disagreement):
            agrees(engine, own, ITEMS)  # nothing was sent
        pushes.close()
    finally:
        engine.close()


def test_vllm_has_what_transfer_calls() -> None:
    """Names and parameters, where no GPU is there to call them."""
    from vllm.distributed.weight_transfer import VLLMWeightSyncClient, ipc_engine, nccl_engine
    from vllm.v1.worker.gpu_worker import Worker

    from jobs.rl.transfer import Client, _init

    calls = [n for n in vars(VLLMWeightSyncClient) if not n.startswith("_")]
    assert {"init_weight_transfer_engine", "update_weights", "finish_weight_update"} < set(calls)
    for name in calls:
        there = list(inspect.signature(getattr(VLLMWeightSyncClient, name)).parameters)
        assert list(inspect.signature(getattr(Client, name)).parameters) == there, name
    for name, wanted in {
        "init_weight_transfer_engine": ["self", "init_info"],
        "start_weight_update": ["self"],
        "update_weights": ["self", "update_info"],
        "finish_weight_update": ["self"],
        "sleep": ["self", "level"],
        "wake_up": ["self", "tags"],
    }.items():
        assert list(inspect.signature(getattr(Worker, name)).parameters) == wanted
    for sender in (ipc_engine.IPCTrainerWeightTransferEngine, nccl_engine.NCCLTrainerWeightTransferEngine):
        assert list(inspect.signature(sender.trainer_init).parameters) == ["init_info", "client", "source"]
        assert list(inspect.signature(sender.send_weights).parameters) == ["self"]
    assert (_init("ipc", 1, None).backend, _init("ipc", 1, None).is_sender) == ("ipc", False)
    assert (_init("nccl", 0, None).backend, _init("nccl", 0, None).world_size) == ("nccl", 1)


def test_transfer_is_refused_where_there_is_nothing_to_transfer_to() -> None:
    with pytest.raises(JobUserError, match="between GPUs, and this engine has none"):
        sync_args(Changes("nccl"), Devices(own_process=True), latent=True)
    with pytest.raises(JobUserError, match="into another process"):
        sync_args(Changes("ipc"), Devices(gpus=(0,)), latent=True)
    said = sync_args(Changes("ipc", sleeps=True), Devices(gpus=(0,), own_process=True), latent=True)
    assert said == {"weight_transfer_config": {"backend": "ipc"}, "enable_sleep_mode": True}

"""`latentctl serve`, with the clients that people have: the `openai` package, and plain HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the openai package comes with vllm, which is not installed")

import torch
from serving import STEPS, Served, checkpoint, serve
from tiny import ask, by_key
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.generate.protocol import Sample
from jobs.generate.thoughts import thoughts
from jobs.generate.transformers_engine import TransformersEngine
from latentctl.launch.processes import of_run
from latentctl.spec.latent import LatentSpec

pytestmark = [pytest.mark.heavy, pytest.mark.vllm]
KEY = "a-key-of-the-tests-0123456789"
QUESTION = "the quick brown fox"
OFF = {"vllm_xargs": {"latent": "off"}}
SOFT = {"input": {"kind": "soft", "top_p": 0.9, "max_topk": 8}, "stop": {"fixed": 5}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("serve")
    checkpoint(made / "thinker")
    (made / "key").write_text(f"{KEY}\n")
    return made


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    found = serve(folder, "thinker", "--api-key-file", "key", "--port", "18431")
    yield found
    found.end()


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    import openai

    return openai.OpenAI(base_url=served.said["base_url"], api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def reference(folder: Path) -> TransformersEngine:
    loaded = AutoModelForCausalLM.from_pretrained(folder / "thinker", dtype=torch.float32).eval()
    return TransformersEngine(loaded, AutoTokenizer.from_pretrained(folder / "thinker"), max_batch=4)


def answer(engine: TransformersEngine, prompt: str, spec: dict[str, Any] | None, room: int) -> Sample:
    """What an evaluation gets: greedy, the prompt ending with the start marker where there are latent
    steps."""
    asked = None
    if spec is not None:
        full = LatentSpec.model_validate({"markers": "think", "start": "prompt", **spec})
        asked = thoughts(full, engine.tokenizer)
    ids = engine.tokenizer.encode(prompt, add_special_tokens=False)
    request = ask("q", [*ids, *(asked.start if asked else ())], max_new_tokens=room)
    request = type(request)(request.id, 0, request.ids, request.sampling, thoughts=asked)
    return by_key(engine.generate([request]))["q", 0]


def visible(engine: TransformersEngine, sample: Sample) -> str:
    """Without half a character at its end, which a server keeps back."""
    return engine.tokenizer.decode(sample.ids, skip_special_tokens=True).rstrip("�")


def chat(client: Any, extra: dict[str, Any] | None = None, **more: Any) -> Any:
    said = {"max_tokens": 24, "temperature": 0, **more}
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model="thinker", messages=messages, extra_body=extra or {}, **said)


def complete(client: Any, extra: dict[str, Any] | None = None, **more: Any) -> Any:
    said = {"max_tokens": 24, "temperature": 0, "prompt": QUESTION, **more}
    return client.completions.create(model="thinker", extra_body=extra or {}, **said)


def text(got: Any) -> str:
    choice = got.choices[0]
    return (choice.text if hasattr(choice, "text") else choice.message.content).rstrip("�")


def get(served: Served, path: str, key: str | None = KEY) -> tuple[int, Any]:
    root = served.said["base_url"].removesuffix("/v1")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(root + path, headers=headers)) as found:
            body = found.read()
            return found.status, json.loads(body) if body else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def refusal(call: Any) -> str:
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        call()
    return caught.value.body["message"]  # type: ignore[index]


def test_what_is_printed_says_how_to_reach_it(served: Served) -> None:
    said = served.said
    assert said["base_url"] == "http://127.0.0.1:18431/v1"
    assert (said["model"], said["host"], said["api_key"], said["unasked"]) == (
        "thinker",
        "127.0.0.1",
        True,
        "on",
    )
    assert said["latent"]["stop"]["fixed"] == STEPS
    assert said["tunnel"] is None
    assert set(said["curl"]) == {"latent", "text"}
    assert all("$LATENTCTL_API_KEY" in command for command in said["curl"].values())
    assert '"latent": "off"' in said["curl"]["text"]


def test_the_printed_curl_works_as_it_stands(served: Served) -> None:
    import subprocess

    for command in served.said["curl"].values():
        env = {**served.env, "LATENTCTL_API_KEY": KEY}
        done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_who_has_no_key_or_a_wrong_one_gets_nothing_but_the_health(served: Served) -> None:
    assert get(served, "/health", key=None)[0] == 200
    for path in ("/v1/models", "/v1/latent", "/metrics", "/tokenize", "/version"):
        assert get(served, path, key=None)[0] == 401
        assert get(served, path, key="a-key")[0] == 401
    assert get(served, "/v1/models")[1]["data"][0]["id"] == "thinker"


def test_the_key_stands_in_no_file_of_the_run_and_on_no_command_line(served: Served) -> None:
    files = [p for p in served.runs.rglob("*") if p.is_file()]
    assert len(files) > 10
    assert not [p for p in files if KEY.encode() in p.read_bytes()]
    lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert not [line for line in lines if KEY.encode() in line]


def test_off_answers_as_text_as_an_evaluation_without_latent_steps(client: Any, reference: Any) -> None:
    want = visible(reference, answer(reference, QUESTION, None, 24))
    assert text(complete(client, OFF)) == want
    talk = answer(reference, f"[user]{QUESTION}[assistant]", None, 24)
    got = chat(client, OFF)
    assert text(got) == visible(reference, talk)
    assert got.usage.completion_tokens == 24


def test_unasked_the_checkpoints_own_latent_steps_are_taken_and_hidden(client: Any, reference: Any) -> None:
    """The start marker is written by the server: the answer has one token less room than the evaluation's."""
    spec = {"input": "hidden", "stop": STEPS}
    want = answer(reference, QUESTION, spec, 23)
    assert want.latents == STEPS
    for got in (complete(client), complete(client, {"vllm_xargs": {"latent": "on"}})):
        assert text(got) == visible(reference, want)
        assert "latent" not in text(got)
        assert got.usage.completion_tokens == 24
    talk = answer(reference, f"[user]{QUESTION}[assistant]", spec, 23)
    assert text(chat(client)) == visible(reference, talk)


def test_a_prompt_that_ends_with_the_start_marker_begins_at_once(client: Any, reference: Any) -> None:
    want = answer(reference, QUESTION, {"input": "hidden", "stop": STEPS}, 24)
    for end in ("<think>", "<think>\n"):
        assert text(complete(client, prompt=QUESTION + end)) == visible(reference, want)


def test_a_request_brings_latent_settings_of_its_own(client: Any, reference: Any) -> None:
    extra = {"vllm_xargs": {"latent": json.dumps(SOFT), "latent_trace": 4}}
    want = answer(reference, QUESTION, SOFT, 23)
    assert text(complete(client, extra)) == visible(reference, want)


def test_what_is_streamed_is_what_is_answered_whole(client: Any) -> None:
    for extra in ({}, OFF, {"vllm_xargs": {"latent": json.dumps(SOFT)}}):
        whole = chat(client, extra).choices[0].message.content
        parts = chat(client, extra, stream=True, stream_options={"include_usage": True})
        chunks = list(parts)
        said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(said) == whole
        assert chunks[-1].usage.completion_tokens == 24


def test_stop_texts_end_an_answer_behind_its_latent_steps(client: Any) -> None:
    whole = text(complete(client))
    stop = whole[4:6]
    got = complete(client, stop=stop).choices[0]
    assert got.text == whole[: whole.index(stop)]
    assert got.finish_reason == "stop"


def test_a_trace_is_read_by_the_id_of_its_answer(served: Served, client: Any) -> None:
    extra = {"vllm_xargs": {"latent": json.dumps(SOFT), "latent_trace": 4}}
    for got in (chat(client, extra), complete(client, extra)):
        code, trace = get(served, f"/v1/latent/traces/{got.id}")
        assert code == 200
        (choice,) = trace["choices"]
        assert choice["causes"] == ["fixed"]
        assert len(choice["steps"]) == 5
        for step in choice["steps"]:
            assert 0 < step["mass"] <= 1
            assert len(step["tokens"]) <= 4
            weights = [w for _, w in step["tokens"]]
            assert weights == sorted(weights, reverse=True)
    two = complete(client, extra, prompt=[QUESTION, "another one"])
    assert [c["index"] for c in get(served, f"/v1/latent/traces/{two.id}")[1]["choices"]] == [0, 1]
    several = chat(client, extra, n=2, temperature=1.0, seed=3)
    assert len(get(served, f"/v1/latent/traces/{several.id}")[1]["choices"]) == 2


def test_without_latent_trace_there_is_no_trace(served: Served, client: Any) -> None:
    code, body = get(served, f"/v1/latent/traces/{complete(client).id}")
    assert code == 404
    assert "latent_trace" in body["error"]["message"]


def test_noise_is_that_of_the_seed(client: Any) -> None:
    noisy = {**SOFT, "noise": {"kind": "gaussian", "strength": 1.0}}
    extra = {"vllm_xargs": {"latent": json.dumps(noisy)}}
    texts = [complete(client, extra, seed=seed).choices[0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize(
    ("xargs", "words"),
    [
        ({"latent": "soft"}, "expected on, off, or a recipe's latent block as JSON text"),
        ({"latent": 7}, "expected on, off"),
        ({"latent": '{"input": '}, "latent is no JSON"),
        ({"latent": '{"inptu": "soft"}'}, "latent.inptu: unknown key (did you mean input?)"),
        ({"latent": '{"input": {"kind": "soft", "top_p": 7}}'}, "latent.input.top_p: 7"),
        ({"latent": '{"input": {"kind": "soft", "max_topk": null}}'}, "max_topk"),
        ({"latent": '{"stop": {"max_len": 1000}}'}, "say latent: off"),
        ({"latent": '{"stop": 40}'}, "leave no room for an answer"),
        ({"latent": '{"stop": {"per_step": {"latents": 2}}}'}, "a question has none"),
        ({"latent": '{"input": {"kind": "contextual", "weights": "learned"}}'}, "learned"),
        ({"latent_trace": "many"}, "latent_trace is 'many'"),
        ({"latent": "off", "latent_trace": 3}, "takes no latent steps"),
        ({"latents": "on"}, "unknown key 'latents'"),
    ],
)
def test_what_cannot_be_served_is_a_400_in_words(client: Any, xargs: dict[str, Any], words: str) -> None:
    for stream in (False, True):
        assert words in refusal(lambda stream=stream: chat(client, {"vllm_xargs": xargs}, stream=stream))


def test_what_does_not_go_with_latent_steps_is_refused(client: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    assert "structured_outputs" in refusal(lambda: chat(client, response_format=schema))
    noisy = {"vllm_xargs": {"latent": '{"noise": {"kind": "gaussian"}}'}}
    assert "share their noise" in refusal(lambda: chat(client, noisy, n=2, temperature=1.0))
    assert "beam search" in refusal(lambda: complete(client, {"use_beam_search": True}, n=2))


def test_ctrl_c_ends_it_and_leaves_nothing(served: Served) -> None:
    """The last test of the module: it ends the server that the others ask."""
    import socket
    import subprocess
    import sys

    assert of_run(served.run)
    assert served.interrupt() == 130
    assert not of_run(served.run)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 18431))
    command = [sys.executable, "-m", "latentctl.cli.main", "status", "--json", "--runs-dir", str(served.runs)]
    seen = json.loads(subprocess.run(command, env=served.env, capture_output=True, check=True).stdout)
    assert [r["state"] for r in seen["data"]["runs"]] == ["cancelled"]

"""What a request tells the plugin: a plain dict under `SamplingParams.extra_args["latent"]`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from jobs.generate.protocol import Thoughts
from jobs.latent.knobs import Row
from latentctl.spec.disturbance import DisturbanceSpec
from latentctl.spec.engine import VLLM_TOP_K
from latentctl.spec.latent import LATENT_TOKEN, ContextualInput, LatentSpec, SoftInput

KEY = "latent"
"""In `SamplingParams.extra_args`."""


class Asked(NamedTuple):
    """One request's latent settings, as the plugin reads them."""

    row: Row
    record: int
    """The token id that vLLM keeps of a latent position."""
    opening: tuple[int, ...]
    """Tokens that are forced first: the start marker, where the prompt does not end with it."""


def pack(
    thoughts: Thoughts, *, key: int, record: int, group: str | None = None, opens: bool = False
) -> dict[str, Any]:
    """`thoughts` for the wire; `key` as `jobs.latent.noise.request_key` gives it. Requests of one `group`
    have one prompt, whose keys and values they share. `opens`: the start marker is forced as the answer's
    first tokens; else the prompt ends with it, or the model writes it."""
    said = thoughts.disturbance
    return {
        "spec": thoughts.spec.model_dump(mode="json"),
        "start": list(thoughts.start),
        "end": list(thoughts.end),
        "fixed": thoughts.fixed,
        "token": thoughts.token,
        "trace": thoughts.trace,
        "disturbance": None if said is None else said.model_dump(mode="json"),
        "records": thoughts.record,
        "key": key,
        "record": record,
        "group": group,
        "opens": opens,
    }


def unpack(said: dict[str, Any]) -> Asked:
    """The inverse of `pack`."""
    start = tuple(said["start"])
    row = Row(
        LatentSpec.model_validate(said["spec"]),
        tuple(said["end"]),
        start,
        said["fixed"],
        said["token"],
        said["key"],
        said["trace"],
        None if said["disturbance"] is None else DisturbanceSpec.model_validate(said["disturbance"]),
        said["records"],
    )
    opens = said["opens"] and row.spec.start == "prompt"
    return Asked(row, said["record"], start if opens else ())


def asked(sampling: Any) -> dict[str, Any] | None:
    """The packed settings of vLLM's `SamplingParams`; None: text alone."""
    extra = getattr(sampling, "extra_args", None) or {}
    return extra.get(KEY)


def refuses(thoughts: Thoughts) -> str | None:
    """Why these settings cannot be served in vLLM, in words; None if they can."""
    spec = thoughts.spec.input
    if not isinstance(spec, SoftInput):
        return None
    if spec.max_topk is None:
        return (
            "max_topk: null mixes any number of tokens, which only the engine transformers does; "
            f"vLLM mixes at most {VLLM_TOP_K}: give latent.input.max_topk, or engine: transformers"
        )
    for name, value in (("max_topk", spec.max_topk), ("top_k", spec.top_k)):
        if value > VLLM_TOP_K:
            return f"{name} ({value}) is beyond the {VLLM_TOP_K} tokens that vLLM mixes at most"
    return None


def looks_back(said: dict[str, Any]) -> bool:
    """Whether the first latent step may look at hidden states of positions before the last one: those are
    not in a prefix cache."""
    spec = LatentSpec.model_validate(said["spec"]).input
    return isinstance(spec, ContextualInput) and spec.window > 1 and spec.include != "latent_only"


def placeholder(tokenizer: Any, end: Collection[int], eos: Collection[int]) -> int | None:
    """The id that vLLM keeps of latent positions: a special token that ends no answer and begins no end
    marker, so that it is told from text inside a span and hidden where special tokens are. None: there is
    no such token."""
    first = tokenizer.convert_tokens_to_ids(LATENT_TOKEN)
    special = sorted(tokenizer.all_special_ids)
    wanted = [first, tokenizer.pad_token_id, tokenizer.bos_token_id, *special]
    taken = {*eos, *end, tokenizer.unk_token_id}
    return next((i for i in wanted if i is not None and i in special and i not in taken), None)

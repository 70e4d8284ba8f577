"""What a person may write where: keys of each block, where a key belongs, and what a value may be, in
words."""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Any, Literal

import annotated_types as at
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from latentctl.spec.base import Spec

SYNONYMS = {
    "learning_rate": "train.lr", "lr_scheduler": "train.schedule", "lr_scheduler_type": "train.schedule",
    "max_steps": "train.steps", "num_epochs": "train.epochs", "num_train_epochs": "train.epochs",
    "batch_size": "train.batch", "global_batch_size": "train.batch",
    "per_device_batch_size": "train.micro_batch", "per_device_train_batch_size": "train.micro_batch",
    "gradient_accumulation_steps": "train.micro_batch", "grad_accum": "train.micro_batch",
    "max_grad_norm": "train.clip", "grad_clip": "train.clip", "gradient_clipping": "train.clip",
    "bf16": "train.precision", "fp16": "train.precision", "dtype": "train.precision",
    "deepspeed": "train.zero_stage", "zero": "train.zero_stage", "warmup_steps": "train.warmup",
    "warmup_ratio": "train.warmup", "max_length": "train.max_len", "max_seq_length": "train.max_len",
    "early_stopping": "train.early_stop", "save_steps": "train.save_every", "eval_steps": "train.eval_every",
    "logging_steps": "train.log_every", "lora_r": "train.lora.r", "max_tokens": "sampling.max_new_tokens",
    "do_sample": "sampling.temperature", "num_return_sequences": "sampling.samples", "n": "sampling.samples",
    "num_gpus": "resources.gpus", "gpus_per_node": "resources.gpus", "walltime": "resources.time",
    "time_limit": "resources.time", "ntasks": "resources.tasks", "memory": "resources.mem",
    "num_nodes": "resources.nodes", "model_name": "model.path", "model_path": "model.path",
    "model_name_or_path": "model.path", "dataset_name": "dataset.name",
    "num_hidden_layers": "model.init.layers",
    "hidden_size": "model.init.hidden", "num_attention_heads": "model.init.heads",
    "system_prompt": "prompt.system", "tensor_parallel_size": "eval.tensor_parallel",
    "gpu_memory_utilization": "eval.gpu_memory", "max_num_seqs": "eval.max_batch",
}  # fmt: skip
"""Names from elsewhere -> ours."""


def keys(model: type[Spec]) -> dict[str, FieldInfo]:
    """The keys of a block as a person writes them, `from` rather than `from_`."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def submodels(annotation: Any) -> list[type[Spec]]:
    """The blocks that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [m for arg in typing.get_args(annotation) for m in submodels(arg)]
    return []


@cache
def blocks(model: type[Spec]) -> dict[str, list[type[Spec]]]:
    """The keys of a block as they are written, each with the blocks that its value may be."""
    return {key: submodels(info.annotation) for key, info in keys(model).items()}


def kinds(annotation: Any, key: str = "kind") -> list[str]:
    """Where a block has several kinds: those which have `key`, as they are written; else empty."""
    blocks = submodels(annotation)
    if len(blocks) < 2 or not all("kind" in m.model_fields for m in blocks):
        return []
    return [str(m.model_fields["kind"].default) for m in blocks if key in keys(m)]


def field_at(models: list[type[Spec]], path: tuple[str, ...]) -> FieldInfo | None:
    """The field that a path of keys leads to."""
    for model in models:
        info = keys(model).get(path[0]) if path else None
        if info is None:
            continue
        if len(path) == 1:
            return info
        if typing.get_origin(info.annotation) is dict and len(path) == 2:
            return FieldInfo.from_annotation(typing.get_args(info.annotation)[1])
        if found := field_at(submodels(info.annotation), path[1:]):
            return found
    return None


def places(models: list[type[Spec]], prefix: tuple[str, ...] = ()) -> dict[str, list[tuple[str, ...]]]:
    """Every key below these blocks -> the blocks (paths) in which it is known."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for model in models:
        for key, info in keys(model).items():
            if prefix not in found.setdefault(key, []):
                found[key].append(prefix)
            for below, where in places(submodels(info.annotation), (*prefix, key)).items():
                known = found.setdefault(below, [])
                known += [w for w in where if w not in known]
    return found


def listed(names: typing.Iterable[str], limit: int = 24) -> str:
    """`a, b, c`, cut with a count when it is long."""
    all_names = list(names)
    more = f", and {len(all_names) - limit} more" if len(all_names) > limit else ""
    return ", ".join(all_names[:limit]) + more


def nearest(word: str, known: typing.Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar known name, if one is similar at all."""
    import difflib

    choices = list(known)
    lower = {c.lower(): c for c in choices}
    found = difflib.get_close_matches(str(word).lower().replace("-", "_"), list(lower), 1, cutoff)
    return lower[found[0]] if found else None


def _homes(key: str, blocks: list[tuple[str, ...]], top_only: typing.Collection[str]) -> str:
    if () in blocks:
        return f"{key} stands at the top of the recipe" + ("" if key in top_only else " or of a stage")
    return f"{key} belongs under {' or '.join('.'.join(b) for b in blocks)}"


def hint_for_key(
    key: str,
    siblings: typing.Iterable[str],
    everywhere: dict[str, list[tuple[str, ...]]],
    top_only: typing.Collection[str] = (),
) -> str:
    """Where a key that is unknown here belongs, the nearest known one, or what is known here."""
    known = list(siblings)
    if "." in key and key.split(".")[0] in everywhere:
        first, *rest = key.split(".")
        return f"write it as {first}: {{{'.'.join(rest)}: ...}}; dotted keys stand under sweep.grid alone"
    homes = everywhere.get(key, [])
    if homes and (len(homes) <= 4 or () in homes):
        return _homes(key, homes, top_only)
    target = SYNONYMS.get(key.lower().replace("-", "_"))
    if target and (target.split(".")[-1] in everywhere):
        return f"the key here is {target}"
    if near := nearest(key, known, 0.67):
        return f"did you mean {near}?"
    if far := nearest(key, everywhere, 0.8):
        return f"did you mean {'.'.join((*everywhere[far][0], far))}?"
    if (other := nearest(key, SYNONYMS, 0.85)) and SYNONYMS[other].split(".")[-1] in everywhere:
        return f"the key here is {SYNONYMS[other]}"
    return f"known here: {listed(sorted(known))}" if known else "no key is known here"


def _bounds(metadata: typing.Iterable[Any]) -> str:
    low = high = ""
    given = [
        inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    for item in given:
        for cls, attribute, word in ((at.Ge, "ge", "from"), (at.Gt, "gt", "above")):
            if isinstance(item, cls):
                low = f"{word} {getattr(item, attribute):,}"
        for cls, attribute, word in ((at.Le, "le", "to"), (at.Lt, "lt", "below")):
            if isinstance(item, cls):
                high = f"{word} {getattr(item, attribute):,}"
    if low.startswith("from") and high:
        return f" {low} {high if high.startswith('to') else 'to ' + high}"
    if low.startswith("from") and not high:
        return f" of at least {low[5:]}"
    if high.startswith("to"):
        high = f"at most {high[3:]}"
    return (" " + " and ".join(p for p in (low, high) if p)) if low or high else ""


def expected(annotation: Any, metadata: typing.Iterable[Any] = ()) -> str:
    """What a value may be, in words: "a whole number from 1 to 4096", "one of cot, answer"."""
    metadata = list(metadata)
    for item in metadata:
        if isinstance(item, BeforeValidator) and item.json_schema_input_type is not PydanticUndefined:
            return expected(item.json_schema_input_type)
    origin = typing.get_origin(annotation)
    args: tuple[Any, ...] = typing.get_args(annotation)
    if origin is typing.Annotated:
        return expected(args[0], [*metadata, *args[1:]])
    if origin is Literal:
        names = [str(a) for a in args]
        return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    if origin in (typing.Union, types.UnionType):
        args = tuple(a for a in args if a is not type(None))
        if len(args) == 1:
            return expected(args[0], metadata)
        simple_first = sorted(args, key=lambda a: bool(submodels(a)))
        if blocks := kinds(annotation):
            simple = [expected(a, metadata) for a in simple_first if not submodels(a)]
            names = ", ".join(blocks)
            which = "such a kind" if f"one of {names}" in simple else f"a kind: one of {names}"
            return " or ".join([*simple, f"a map with {which}"])
        return " or ".join(dict.fromkeys(expected(a, metadata) for a in simple_first))
    if origin is list or annotation is list:
        inner = [_plural(expected(a)) for a in args]
        return f"a list of {inner[0]}" if inner else "a list"
    if origin is dict or annotation is dict:
        return "a map"
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return f"a map with some of the keys {listed(sorted(keys(annotation)))}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(annotation, "another value") + (_bounds(metadata) if annotation in (int, float) else "")


def _plural(words: str) -> str:
    for one, many in (("a whole number", "whole numbers"), ("a number", "numbers"), ("a text", "texts")):
        if words.startswith(one):
            return many + words[len(one) :]
    return words

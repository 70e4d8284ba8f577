"""Verb `prefetch`: the models and data sets of a recipe, into the cache that its jobs will read."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from jobs.data.hub import hub_rows
from jobs.data.locate import locate
from jobs.data.plugins import load_plugins
from jobs.data.registry import Files, find
from jobs.models.source import explain
from jobs.runtime.errors import JobUserError
from latentctl.spec.dataset import DatasetSpec
from latentctl.spec.experiment import Experiment
from latentctl.spec.model import ModelSpec

_WHOLE = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What loading reads. Pickled weights and other frameworks' stay where they are."""
_TOKENIZER = tuple(p for p in _WHOLE if p != "*.safetensors")


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """{"recipe": Experiment dump, "data_dir"}. Gives {"cache", "items": [{kind, name, bytes, path, error}]}.

    One that fails does not keep the others. Downloads go on where they were broken off.
    """
    experiment = Experiment.model_validate(payload["recipe"])
    load_plugins(experiment.plugins)
    items: list[dict[str, Any]] = []
    for model, what in _models(experiment):
        items.append(_item("model" if what == _WHOLE else "tokenizer", *_model(model, what)))
    for spec, split in _datasets(experiment):
        items.append(_item("dataset", *_dataset(spec, split, payload.get("data_dir"))))
    return {"cache": HF_HUB_CACHE, "items": [i for i in items if i["name"]]}


def _item(
    kind: str, name: str | None, size: int | None, place: str | None, error: JobUserError | None
) -> dict[str, Any]:
    said = {"message": error.message, "hint": error.hint} if error else None
    return {"kind": kind, "name": name, "bytes": size, "path": place, "error": said}


_Got = tuple[str | None, int | None, str | None, JobUserError | None]


def _models(experiment: Experiment) -> list[tuple[ModelSpec, tuple[str, ...]]]:
    """Hub ids of stages that start from the recipe's model, and of tokenizers, each once."""
    found: dict[tuple[str, str | None], tuple[ModelSpec, tuple[str, ...]]] = {}
    for stage in experiment.stages:
        model = stage.model
        if stage.from_ in (None, "model") and model.path and not Path(model.path).expanduser().exists():
            found[model.path, model.revision] = (model, _WHOLE)
        name = model.tokenizer
        if isinstance(name, str) and not Path(name).expanduser().exists():
            found.setdefault((name, None), (ModelSpec(path=name), _TOKENIZER))
    return list(found.values())


def _model(model: ModelSpec, patterns: tuple[str, ...]) -> _Got:
    name = str(model.path)
    more = ("*.py",) if model.trust_remote_code else ()
    try:
        print(f"{name}: fetching", file=sys.stderr, flush=True)
        place = snapshot_download(name, revision=model.revision, allow_patterns=[*patterns, *more])
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        return name, None, None, explain(name, "model", error)
    files = [p for p in Path(place).rglob("*") if p.is_file()]
    if patterns == _WHOLE and not any(p.suffix == ".safetensors" for p in files):
        return name, None, place, _no_weights(name, model)
    return name, sum(p.stat().st_size for p in files), place, None


def _no_weights(name: str, model: ModelSpec) -> JobUserError:
    try:
        listed = HfApi().list_repo_files(name, revision=model.revision)
    except (OSError, HfHubHTTPError):
        listed = []
    pickled = [f for f in listed if f.endswith((".bin", ".pt", ".pth"))]
    return JobUserError(
        f"{name} has no safetensors weights" + (f", only {', '.join(pickled[:3])}" if pickled else ""),
        hint="pickled weights can run code when they are read; another revision may have been converted",
    )


def _datasets(experiment: Experiment) -> list[tuple[DatasetSpec, str]]:
    found: dict[tuple[str | None, str | None, str], DatasetSpec] = {}
    for stage in experiment.stages:
        for spec in (stage.dataset if stage.settings.reads_dataset else None, stage.validation):
            if spec is not None:
                found[spec.name, spec.path, spec.split] = spec
    return [(spec, split) for (_, _, split), spec in found.items()]


def _dataset(spec: DatasetSpec, split: str, data_dir: str | None) -> _Got:
    """Nothing for what lies here, or is generated. Read through the library that jobs read it with: its own
    cache holds more than the files."""
    name = spec.name or spec.path
    try:
        entry = find(spec.name) if spec.name else None
        if entry is not None and not isinstance(entry, Files):
            return None, None, None, None
        place = locate(entry, spec.path, split, data_dir)
        if place.hub is None:
            return None, None, None, None
        print(f"{place}: fetching", file=sys.stderr, flush=True)
        for _ in islice(hub_rows(*place.hub, looked=place.looked), 1):
            pass
    except JobUserError as error:
        return name, None, None, error
    return f"{place.hub[0]} ({place.hub[2]})", None, None, None

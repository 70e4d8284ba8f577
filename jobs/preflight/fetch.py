"""Verb `prefetch`: the models and data sets of a recipe, into the cache that its jobs will read."""

from __future__ import annotations

import sys
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
from jobs.preflight.cached import whole
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
    items = [_model(model, patterns) for model, patterns in _models(experiment)]
    found = [_dataset(spec, payload.get("data_dir")) for spec in _datasets(experiment)]
    return {"cache": HF_HUB_CACHE, "items": [*items, *(item for item in found if item is not None)]}


def _item(
    kind: str,
    name: str,
    *,
    size: int | None = None,
    path: str | None = None,
    error: JobUserError | None = None,
) -> dict[str, Any]:
    said = {"message": error.message, "hint": error.hint} if error else None
    return {"kind": kind, "name": name, "bytes": size, "path": path, "error": said}


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


def _model(model: ModelSpec, patterns: tuple[str, ...]) -> dict[str, Any]:
    name, kind = str(model.path), "model" if patterns == _WHOLE else "tokenizer"
    more = ("*.py",) if model.trust_remote_code else ()
    print(f"{name}: fetching", file=sys.stderr, flush=True)
    try:
        place = snapshot_download(name, revision=model.revision, allow_patterns=[*patterns, *more])
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        return _item(kind, name, error=explain(name, kind, error))
    if kind == "model" and not whole(Path(place)):
        return _item(kind, name, path=place, error=_no_weights(name, model))
    size = sum(p.stat().st_size for p in Path(place).rglob("*") if p.is_file())
    return _item(kind, name, size=size, path=place)


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


def _datasets(experiment: Experiment) -> list[DatasetSpec]:
    """Those that any stage reads, each place and split once."""
    found: dict[tuple[str | None, str | None, str], DatasetSpec] = {}
    for stage in experiment.stages:
        for spec in (stage.dataset if stage.settings.reads_dataset else None, stage.validation):
            if spec is not None:
                found[spec.name, spec.path, spec.split] = spec
    return list(found.values())


def _dataset(spec: DatasetSpec, data_dir: str | None) -> dict[str, Any] | None:
    """None for what lies here, or is generated. Read through the library that jobs read it with: its own
    cache holds more than the files."""
    try:
        entry = find(spec.name) if spec.name else None
        if entry is not None and not isinstance(entry, Files):
            return None
        place = locate(entry, spec.path, spec.split, data_dir)
        if place.hub is None:
            return None
        print(f"{place}: fetching", file=sys.stderr, flush=True)
        next(iter(hub_rows(*place.hub, looked=place.looked)), None)
    except JobUserError as error:
        return _item("dataset", str(spec.name or spec.path), error=error)
    return _item("dataset", f"{place.hub[0]} ({place.hub[2]})")

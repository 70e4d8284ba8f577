"""Loading with the keys of a recipe's `dataset` block."""

from __future__ import annotations

from typing import Any

from jobs.data import Loaded, load
from latentctl.spec.dataset import DatasetSpec


def read(path: str | None = None, name: str | None = None, **more: Any) -> Loaded:
    """Load with the keys of a recipe's `dataset` block."""
    data_dir = more.pop("data_dir", None)
    plugins = more.pop("plugins", ())
    fields = {"name": name, "path": path, **more}
    spec = DatasetSpec.model_validate({k: v for k, v in fields.items() if v is not None})
    return load(spec, data_dir=None if data_dir is None else str(data_dir), plugins=plugins)

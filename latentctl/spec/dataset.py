"""Which problems: a named dataset, a generator, or any local file or Hub id with a field mapping."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from latentctl.spec.base import Spec


class FieldMap(Spec):
    """Which column holds what, for a dataset without a name of its own."""

    question: str = "question"
    answer: str = "answer"
    """The gold answer."""
    steps: str | None = None
    """A list of reasoning steps, or one text."""
    id: str | None = None


class DatasetSpec(Spec):
    """A dataset. `dataset: gsm8k` is short for `dataset: {name: gsm8k}`; with a slash or a data file's
    ending, for `path`."""

    name: str | None = Field(default=None, min_length=1)
    """A known dataset or generator (`latentctl data --list`)."""
    path: str | None = Field(default=None, min_length=1)
    """A local file (relative to where `latentctl` is called) or a Hub id. With `name`: where that dataset
    lies here."""
    split: str = "train"
    """`train`, `valid` or `test`; eval stages default to `test`."""
    fields: FieldMap | None = None
    """Field mapping for a file or Hub id without `name`."""
    start: int = Field(default=0, ge=0)
    """Skip so many rows (after shuffling)."""
    limit: int | None = Field(default=None, ge=1)
    """Take at most so many rows; all if unsaid."""
    seed: int | None = Field(default=None, ge=0)
    """Shuffle rows with this seed before slicing; file order if unsaid."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`skip` leaves malformed rows out and counts them; `error` stops at the first with file and line."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of a generator or of a dataset's own form (checked by it): `{swaps: 8, cups: 5}`."""

    @model_validator(mode="after")
    def _something(self) -> DatasetSpec:
        if self.name is None and self.path is None:
            raise ValueError("give a name (see `latentctl data --list`) or a path")
        if self.name is not None and self.fields is not None:
            raise ValueError(f"the dataset {self.name!r} has its own form: fields goes with path alone")
        return self


NAMES = (
    "aime", "amc", "arc-challenge", "countdown", "countdown-gen", "gsm8k", "gsm8k-aug", "math", "math500",
    "metamathqa", "mmlu-stem", "prontoqa", "prosqa", "prosqa-gen", "shell-game", "svamp",
)  # fmt: skip
"""The datasets of `jobs.data` (a test compares them), so that a misspelt name is found before a job waits."""
DATA_SUFFIXES = (
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".txt",
    ".gz",
    ".zst",
    ".xz",
    ".bz2",
)


def is_path(text: str) -> bool:
    """Whether the short form `dataset: TEXT` means a file or a Hub id rather than a known name."""
    return "/" in text or text.startswith("~") or text.lower().endswith(DATA_SUFFIXES)


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return {"path" if is_path(value) else "name": value}
    return value


DatasetField = Annotated[DatasetSpec, BeforeValidator(_short, json_schema_input_type=DatasetSpec | str)]

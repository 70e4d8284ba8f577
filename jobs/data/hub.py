"""Datasets of the Hugging Face Hub, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.data.rows import Row
from jobs.runtime.errors import JobUserError


def hub_rows(name: str, config: str | None, split: str, *, looked: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a split; `line` is the row number, from 1.

    `looked`: folders without it. Raises JobUserError when offline, unknown or gated.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(name, config, split=split)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise JobUserError(
            f"cannot load {name!r} (split {split!r}) from the Hugging Face Hub: {reason}"
            + (f" (before: looked in {', '.join(looked)})" if looked else ""),
            hint="without a network, point at a file: dataset.path=FILE; "
            "or put it into <data_dir>/NAME/ or $LATENTCTL_DATA/NAME/",
        ) from error
    for number, value in enumerate(table, 1):
        yield Row(value, f"{name} ({split})", number)

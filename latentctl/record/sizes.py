"""Bytes in words."""

from __future__ import annotations


def size_text(count: int) -> str:
    """`512 B`, `1.5 KiB`, `23.4 GiB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"

"""Accuracy against what an answer cost, or against the noise that training had: in plain text, or as a
picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentctl.errors import UserError
from latentctl.report.text import clip

_LOG_FROM = 8.0
"""The axis of steps is logarithmic where the largest is so many times the smallest."""
FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against."""

    title: str
    share: bool = False
    """Values from 0 to 1, shown in percent."""

    def number(self, value: float) -> str:
        return f"{100 * value:.3g} %" if self.share else f"{value:.3g}"


STEPS = Axis("mean steps per answer (visible tokens + latent steps)")
NOISED = Axis("latent steps that were disturbed in training", share=True)


@dataclass(frozen=True)
class Point:
    """One evaluation in the plane."""

    mark: str
    """In the terminal."""
    name: str
    """In a picture."""
    series: str
    """Points of one colour; empty where all are of one."""
    x: float
    accuracy: float
    low: float
    high: float
    data: str
    """Dataset and split."""


def _logarithmic(points: Sequence[Point], axis: Axis) -> bool:
    every = [p.x for p in points]
    return not axis.share and min(every) > 0 and max(every) / min(every) >= _LOG_FROM


def scatter(points: Sequence[Point], axis: Axis = STEPS, *, width: int = 60, height: int = 15) -> str:
    """The plane in `width` x `height` signs: each point by its mark, its 95 % interval as a bar."""
    log = _logarithmic(points, axis)
    xs = [math.log(p.x) if log else p.x for p in points]
    left, right = min(xs), max(xs)
    bottom, top = _accuracies(points)
    grid = [[" "] * width for _ in range(height)]

    def column(x: float) -> int:
        return round((x - left) / (right - left) * (width - 1)) if right > left else width // 2

    def line(accuracy: float) -> int:
        return height - 1 - round((accuracy - bottom) / (top - bottom) * (height - 1))

    for point, x in zip(points, xs, strict=True):
        for y in range(line(point.high), line(point.low) + 1):
            if grid[y][column(x)] == " ":
                grid[y][column(x)] = "│"
    for point, x in zip(points, xs, strict=True):
        _write(grid[line(point.accuracy)], column(x), point.mark)
    ticks = {line(t): f"{100 * t:5.0f} %" for t in (bottom, (bottom + top) / 2, top)}
    rows = [f"{ticks.get(y, ''):>7} ┤{''.join(cells)}".rstrip() for y, cells in enumerate(grid)]
    first, middle, last = (axis.number(math.exp(x) if log else x) for x in (left, (left + right) / 2, right))
    scale = f"{first}{middle:^{width - 2 * max(len(first), len(last))}}"
    scale = f"{scale}{last:>{width - len(scale)}}" if right > left else f"{first:^{width}}"
    title = axis.title + (", logarithmic" if log else "")
    return "\n".join(
        [
            "accuracy",
            *rows,
            f"{'':8}└{'─' * width}",
            f"{'':9}{scale}".rstrip(),
            f"{'':9}{title:^{width}}".rstrip(),
        ]
    )


def _write(cells: list[str], at: int, mark: str) -> None:
    """A mark at its place, or in the nearest room beside other marks: no point hides another."""
    size = len(mark)
    places = sorted(range(len(cells) - size + 1), key=lambda start: (abs(start - at), start))
    free = (s for s in places if not any(c.isalnum() for c in cells[max(0, s - 1) : s + size + 1]))
    start = next(free, at)
    cells[start : start + size] = mark


def _accuracies(points: Sequence[Point]) -> tuple[float, float]:
    """Ends of the axis: the intervals, out to whole tenths."""
    low, high = min(p.low for p in points), max(p.high for p in points)
    bottom, top = math.floor(low * 10 + 1e-9) / 10, math.ceil(high * 10 - 1e-9) / 10
    return (bottom, top) if top > bottom else (max(0.0, bottom - 0.1), min(1.0, top + 0.1))


def check_path(path: Path) -> None:
    """Raises UserError for a picture that could not be written."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"a plot ends in {', '.join(FORMATS)}", where=str(path))
    if not path.absolute().parent.is_dir():
        raise UserError("no such folder", where=str(path.absolute().parent))
    _matplotlib()


def _matplotlib() -> tuple[Any, Any]:
    """matplotlib and what makes a figure without a window; loaded only for a picture. Raises UserError where
    it is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"a picture needs matplotlib, which cannot be loaded: {error}",
            hint="pip install 'latentctl[plot]'; the plot in the terminal needs nothing",
        ) from error
    return matplotlib, lambda **more: FigureCanvasAgg(Figure(**more)).figure


def picture(panels: Mapping[Axis, Sequence[Point]], path: Path) -> None:
    """Write a plot for each axis, side by side, as PNG, SVG or PDF; the same points give the same bytes.
    Raises UserError."""
    check_path(path)
    panels = {axis: points for axis, points in panels.items() if points}
    if not panels:
        raise UserError("nothing to plot: no evaluation has an accuracy and a number of steps")
    matplotlib, make_figure = _matplotlib()
    style = {"font.size": 9, "svg.hashsalt": "latentctl", "svg.fonttype": "none", "axes.axisbelow": True}
    with matplotlib.rc_context(style):
        count = len(panels)
        figure = make_figure(figsize=(6.4 * count, 4.0), dpi=200, layout="constrained")
        drawn = [(figure.add_subplot(1, count, i), *each) for i, each in enumerate(panels.items(), 1)]
        for axes, axis, points in drawn:
            _draw(axes, points, axis)
        figure.canvas.draw()
        figure.set_layout_engine("none")  # labels must not move what they were fitted to
        for axes, axis, points in drawn:
            _label(figure, axes, points, axis)
        titles = " and ".join(axis.title for axis in panels)
        stamp = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})
        figure.savefig(path, metadata={**stamp, "Title": f"accuracy against {titles}"})


def _draw(axes: Any, points: Sequence[Point], axis: Axis) -> None:
    """A colour for each series, a shape for each dataset."""
    sets = list(dict.fromkeys(p.data for p in points))
    series = list(dict.fromkeys(p.series for p in points))
    for one, data in dict.fromkeys((p.series, p.data) for p in points):
        mine = [p for p in points if (p.series, p.data) == (one, data)]
        named = [clip(one, 40, middle=True)] if len(series) > 1 else []
        named += [data] if len(sets) > 1 else []
        below = [100 * max(0.0, p.accuracy - p.low) for p in mine]
        above = [100 * max(0.0, p.high - p.accuracy) for p in mine]
        axes.errorbar(
            [_at(p, axis) for p in mine],
            [100 * p.accuracy for p in mine],
            yerr=[below, above],
            fmt="osD^v"[sets.index(data) % 5],
            color=f"C{series.index(one) % 10}",
            markersize=5,
            capsize=3,
            elinewidth=1,
            label=", ".join(named),
        )
    if _logarithmic(points, axis):
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel(axis.title + (" in %" if axis.share else ""))
    where = f" on {sets[0]}" if len(sets) == 1 else ""
    axes.set_ylabel(f"accuracy{where} in %, 95 % interval")
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1 or len(sets) > 1:
        longest = max(len(text) for text in axes.get_legend_handles_labels()[1])
        columns = max(1, min(4, 90 // (longest + 8)))
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)


_OFFSETS = [
    (r * math.cos(a), r * math.sin(a))
    for r in (9, 14, 20, 28, 38, 50, 64, 80, 100, 125, 150)
    for a in (0.4, -0.4, 2.74, -2.74, 0.9, -0.9, 2.24, -2.24, 1.57, -1.57)
]
"""Where a label may stand from its point, in points of 1/72 inch, nearest first."""
_NEAR = 14
"""A label that far needs no line to its point."""


def _at(point: Point, axis: Axis) -> float:
    return 100 * point.x if axis.share else point.x


def _label(figure: Any, axes: Any, points: Sequence[Point], axis: Axis) -> None:
    """Each point by its name, at the nearest place where neither the name nor the line to it covers another
    name, point or interval."""
    from matplotlib.transforms import Bbox

    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    taken, names = [], []
    for p in points:
        (x, low), (_, high) = axes.transData.transform(
            [(_at(p, axis), 100 * p.low), (_at(p, axis), 100 * p.high)]
        )
        taken.append(Bbox([[x - 4 * scale, low - 3 * scale], [x + 4 * scale, high + 3 * scale]]))
    for p in points:
        at = (_at(p, axis), 100 * p.accuracy)
        x, y = axes.transData.transform(at)
        text = clip(p.name, 30, middle=True)
        note = axes.annotate(
            text, at, (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8
        )
        box = note.get_window_extent(renderer)
        places = []
        for i, (dx, dy) in enumerate(_OFFSETS):
            beside = abs(dx) > 0.1 * abs(dy)
            aside = dx + math.copysign(box.width / scale / 2, dx) if beside else dx
            there = box.translated(aside * scale, dy * scale)
            line = [(x + f * dx * scale, y + f * dy * scale) for f in (0.2, 0.4, 0.6, 0.8)]
            crossed = sum(any(other.contains(*point) for point in line) for other in names)
            inside = frame.contains(*there.min) and frame.contains(*there.max)
            cost = crossed + sum(map(there.overlaps, taken)) + 2 * (not inside)
            places.append((cost, i, (aside, dy), there))
        _, i, note.xyann, there = min(places, key=lambda place: place[:2])
        if math.hypot(*_OFFSETS[i]) > _NEAR:
            arrow = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 5, "shrinkB": 3}
            axes.annotate("", at, _OFFSETS[i], textcoords="offset points", arrowprops=arrow)
        taken.append(there)
        names.append(there)

"""Accuracy against steps: every point is there, none hides another, and a picture is a picture."""

from __future__ import annotations

import builtins
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from latentctl.errors import UserError
from latentctl.report.plot import NOISED, STEPS, Point, picture, scatter


def point(
    mark: str, steps: float, accuracy: float, *, half: float = 0.05, series: str = "", data: str = "gsm8k"
) -> Point:
    low, high = max(0.0, accuracy - half), min(1.0, accuracy + half)
    return Point(mark, f"name-{mark}", series, steps, accuracy, low, high, data)


def place(page: str, mark: str) -> tuple[int, int]:
    """(line, column) of a mark inside the frame."""
    for y, line in enumerate(page.splitlines()):
        inside = line.partition("┤")[2]
        if mark in inside:
            return y, inside.index(mark)
    raise AssertionError(f"no {mark} in\n{page}")


def test_more_accurate_is_higher_and_more_steps_are_further_right() -> None:
    page = scatter([point("1", 10, 0.2), point("2", 20, 0.9), point("3", 30, 0.55)])
    (y1, x1), (y2, x2), (y3, x3) = (place(page, m) for m in "123")
    assert y2 < y3 < y1
    assert (x1, x2, x3) == (0, 30, 59)
    assert "logarithmic" not in page


def test_steps_that_differ_by_far_are_on_a_logarithmic_axis() -> None:
    page = scatter([point("1", 1, 0.2), point("2", 10, 0.9), point("3", 100, 0.5)])
    assert "logarithmic" in page
    assert [place(page, m)[1] for m in "123"] == [0, 30, 59]
    assert page.splitlines()[-2].split() == ["1", "10", "100"]


def test_an_interval_is_a_bar_from_its_low_to_its_high_end() -> None:
    page = scatter([point("1", 10, 0.5, half=0.5), point("2", 20, 0.5, half=0.0)], height=11)
    columns = [line.partition("┤")[2].ljust(60) for line in page.splitlines()[1:12]]
    assert "".join(c[0] for c in columns) == "│││││1│││││"
    assert "".join(c[59] for c in columns) == "     2     "
    assert [line[:8].strip() for line in page.splitlines()[1:12] if line[:8].strip()] == [
        "100 %",
        "50 %",
        "0 %",
    ]


@pytest.mark.parametrize("count", [2, 5, 12])
def test_points_in_one_place_are_all_shown(count: int) -> None:
    page = scatter([point(str(i), 10, 0.5) for i in range(1, count + 1)])
    (line,) = [line for line in page.splitlines() if "1" in line.partition("┤")[2]]
    assert sorted(line.partition("┤")[2].split(), key=int) == [str(i) for i in range(1, count + 1)]


@pytest.mark.parametrize(
    "points",
    [
        [point("1", 5, 0.0, half=0.0), point("2", 5, 0.0, half=0.0)],
        [point("1", 5, 1.0, half=0.0), point("2", 9, 1.0, half=0.0)],
        [point("1", 0, 0.5), point("2", 100, 0.7)],
        [point("1", 5, 0.5)],
    ],
)
def test_the_ends_of_the_scales_do_not_break_the_plot(points: list[Point]) -> None:
    page = scatter(points)
    assert len(page.splitlines()) == 19
    assert max(map(len, page.splitlines())) <= 80
    for p in points:
        place(page, p.mark)


POINTS = [
    point(
        str(i),
        10 + 3 * i,
        0.5 + 0.02 * i,
        series="one" if i < 5 else "two",
        data="gsm8k" if i % 2 else "math",
    )
    for i in range(9)
]


def test_a_png_is_written(tmp_path: Path) -> None:
    picture({STEPS: POINTS}, tmp_path / "steps.png")
    data = (tmp_path / "steps.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 1280


def test_an_svg_holds_every_name_and_is_the_same_again(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        picture({STEPS: POINTS}, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    words = "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    for wanted in [*(p.name for p in POINTS), "one, math", "two, gsm8k", "latent steps", "accuracy in %"]:
        assert wanted in words


def test_labels_cover_neither_points_nor_one_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The boxes of the words in the finished picture."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    found: dict[str, Any] = {}
    save = Figure.savefig

    def look(figure: Figure, *args: Any, **more: Any) -> None:
        axes = figure.axes[0]
        notes = [t for t in axes.texts if t.get_text()]
        found["boxes"] = [Text.get_window_extent(t) for t in notes]
        found["points"] = [axes.transData.transform((p.x, 100 * p.accuracy)) for p in POINTS]
        save(figure, *args, **more)

    monkeypatch.setattr(Figure, "savefig", look)
    picture({STEPS: POINTS}, tmp_path / "steps.png")
    boxes = found["boxes"]
    assert len(boxes) == len(POINTS)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.contains(x, y) for x, y in found["points"])


def test_without_matplotlib_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def no_matplotlib(name: str, *args: Any, **more: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(UserError, match="a picture needs matplotlib") as caught:
        picture({STEPS: POINTS}, tmp_path / "steps.png")
    assert "pip install 'latentctl[plot]'" in str(caught.value)
    assert scatter(POINTS), "the plot in the terminal needs nothing"


@pytest.mark.parametrize("name", ["steps.gif", "steps", "nowhere/steps.png"])
def test_a_picture_that_cannot_be_written_is_refused_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        picture({STEPS: POINTS}, tmp_path / name)


def test_shares_are_drawn_in_percent_beside_the_steps(tmp_path: Path) -> None:
    shares = [point("1", 0.05, 0.2), point("2", 0.3, 0.9)]
    page = scatter(shares, NOISED)
    assert "5 %" in page
    assert "30 %" in page
    assert "disturbed in training" in page
    picture({NOISED: shares, STEPS: POINTS}, tmp_path / "both.svg")
    words = (tmp_path / "both.svg").read_text()
    assert "disturbed in training in %" in words
    assert "mean steps per answer" in words

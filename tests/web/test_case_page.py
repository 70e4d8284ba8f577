"""The page of `latentctl case --html` in a real browser."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from latentctl.report.case import Case, case_of
from latentctl.report.case_files import find
from latentctl.report.case_page import page
from tests.web.browser import Browser
from tests.web.case_runs import fill, latent, make_run, sample, searched, shell_game, step, trace, wrong

NASTY = [
    "</script>", "<img src=x onerror=\"document.title='owned'\">", "<!--", "&lt;b&gt;", "{{data}}",
    "\x1b[31m", "\u202eevil", "]]>", "\u2028", "'\"`${document.title='owned'}`",
    " </SCRIPT><script>document.title='owned'</script>",
]  # fmt: skip


def write(tmp_path: Path, *runs: str, id: str, **more: Any) -> Path:
    """The page of one problem in these runs."""
    cases = [c for run in runs if (c := case_of(find(tmp_path, run), (id, 0))) is not None]
    assert len(cases) == len(runs)
    return save(tmp_path, cases, **more)


def save(tmp_path: Path, cases: list[Case], **more: Any) -> Path:
    path = tmp_path / "page.html"
    path.write_bytes(page(cases, **{"words": "the first problem", "found": [], "notes": [], **more}))
    return path


def one_chain(tmp_path: Path, steps: list[dict], name: str = "r", **row: Any) -> None:
    made = sample("p", **{**latent(len(steps)), **row})
    fill(make_run(tmp_path / name, {"score": "eval"}), [made], [trace("p", steps)])


def lightness(browser: Browser, selector: str) -> list[tuple[float, float]]:
    """(lightness, distance from grey) of the background of each element, in OKLab."""
    colours = browser.run(
        "return [...document.querySelectorAll(arguments[0])].map(e => getComputedStyle(e).backgroundColor)",
        selector,
    )
    found = []
    for colour in colours:
        match = re.fullmatch(r"oklab\(([\d.]+) (-?[\d.e-]+) (-?[\d.e-]+)\)", colour)
        assert match, colour
        light, a, b = map(float, match.groups())
        found.append((light, (a * a + b * b) ** 0.5))
    return found


def contrast(browser: Browser, selector: str) -> float:
    """WCAG contrast of an element's text against the first background behind it that is not transparent."""
    return browser.run(
        """
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const luminance = colour => {
          canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
          const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let at = document.querySelector(arguments[0]);
        const ink = luminance(getComputedStyle(at).color);
        while (getComputedStyle(at).backgroundColor === "rgba(0, 0, 0, 0)") at = at.parentElement;
        const paper = luminance(getComputedStyle(at).backgroundColor);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        """,
        selector,
    )


def test_the_page_shows_question_steps_text_and_verdict(browser: Browser, tmp_path: Path) -> None:
    shell_game(tmp_path)
    browser.open(write(tmp_path, "coconut", id="shell-game-test-0-1"))
    body = browser.texts("main")[0]
    for part in ("shell-game-test-0-1", "problem 2 of 3", "There are 5 cups", "✗ wrong", "read 1: 1 is not 2",
                 "ended by fixed: the fixed number of steps was reached", "The ball is under cup 1.",
                 "text ended by eos", "6 latent steps"):  # fmt: skip
        assert part in body, part
    assert [e.text for e in browser.all(".cell .h")] == ["1.08", "0.71", "0.46", "1.50", "1.08", "0.71"]
    heads = [e.text.split()[0] for e in browser.all(".bar > span:first-child")]
    assert heads == ["·4", "·4", "·3", "·3", "·2", "·2"]
    assert browser.errors() == []


def test_nothing_is_asked_of_any_network_and_the_policy_forbids_it(browser: Browser, tmp_path: Path) -> None:
    shell_game(tmp_path)
    path = write(tmp_path, "coconut", id="shell-game-test-0-0")
    browser.open(path)
    browser.hover(browser.all(".cell[data-step]")[0])
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [path.as_uri()]
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    policy = browser.run("return document.querySelector('meta[http-equiv]').content")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert browser.errors() == []
    # and it is enforced: a picture, a request, a script and a style of anybody else are refused
    refused = browser.run(
        """
        window.refused = new Set();
        document.addEventListener("securitypolicyviolation", e => refused.add(e.effectiveDirective));
        const img = new Image(); img.src = "http://127.0.0.1:9/x.png"; document.body.append(img);
        const script = document.createElement("script"); script.textContent = "document.title = 'owned'";
        document.body.append(script);
        return fetch("http://127.0.0.1:9/").catch(() => 0).then(() => new Promise(done =>
          setTimeout(() => done([...window.refused].sort()), 100)));
        """
    )
    assert refused == ["connect-src", "img-src", "script-src-elem"]
    assert browser.driver.title != "owned"


def test_hovering_a_step_shows_its_distribution(browser: Browser, tmp_path: Path) -> None:
    steps = [step(["a", "b", "c"], 1.0), step([" x", " y"], 0.5, mass=0.93, noised=True)]
    steps[0]["tokens"] = [["a", 0.5], ["b", 0.2]]
    one_chain(tmp_path, steps)
    browser.open(write(tmp_path, "r", id="p"))
    first, second = browser.all(".cell[data-step]")
    assert not browser.all("#tip")[0].is_displayed()
    browser.hover(first)
    tip = browser.texts("#tip")[0].split("\n")
    assert tip[0].startswith("step 1 · entropy 0.832 nats")
    assert tip[1:] == ["a", "0.500", "b", "0.200", "others", "0.300"]
    widths = browser.run(
        "return [...document.querySelectorAll('#tip .p')].map(e => e.getBoundingClientRect().width)"
    )
    assert widths[0] == pytest.approx(2.5 * widths[1], rel=0.02)
    whole, a, b = browser.run(
        "const bar = document.querySelector('.bar');"
        "return [bar, ...bar.children].map(e => e.getBoundingClientRect().width)"
    )
    assert (a / whole, b / whole) == pytest.approx((0.5, 0.2), abs=0.01)
    browser.hover(second)
    text = browser.texts("#tip")[0]
    assert "the mixed tokens hold 93.0 % of the mass" in text
    assert "noise was added" in text
    browser.hover(browser.all("h1")[0])
    assert not browser.all("#tip")[0].is_displayed()


def test_the_keyboard_reaches_every_step_and_shows_the_same(browser: Browser, tmp_path: Path) -> None:
    shell_game(tmp_path)
    shell_game(tmp_path, "other", sharper=0.8)
    browser.open(write(tmp_path, "coconut", "other", id="shell-game-test-0-0"))
    at = "const a = document.activeElement; return [a.dataset.run, a.dataset.step]"
    for _ in range(5):
        browser.press("TAB")
        if browser.run(at) == ["0", "0"]:
            break
    assert browser.run(at) == ["0", "0"]
    assert "step 1 of coconut" in browser.texts("#tip")[0]
    moves = {
        "ARROW_DOWN": ["0", "1"], "ARROW_RIGHT": ["1", "1"], "END": ["1", "5"], "PAGE_DOWN": ["1", "5"],
        "HOME": ["1", "0"], "ARROW_LEFT": ["0", "0"], "ARROW_UP": ["0", "0"],
    }  # fmt: skip
    for key, place in moves.items():
        browser.press(key)
        assert browser.run(at) == place, key
    assert browser.run("return document.activeElement.getAttribute('aria-label')").startswith(
        "coconut, latent step 1, entropy 1.50: ·4 0.36"
    )
    browser.press("ESCAPE")
    assert not browser.all("#tip")[0].is_displayed()


@pytest.mark.parametrize("dark", [False, True])
def test_the_colour_follows_the_entropy(browser: Browser, tmp_path: Path, dark: bool) -> None:
    """Ever darker and more colourful on light paper; ever brighter on dark."""
    one_chain(tmp_path, [{**step(["a"], 1), "entropy": 0.25 * i} for i in range(9)])
    browser.open(write(tmp_path, "r", id="p"), dark=dark)
    found = lightness(browser, ".bar > span:first-child")
    assert len(found) == 9
    lights = [light for light, _ in found]
    assert all((b > a) if dark else (b < a) for a, b in pairwise(lights)), lights
    assert all(b[1] > a[1] for a, b in pairwise(found[1:])), found
    assert abs(lights[0] - lights[-1]) > 0.2


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_is_readable_in_both_schemes(browser: Browser, tmp_path: Path, dark: bool) -> None:
    one_chain(tmp_path, [{**step(["a", "b"], 1), "entropy": 0.5 * i} for i in range(5)])
    browser.open(write(tmp_path, "r", id="p", notes=["a note"]), dark=dark)
    browser.hover(browser.all(".cell[data-step]")[4])
    places = ["h1", "h2", ".prose", ".soft", ".note", ".verdict", ".end", "#tip", "summary", ".pill"]
    places += [f"#step-{k} .bar > span" for k in range(5)]
    found = {place: contrast(browser, place) for place in places}
    assert all(value >= 4.5 for value in found.values()), found
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 128) == dark


def test_two_runs_stand_side_by_side_step_by_step(browser: Browser, tmp_path: Path) -> None:
    """Also where the text before a span makes one run's row higher, and where one chain is shorter."""
    steps = [step(["a", "b"], 1.0)] * 5
    one_chain(tmp_path, steps, "left", text="so it goes " * 20, spans=[[0, 2], [150, 3]])
    one_chain(tmp_path, steps[:3], "right")
    browser.open(write(tmp_path, "left", "right", id="p"), width=1400)
    boxes = browser.run(
        """return [...document.querySelectorAll('.cell[data-step]')].map(e => {
             const b = e.getBoundingClientRect();
             return [e.dataset.run, Number(e.dataset.step), b.top, b.left, b.width]; })"""
    )
    left = {k: box for run, k, *box in boxes if run == "0"}
    right = {k: box for run, k, *box in boxes if run == "1"}
    assert (len(left), len(right)) == (5, 3)
    for k, (top, x, width) in right.items():
        assert left[k][0] == top
        assert x >= left[k][1] + left[k][2]
        assert width == pytest.approx(left[k][2], abs=1)
    assert left[3][0] - left[2][0] > left[2][0] - left[1][0]  # the text made room in both columns
    bars = browser.run(
        "return [...document.querySelectorAll('#step-2 .bar')].map(e => e.getBoundingClientRect().top)"
    )
    assert bars[0] == bars[1]
    assert [e.text for e in browser.all(".row.head .letter")] == ["A", "B"]


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("runs", [1, 2])
def test_a_phone_and_a_wide_screen_scroll_in_one_direction_only(
    browser: Browser, tmp_path: Path, width: int, runs: int
) -> None:
    tokens = [" " + "long" * 30, "<b>", "数学" * 20, "x", "y"]
    row = {"question": "w" * 500, "text": "شكرا" * 100, "gold": "9" * 200, "reason": "r" * 300}
    for name in ("a", "b")[:runs]:
        one_chain(tmp_path, [step(tokens, 0.4)] * 3, name, **row)
    browser.open(write(tmp_path, *("a", "b")[:runs], id="p"), width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    cells = browser.all(".cell[data-step]")
    assert len(cells) == 3 * runs
    browser.hover(cells[-1])
    left, right, top, bottom, tall = browser.run(
        "const b = document.getElementById('tip').getBoundingClientRect();"
        "return [b.left, b.right, b.top, b.bottom, innerHeight]"
    )
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= tall
    tops = [c.rect["y"] for c in cells[:runs]]
    assert len(set(tops)) == (runs if width == 400 else 1)  # a phone has the runs one below the other


def test_what_a_model_wrote_is_text_and_nothing_else(browser: Browser, tmp_path: Path) -> None:
    text = "\n".join(NASTY)
    row = {"question": text, "gold": text, "text": text, "reason": text, "extracted": text, "prompt": text}
    one_chain(tmp_path, [step([*NASTY[i:], *NASTY[:i]], 0.05) for i in range(len(NASTY))], **row)
    fill(make_run(tmp_path / "odd", {"score": "eval"}), [sample(NASTY[0] + NASTY[1], **row)])
    for run, id in (("r", "p"), ("odd", NASTY[0] + NASTY[1])):
        path = write(tmp_path, run, id=id, words=text, notes=[text])
        browser.open(path)
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert browser.errors() == []
        assert browser.driver.title != "owned"
        assert len(browser.all("img")) == 0
        assert len(browser.all("script")) == 2
        body = browser.run("return document.querySelector('main').textContent")
        for part in ("</script>", "<img src=x", "<!--", "&lt;b&gt;", "{{data}}", "\\x1b[31m", "\\u202eevil"):
            assert part in body, part
        assert "\u202e" not in body


def test_a_chain_of_6000_steps_is_drawn_at_once_and_unfolds(browser: Browser, tmp_path: Path) -> None:
    steps = [step(["a", "b", "c", "d", "e"], 0.2 if i == 4321 else 3.0) for i in range(6000)]
    one_chain(tmp_path, steps)
    path = write(tmp_path, "r", id="p")
    assert path.stat().st_size < 1_000_000
    begin = time.monotonic()
    browser.open(path)
    assert time.monotonic() - begin < 5
    assert len(browser.all(".cell[data-step]")) == 24 + 12
    assert browser.texts(".fold span") == ["[5,964 latent steps, entropy 0.21–1.6]"]
    bars = browser.run(
        "return [...document.querySelectorAll('.strip i')].map(e => e.getBoundingClientRect().height)"
    )
    assert len(bars) == 240
    assert bars.index(max(bars)) == 4321 * 240 // 6000

    browser.all(".fold button")[0].click()
    assert len(browser.all(".cell[data-step]")) == 136
    assert browser.run("return document.activeElement.dataset.step") == "24"

    browser.all(".strip i")[bars.index(max(bars))].click()
    assert browser.run("return document.activeElement.dataset.step") == "4321"
    assert "step 4,322 · entropy 1.5" in browser.texts("#tip")[0]
    assert len(browser.all(".fold")) == 2
    numbers = browser.run("return [...document.querySelectorAll('.row[id]')].map(e => Number(e.id.slice(5)))")
    assert numbers == sorted(set(numbers))

    begin = time.monotonic()
    for fold in browser.all(".fold"):
        fold.find_elements("css selector", "button")[-1].click()
    assert browser.run("return document.querySelectorAll('.cell[data-step]').length") == 6000
    assert time.monotonic() - begin < 10
    assert browser.errors() == []


def test_the_end_of_the_shorter_of_two_chains_is_not_folded_away(browser: Browser, tmp_path: Path) -> None:
    one_chain(tmp_path, [step(["a", "b"], 1.0)] * 300, "long")
    one_chain(tmp_path, [step(["a", "b"], 1.0)] * 100, "short")
    browser.open(write(tmp_path, "long", "short", id="p"))
    assert [t[: t.index(",")] for t in browser.texts(".fold span")] == [
        "[64 latent steps",
        "[188 latent steps",
    ]
    places = browser.run(
        "return [...document.querySelectorAll('[data-run=\"1\"]')].map(e => Number(e.dataset.step))"
    )
    assert places == [*range(24), *range(88, 100)]


def test_an_arrow_key_goes_on_into_a_fold(browser: Browser, tmp_path: Path) -> None:
    one_chain(tmp_path, [step(["a", "b"], 1.0)] * 100)
    browser.open(write(tmp_path, "r", id="p"))
    browser.run("document.querySelector('#step-23 .cell').focus()")
    browser.press("ARROW_DOWN")
    assert browser.run("return document.activeElement.dataset.step") == "24"
    browser.press("END")
    assert browser.run("return document.activeElement.dataset.step") == "99"


def test_chains_without_a_trace_or_without_latent_steps_say_so(browser: Browser, tmp_path: Path) -> None:
    fill(make_run(tmp_path / "untraced", {"score": "eval"}), [wrong("p", **latent(6))])
    fill(make_run(tmp_path / "explicit", {"score": "eval"}), [sample("p", tokens=4, logp_sum=-2.0)])
    browser.open(write(tmp_path, "untraced", "explicit", id="p"))
    ends = browser.texts("#chain .end")
    assert ends[0].startswith("A: 6 latent steps, ended by fixed")
    assert ends[1] == "B: no latent steps: an explicit chain"
    assert "no trace of its latent steps is in" in browser.texts(".note")[0]
    assert "-0.50" in browser.texts(".numbers")[1]
    assert browser.errors() == []


@pytest.mark.parametrize("width", [400, 1200])
def test_a_searched_problem_shows_its_tree_and_each_answer_opens(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    searched(tmp_path)
    browser.open(write(tmp_path, "tree", id="p"), width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    limbs = browser.all(".limb")
    assert len(limbs) == 4
    said = browser.run(
        "return [...document.querySelectorAll('.limb')].map(e => "
        "['.guide', '.which', '.verdict', '.left'].map(s => e.querySelector(s)?.textContent ?? ''))"
    )
    assert said == [
        ["", "0", "✓", ""], ["├─ ", "1", "✓", "·times 0.31"], ["│  └─ ", "3", "✗", "Then 0.13"],
        ["└─ ", "2", "✗", "Then 0.20"],
    ]  # fmt: skip
    assert len(browser.all(".limb.this")) == 1
    browser.run("document.querySelectorAll('.limb')[2].querySelector('summary').click()")
    opened = browser.run("return document.querySelectorAll('.limb')[2].innerText")
    assert "Then 12 times 2 is 24." in opened
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.errors() == []

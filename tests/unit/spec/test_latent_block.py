"""The `latent` block: short forms, how it merges, who reads it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.spec import catalog
from latentctl.spec.base import Spec
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.latent import LatentSpec, Markers, SoftInput
from latentctl.spec.methods import METHODS
from latentctl.spec.short_forms import NULL_SAYS
from latentctl.spec.stage import StageBase

EVAL = HEAD + "method: eval\n"


def latents(recipes: Recipes, text: str, *sets: str) -> list[dict[str, Any] | None]:
    """The settled latent block of each stage, without what is unsaid."""
    found = recipes.point(text, *sets).experiment.stages
    return [s.latent.model_dump(exclude_none=True, exclude_unset=True) if s.latent else None for s in found]


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("{input: hidden}", "{input: {kind: hidden}}"),
        ("{input: soft, stop: 6}", "{input: {kind: soft}, stop: {fixed: 6}}"),
        ("{markers: think}", '{markers: {start: "<think>", end: "</think>"}}'),
        ("{markers: coconut}", '{markers: {start: "<|start-latent|>", end: "<|end-latent|>"}}'),
    ],
)
def test_short_forms(recipes: Recipes, short: str, whole: str) -> None:
    one, other = (recipes.point(f"{EVAL}latent: {t}\n").experiment.stages[0].latent for t in (short, whole))
    assert one == other


MERGES = [
    ("{input: {kind: soft, top_p: 0.9}}", "{input: hidden}", {"input": {"kind": "hidden"}}),
    ("{input: {kind: soft, top_p: 0.9}}", "{input: {kind: hidden}}", {"input": {"kind": "hidden"}}),
    (
        "{input: {kind: soft, top_p: 0.9}}",
        "{input: {kind: soft, temperature: 0.6}}",
        {"input": {"kind": "soft", "top_p": 0.9, "temperature": 0.6}},
    ),
    ("{input: soft}", "{input: {top_p: 0.9}}", {"input": {"kind": "soft", "top_p": 0.9}}),
    ("{input: {kind: soft, top_p: 0.9}}", "{input: {top_p: null}}", {"input": {"kind": "soft"}}),
    (
        "{input: soft}",
        "{input: {kind: contextual, window: 2}}",
        {"input": {"kind": "contextual", "window": 2}},
    ),
    (
        "{input: soft, noise: {kind: gaussian, strength: 0.1}}",
        "{noise: {kind: concrete}}",
        {"input": {"kind": "soft"}, "noise": {"kind": "concrete"}},
    ),
    ("{stop: 6}", "{stop: 4}", {"stop": {"fixed": 4}}),
    ("{stop: 6}", "{stop: {max_len: 9}}", {"stop": {"fixed": 6, "max_len": 9}}),
    ("{stop: {end_marker: true, max_len: 9}}", "{stop: 4}", {"stop": {"fixed": 4}}),
    (
        "{stop: {entropy: {threshold: 0.1, patience: 9}, max_len: 9}}",
        "{stop: {entropy: {threshold: 0.2}}}",
        {"stop": {"entropy": {"threshold": 0.2, "patience": 9}, "max_len": 9}},
    ),
    ("{markers: coconut}", '{markers: {end: ">>"}}', {"markers": {"start": "<|start-latent|>", "end": ">>"}}),
    (
        '{markers: {start: "<<", end: ">>"}}',
        "{markers: think}",
        {"markers": {"start": "<think>", "end": "</think>"}},
    ),
    ("{input: soft, stop: 6}", "{stop: null}", {"input": {"kind": "soft"}}),
    ("{input: soft}", "null", None),
]


@pytest.mark.parametrize(("top", "stage", "expected"), MERGES, ids=[f"{a} {b}" for a, b, _ in MERGES])
def test_a_stage_over_the_top(recipes: Recipes, top: str, stage: str, expected: Any) -> None:
    (found,) = latents(recipes, f"{HEAD}latent: {top}\nstages:\n- {{method: eval, latent: {stage}}}\n")
    assert found == expected


def test_options_and_sweeps_reach_into_short_forms(recipes: Recipes) -> None:
    text = EVAL + "latent: {input: soft, stop: 6}\n"
    (found,) = latents(recipes, text, "latent.input.top_p=0.9", "latent.stop.max_len=7")
    assert found == {"input": {"kind": "soft", "top_p": 0.9}, "stop": {"fixed": 6, "max_len": 7}}
    (found,) = latents(recipes, EVAL + "latent: {input: {kind: soft, top_p: 0.9}}\n", "latent.input=hidden")
    assert found == {"input": {"kind": "hidden"}}
    sweep = "latent: {input: soft, stop: {entropy: {threshold: 1}, max_len: 9}}\n"
    sweep += "sweep: {grid: {latent.stop.entropy.threshold: [0.01, 0.2], latent.input: [soft, hidden]}}\n"
    points = recipes.load(EVAL + sweep).points
    got = [s.latent for p in points for s in p.experiment.stages]
    assert [(g.stop.entropy.threshold, g.input.kind) for g in got] == [  # pyright: ignore
        (0.01, "soft"),
        (0.01, "hidden"),
        (0.2, "soft"),
        (0.2, "hidden"),
    ]


def test_a_short_form_is_where_its_key_was_written(recipes: Recipes) -> None:
    provenance = recipes.point(EVAL + "latent: {input: soft, stop: 6, markers: think}\n").provenance
    for key, place in (
        ("input.kind", "r.yaml:4:17"),
        ("stop.fixed", "r.yaml:4:29"),
        ("markers.start", "r.yaml:4:41"),
        ("input.top_p", "default"),
        ("stop.end_marker", "default"),
    ):
        assert provenance[f"stages.eval.latent.{key}"] == place


def test_only_methods_that_read_it_get_what_stands_at_the_top(recipes: Recipes) -> None:
    found = latents(recipes, HEAD + "latent: {input: soft, stop: 6}\nstages: [sft, eval, calibrate]\n")
    assert [f is not None for f in found] == [False, True, True]


WRONG = [
    ("{input: sotf}", "4:17: latent.input: 'sotf': expected one of soft, hidden, contextual, pause, non"),
    ("{input: {kind: softt}}", "4:24: latent.input.kind: 'softt': expected one of soft, hidden, context"),
    ("{input: {kind: 3}}", "4:24: latent.input.kind: 3: expected one of soft,"),
    ("{input: {top_p: 0.9}}", "4:17: latent.input.kind: missing\nhint: "),
    ("{input: 3}", "4:17: latent.input: 3: expected one of soft, hidden, contextual, pause, none or a m"),
    ("{input: [soft]}", "4:17: latent.input: a list of 1: expected one of soft,"),
    ("{input: {kind: soft, topp: 3}}", "4:30: latent.input.topp: unknown key\nhint: did you mean top_p?"),
    ("{inptu: soft}", "4:10: latent.inptu: unknown key\nhint: did you mean input?"),
    (
        "{input: {kind: soft, window: 3}}",
        "4:30: latent.input.window: does nothing: the kind soft has no such setting\nhint: it belongs to",
    ),
    ("{input: {kind: hidden, top_p: 0.5}}", "4:32: latent.input.top_p: does nothing: the kind hidden ha"),
    ("{input: {kind: soft, top_p: 3}}", "4:37: latent.input.top_p: 3: expected a number above 0 and at "),
    ("{input: {kind: soft, top_k: 50}}", "4:30: latent.input: top_k (50) keeps more tokens than the 30 "),
    ("{input: {kind: contextual, weights: [1, 2]}}", "4:36: latent.input: 2 weights for a window of 3"),
    ("{input: {kind: contextual, weights: [0, 0, 0]}}", "the weights sum to 0"),
    ("{input: {kind: contextual, weights: [1, a, 2]}}", "4:49: latent.input.weights.1: 'a': wrong in a "),
    ("{input: {kind: contextual, weights: linear}}", "'linear': expected a list of numbers of at least "),
    ("{input: {kind: contextual, weights: learned}}", "4:36: latent.input.weights: nothing is learned h"),
    ("{markers: thinkk}", "4:19: latent.markers: 'thinkk': expected one of think, coconut or a map with"),
    ("{markers: {begin: a}}", "4:20: latent.markers.begin: unknown key\nhint: known here: end, start"),
    ("{markers: {start: ''}}", "an empty text is not allowed"),
    ("{start: prompts}", "4:17: latent.start: 'prompts': expected one of prompt, model\nhint: did you m"),
    ("{stop: x}", "4:16: latent.stop: 'x': expected a whole number of at least 0 or a map with some of "),
    ("{stop: -1}", "4:16: latent.stop: -1: expected a whole number of at least 0"),
    ("{stop: true}", "4:16: latent.stop: true: expected a whole number of at least 0"),
    ("{stop: {end_marker: true}}", "4:16: latent.stop: give max_len: the hard cap, in latent steps"),
    ("{stop: {fixed: 6, max_len: 5}}", "max_len (5) is below fixed (6)"),
    ("{stop: {fixed: 6, per_step: {}}}", "fixed and per_step are two counts: give one"),
    ("{stop: {entropy: 0.1, max_len: 9}}", "4:26: latent.stop.entropy: 0.1: expected a map with some of"),
    ("{stop: {entropy: {threshold: 0}, max_len: 9}}", "4:38: latent.stop.entropy.threshold: 0: expected"),
    ("{stop: {entropy: {threshold: 1, on: inputs}, max_len: 9}}", "expected one of input, model\nhint: "),
    ("{stop: {end_marker: true, max_len: 256}}", "4:35: latent.stop.max_len: up to 256 latent steps lea"),
    ("{stop: 300}", "4:10: latent.stop: up to 300 latent steps leave no room for text"),
    ("{noise: gaussian}", "4:17: latent.noise: 'gaussian': expected a map with a kind: one of gaussian,"),
    ("{noise: {kind: gauss}}", "4:24: latent.noise.kind: 'gauss': expected one of gaussian,"),
    ("{noise: {strength: 0.1}}", "latent.noise.kind: missing"),
    ("{noise: {kind: concrete, strength: 1}}", "4:34: latent.noise.strength: does nothing: the kind con"),
    ("{input: hidden, noise: {kind: concrete}}", "4:25: latent: concrete noise does nothing to the inpu"),
    ("{input: pause, noise: {kind: gaussian}}", "gaussian noise does nothing to the input pause"),
    ("soft", "4:9: latent: 'soft': expected a map with some of the keys input, markers, noise, start, s"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[t for t, _ in WRONG])
def test_one_clear_error_for_each_mistake(recipes: Recipes, text: str, expected: str) -> None:
    (line,) = recipes.lines(f"{EVAL}latent: {text}\n")
    assert line.startswith("r.yaml:4:")
    assert expected in line


def test_a_mistake_under_a_stage_and_in_an_option_is_placed(recipes: Recipes) -> None:
    text = HEAD + "latent: {input: soft}\nstages:\n- {method: eval, latent: {input: {window: 2}}}\n"
    (line,) = recipes.lines(text)
    assert line.startswith("r.yaml:5:35: stages.eval.latent.input.window: does nothing: the kind soft has no")
    (line,) = recipes.lines(EVAL + "latent: {input: soft}\n", "latent.input.kind=softt")
    assert line.startswith("--set latent.input.kind: 'softt': expected one of soft, hidden")
    (line,) = recipes.lines(EVAL, "latent.input=sotf")
    assert line.startswith("--set latent.input: 'sotf': expected one of soft, hidden")


TOGETHER = [
    ("method: sft\nlatent: {input: soft}", "r.yaml:4:1: latent: does nothing: there is no stage that re"),
    ("stages:\n- {method: sft, latent: {}}", "latent: does nothing in a stage of the method sft"),
    ("method: coconut\nlatent: {input: none}", "r.yaml:4:10: latent.input: takes no latent steps, and"),
    ("method: coconut\nlatent: {noise: {kind: gaussian}}", "r.yaml:4:10: latent.noise: does nothing in "),
    ("latent: {noise: {kind: gaussian}}\nstages: [coconut]", "r.yaml:3:10: latent.noise: does nothing i"),
    (
        "method: coconut\nlatent: {input: pause}\ncoconut: {schedule: jacobi, sweeps: 3}",
        "r.yaml:5:11: coconut.schedule: does nothing to the input pause",
    ),
    (
        "method: coconut\ncoconut: {variant: cot}\nlatent: {input: pause}",
        "r.yaml:5:1: latent: does nothing in the variant cot: it takes no latent steps",
    ),
    (
        "method: coconut\ncoconut: {count: difficulty, difficulty: {max: 8}}",
        "r.yaml:4:11: coconut.count: an evaluation cannot know a problem's difficulty",
    ),
    ("method: coconut\ncoconut: {count: difficulty}", "difficulty belongs to count: difficulty: give bo"),
    ("method: coconut\ncoconut: {sweeps: 3}", "sweeps belongs to schedule: jacobi: give both or neither"),
    (
        "method: coconut\ncoconut: {count: per_example, pad_latent_to_max: true}",
        "pad_latent_to_max belongs to count: scheduled, not per_example",
    ),
    ("method: coconut\ncoconut: {overflow: truncate}", "overflow belongs to count: per_example, not sch"),
    ("method: coconut\ncoconut: {variant: cot, dynamic: true}", "dynamic does nothing in the variant cot"),
    (
        "method: coconut\ncoconut: {variant: no_thoughts, schedule: jacobi, sweeps: 2}",
        "schedule does nothing in the variant no_thoughts",
    ),
    (
        "method: coconut\ntrain: {gradient_checkpointing: true}",
        "r.yaml:4:9: train.gradient_checkpointing: latent steps read the cache of earlier positions",
    ),
    (
        "method: eval\nlatent: {input: soft, stop: 3}\nsampling: {max_think_tokens: 9}",
        "r.yaml:5:12: sampling.max_think_tokens: bounds reasoning in words, and here it is latent",
    ),
    ("method: calibrate\ncalibrate: {thresholds: [1, 0.5]}", "0.5 stands after 1: thresholds rise, each"),
    ("method: calibrate\ncalibrate: {thresholds: [0.5, 0.5]}", "0.5 stands after 0.5: thresholds rise"),
    ("method: calibrate\ncalibrate: {thresholds: [0, 0.5]}", "thresholds.0: 0: wrong in a list of numbe"),
    ("method: calibrate\ncalibrate: {thresholds: []}", "a list of 0: expected at least 1 items"),
    ("method: calibrate\ncalibrate: {target_ratio: 5}", "5: expected a number above 0 and below 1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), TOGETHER, ids=[t[-50:] for t, _ in TOGETHER])
def test_what_cannot_stand_together(recipes: Recipes, text: str, expected: str) -> None:
    (line,) = recipes.lines(f"{HEAD}{text}\n")
    assert expected in line


TINY = "model: {init: {}}\ndataset: gsm8k\n"
UNSETTLED = [
    (
        HEAD + "stages:\n- sft\n- {method: eval, latent: {markers: think}}\n",
        "r.yaml:5:18: stages.eval.latent: neither this stage nor its checkpoint says which kind",
    ),
    (
        HEAD + "latent: {input: soft}\nstages: [sft, eval]\n",
        "r.yaml:3:1: latent: neither this stage nor its checkpoint says when a latent span ends",
    ),
    (
        HEAD + "latent: {stop: 3}\nstages:\n- {method: coconut, coconut: {variant: cot}}\n- eval\n",
        "which kind",
    ),
    (TINY + "method: eval\nlatent: {stop: 3}\n", "hint: add latent.input, such as soft; or latent: null"),
    (
        TINY + "method: calibrate\nlatent: {input: hidden}\n",
        "hint: add latent.stop, such as 6; or latent: null",
    ),
]


@pytest.mark.parametrize(("text", "expected"), UNSETTLED, ids=[t[-50:] for t, _ in UNSETTLED])
def test_latent_steps_that_nobody_describes(recipes: Recipes, text: str, expected: str) -> None:
    (line,) = recipes.lines(text)
    assert expected in line


GOOD = [
    "method: coconut\ncoconut: {count: difficulty, difficulty: {max: 8}, dynamic: true}",
    "method: coconut\ncoconut: {count: difficulty, difficulty: {max: 8}}\nlatent: {stop: 4}",
    "method: coconut\nlatent: {input: pause}\ntrain: {gradient_checkpointing: true}",
    "method: coconut\nlatent: {input: {kind: contextual, weights: learned}}\ncoconut: {eval_each: true}",
    "latent: {noise: {kind: gaussian}}\nstages: [coconut, eval]",
    "method: coconut\nlatent: {input: {kind: soft, top_k: 8}}",
    "latent: {input: soft}\nstages:\n- {method: coconut, latent: {input: hidden}}\n- {method: eval, name: b}",
    "method: eval\nlatent: {stop: {end_marker: true, max_len: 255}}",
    "method: eval\nlatent: {input: {kind: soft, top_k: 50, max_topk: null}}",
    "method: coconut\nlatent: null",
    "latent: {stop: 3}\nstages: [coconut, eval]",
    "method: eval\nlatent: {stop: 3}",
    "latent: {input: hidden}\nstages: [sft, {method: eval, latent: null}, coconut, {method: eval, name: b}]",
    "latent: {input: none}\nstages: [sft, eval]",
    "method: eval\nlatent: {input: none}\nsampling: {max_think_tokens: 9}",
]


@pytest.mark.parametrize("text", GOOD, ids=[t[-50:] for t in GOOD])
def test_what_can(recipes: Recipes, text: str) -> None:
    assert recipes.load(f"{HEAD}{text}\n").points


def test_null_is_said_where_it_means_something(recipes: Recipes) -> None:
    text = HEAD + "latent: {input: soft, stop: 3}\n"
    for more, sets in (
        ("method: eval\n", ["latent.input.max_topk=null"]),
        ("stages:\n- {method: eval, latent: {input: {max_topk: null}}}\n", []),
        ("method: coconut\n", ["latent=null", "coconut.eval_each.latent.input={kind: soft, max_topk: null}"]),
    ):
        found = recipes.point(text + more, *sets).experiment.stages[-1].latent
        assert found is not None
        assert found.input == SoftInput(max_topk=None)
    for said, value in (("null", None), ("'>>'", ">>")):
        (first, *_) = recipes.point(
            f"{HEAD}method: coconut\ncoconut: {{marker_init: {said}}}\n"
        ).experiment.stages
        assert first.settings.model_dump()["marker_init"] == value


def test_every_default_that_null_may_replace_is_known() -> None:
    def nullable(model: type[Spec], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for key, info in catalog.keys(model).items():
            default = info.get_default(call_default_factory=True)
            if not info.is_required() and default is not None and type(None) in get_args(info.annotation):
                yield (*path, key)
            for below in catalog.submodels(info.annotation):
                yield from nullable(below, (*path, key))

    blocks = [(StageBase, ()), (ClusterProfile, ())]
    blocks += [(settings, (name,)) for name, settings in METHODS.items()]
    assert {path for model, at in blocks for path in nullable(model, at)} == set(NULL_SAYS)


def test_the_models_themselves_take_short_forms() -> None:
    spec = LatentSpec.model_validate({"input": "soft", "stop": 3, "markers": "think"})
    assert isinstance(spec.input, SoftInput)
    assert spec.markers == Markers(start="<think>", end="</think>")
    assert LatentSpec.model_validate(spec.model_dump(mode="json")) == spec

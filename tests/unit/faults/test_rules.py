"""Rules for failures against logs in the form that crashes really leave, and what a profile may change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from latentctl.faults.load import files, resolved, shipped
from latentctl.faults.policy import decide
from latentctl.faults.rules import ACTIONS, Rules
from latentctl.spec.faults import FaultsSpec

LOGS = sorted((Path(__file__).parents[2] / "fixtures" / "crash_logs").glob("*.log"))
NOISE = [
    "sft  20/2000  1.4 it/s  loss 2.31  lr 1e-05",
    "FutureWarning: `torch.cuda.amp` is deprecated, and warnings of an error: none",
    "note: 3 of 7,473 rows are longer than train.max_len and left out",
    "checkpoint of step 100 committed in 3.1 s",
]


@pytest.mark.parametrize("log", LOGS, ids=lambda p: p.name)
def test_a_log_is_known_by_the_rule_that_its_name_begins_with(log: Path) -> None:
    match = resolved(None).match([*NOISE, *log.read_text().splitlines(), *NOISE])
    assert match is not None
    assert match.rule.name == log.name.split(".")[0], match


def test_every_shipped_rule_has_a_log() -> None:
    assert {rule.name for rule in shipped()} == {log.name.split(".")[0] for log in LOGS}
    assert len(files()) >= 7


def test_a_log_without_a_failure_fires_nothing() -> None:
    assert resolved(None).match(NOISE) is None


def test_shipped_rules_are_whole() -> None:
    names = [rule.name for rule in shipped()]
    assert len(set(names)) == len(names)
    for rule in shipped():
        assert rule.action in ACTIONS
        assert rule.kind != "user_error" or rule.action == "stop"
        assert re.fullmatch(r"\d\d-[a-z]+\.yaml", rule.source)


def test_they_survive_the_way_through_a_file(tmp_path: Path) -> None:
    rules = resolved(FaultsSpec().model_dump())
    rules.save(tmp_path / "faults.json")
    back = Rules.load(tmp_path / "faults.json")
    assert [r.dump() for r in back] == [r.dump() for r in rules]
    assert (back.retries, back.exclude_s) == (3, 43200)


def test_a_profile_has_its_own_rules_first_and_its_own_actions() -> None:
    said = FaultsSpec.model_validate(
        {
            "retries": 1,
            "rules": [{"name": "lustre", "class": "disk", "patterns": ["No space left on device.*OST"],
                       "action": "requeue"}],
            "actions": {"host_oom": "requeue", "nccl": "requeue_elsewhere"},
        }
    ).model_dump()  # fmt: skip
    rules = resolved(said, source="profile x")
    match = rules.match(["OSError: [Errno 28] No space left on device (OST0007)"])
    assert match is not None
    assert (match.rule.name, match.rule.source) == ("lustre", "profile x")
    actions = {rule.name: rule.action for rule in rules}
    assert actions["host_oom"] == "requeue"
    assert actions["cuda_oom"] == "smaller_micro_batch"
    assert {r.action for r in rules if r.kind == "nccl"} == {"requeue_elsewhere"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"actions": {"nothing": "stop"}}, "there is no rule and no class 'nothing'"),
        ({"actions": {"hub_refused": "requeue"}}, "never tried again"),
        ({"actions": {"user_error": "requeue"}}, "never tried again"),
        ({"actions": {"nccl": "again"}}, "requeue_elsewhere"),
        ({"rules": [{"name": "x", "class": "y", "patterns": ["("]}]}, "no regular expression"),
        ({"rules": [{"name": "x", "class": "y", "patterns": []}]}, "patterns"),
        (
            {"rules": [{"name": "x", "class": "user_error", "patterns": ["x"], "action": "requeue"}]},
            "never tried again",
        ),
        ({"retries": -1}, "retries"),
    ],
)
def test_what_a_profile_may_not_say(said: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        FaultsSpec.model_validate(said)


@pytest.mark.parametrize(
    ("before", "wait", "words"),
    [
        (0, 60, "in 60 s (retry 1 of 9)"),
        (2, 240, "in 240 s (retry 3 of 9)"),
        (8, 1800, "in 1800 s (retry 9 of 9)"),
    ],
)
def test_a_busy_server_is_left_alone_for_longer_each_time(before: int, wait: float, words: str) -> None:
    rules = resolved({"retries": 9})
    line = "HfHubHTTPError: 429 Client Error: Too Many Requests for url: https://huggingface.co/x"
    decision = decide(rules, kind="data", rule=None, lines=[line], before=before)
    assert (decision.rule and decision.rule.name, decision.wait) == ("hub_busy", wait)
    assert decision.words == f"started again {words}"


def test_what_is_not_tried_again_waits_for_nothing() -> None:
    rules = resolved({"retries": 1})
    assert decide(rules, kind="data", rule="hub_busy", lines=[], before=1).wait == 0
    assert decide(rules, kind="killed", rule="killed", lines=[], before=0).wait == 0

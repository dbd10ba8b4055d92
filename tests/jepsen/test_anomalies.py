"""Each hand-made history names exactly the anomalies that its own heading says, by our rules and by Jepsen's."""

from pathlib import Path

import pytest

from jepsen.check import settle
from jepsen.checkers import judge
from jepsen.checkers.verdict import Rules
from jepsen.history import load
from tests.jepsen.judging import HISTORIES, expectations

ANOMALIES = {
    *("inconsistent-offsets", "duplicate", "G1a", "lost-write", "unseen", "precommitted-read"),
    *("int-poll-skip", "int-nonmonotonic-poll", "poll-skip", "nonmonotonic-poll"),
    *("nonmonotonic-send", "int-nonmonotonic-send", "int-send-skip"),
    *("G0", "G0-process", "G0-realtime", "G1c", "G1c-process", "G1c-realtime"),
    *("made-up-offset", "invented", "unequal-logs"),
    *("group-offset-backwards", "group-start-past-unread", "group-commit-past-unread"),
    *("lost-message", "acked-twice", "redelivered-after-ack", "lock-overlap", "nonlinearizable"),
}

FILES = sorted(HISTORIES.glob("*.edn"))


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def rules_for(path: Path, *, jepsen_rules: bool) -> tuple[str, Rules]:
    options = expectations(path).get("options", [])
    return settle(path, option(options, "--workload"), option(options, "--sub-via"), jepsen_rules=jepsen_rules)


CASES = [
    pytest.param(path, jepsen_rules, id=f"{path.stem}-{'jepsen' if jepsen_rules else 'ours'}")
    for path in FILES
    for jepsen_rules in (False, True)
    if not jepsen_rules or rules_for(path, jepsen_rules=True)[0] == "log"  # Jepsen has no rules for the others
]


@pytest.mark.parametrize(("path", "jepsen_rules"), CASES)
def test_a_history_is_judged_as_it_says(path: Path, jepsen_rules: bool) -> None:
    expected = expectations(path)
    workload, rules = rules_for(path, jepsen_rules=jepsen_rules)
    prefix = "jepsen " if jepsen_rules and "jepsen bad" in expected else ""
    verdict = judge(load(path), workload, rules)
    assert verdict.bad == sorted(expected[f"{prefix}bad"])
    assert verdict.allowed == sorted(expected[f"{prefix}allowed"])
    assert verdict.valid is (not expected[f"{prefix}bad"])
    assert sorted(verdict.anomalies) == sorted(verdict.bad + verdict.allowed)
    assert all(verdict.anomalies.values())


def test_every_anomaly_has_a_history_that_is_named_for_it() -> None:
    shown = {name for path in FILES for name in expectations(path)["bad"] + expectations(path)["allowed"]}
    assert shown == ANOMALIES
    stems = {path.stem.removeprefix("queue-") for path in FILES}
    assert ANOMALIES - stems == {"nonlinearizable"}


def test_valid_histories_are_among_them() -> None:
    assert sum(not expectations(path)["bad"] + expectations(path)["allowed"] for path in FILES) >= 10

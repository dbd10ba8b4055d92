"""Checkers: pure functions from a history to what is wrong with it.

`WORKLOADS` names them; `judge` runs one and says which of its findings are bad. A checker raises NotJudgeable when the
history does not hold what it needs, and adds to `Findings.unknown` what it could not settle within its bounds.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jepsen.checkers import churn, groups, log, queue, register
from jepsen.checkers.verdict import Findings, Rules, Verdict, verdict_of
from jepsen.history import History

Checker = Callable[[History, Rules], Findings]

WORKLOADS: Mapping[str, Checker] = MappingProxyType(
    {
        "log": log.check,
        "txn": log.check,
        "groups": groups.check,
        "queue": queue.check,
        "register": register.check,
        "churn": churn.check,
    }
)


def judge(history: History, workload: str, rules: Rules) -> Verdict:
    """The verdict on `history` as a run of `workload`, one of WORKLOADS. Raises NotJudgeable."""
    return verdict_of(WORKLOADS[workload](history, rules))

"""The `groups` workload: consumer groups that commit. Judged as a log read by subscription, and by `log.groups`."""

import msgspec

from jepsen.checkers import log
from jepsen.checkers.verdict import Findings, NotJudgeable, Rules
from jepsen.history import History


def check(history: History, rules: Rules) -> Findings:
    """Raises NotJudgeable."""
    if not any(op.f == "commit" and op.type == "ok" and "group" in op.extra and op.value for op in history.ops):
        raise NotJudgeable("no :commit of an offset, with a :group, ended ok: there is nothing to judge of groups")
    return log.check(history, msgspec.structs.replace(rules, sub_via="subscribe"))

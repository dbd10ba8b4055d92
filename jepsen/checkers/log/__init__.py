"""The log: what was sent is read by everybody, once, unchanged, in one order.

The anomalies are those of Jepsen's Kafka workload, with the stricter rules of this project: see each family's module.
`Rules.jepsen` judges as Jepsen does and leaves out what only this project looks for.
"""

from jepsen.checkers.log import aborted, cycles, groups, lost, nodes, offsets, polls, sends
from jepsen.checkers.log.observed import Observed
from jepsen.checkers.verdict import Findings, Rules
from jepsen.history import History


def check(history: History, rules: Rules) -> Findings:
    """Raises NotJudgeable."""
    findings = Findings()
    observed = Observed(history)
    offsets.check(observed, findings)
    aborted.check(observed, findings)
    aborted.check_invented(observed, findings)
    lost.check(observed, findings)
    lost.check_unseen(observed, findings)
    polls.check(observed, rules, findings)
    sends.check(observed, rules, findings)
    cycles.check(observed, rules, findings)
    findings.allow("int-send-skip")
    if rules.sub_via == "subscribe":
        findings.allow("poll-skip", "nonmonotonic-poll")
    if not rules.jepsen:
        offsets.check_made_up(observed, findings)
        nodes.check(observed, findings)
        groups.check(observed, findings)
    return findings

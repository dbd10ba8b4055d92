"""Values that should not have been there to read.

- G1a, aborted read: an ok poll saw a value whose send failed.
- invented (ours): a poll saw a value that nobody sent. Jepsen's checker gives up on such a history.
"""

from jepsen.checkers.log.observed import Observed
from jepsen.checkers.verdict import Findings


def check(observed: Observed, findings: Findings) -> None:
    seen = {
        key: observed.failed.get(key, set()) & values
        for key, values in observed.read_ok.items()
        if not observed.failed.get(key, set()).isdisjoint(values)
    }
    if not seen:
        return
    for op in observed.micro_ops():
        if op.type == "ok":
            for key, _, values in op.reads:
                for value in values:
                    if value in seen.get(key, ()):
                        findings.add("G1a", key=key, value=value, writer=observed.writer[key][value], reader=op)


def check_invented(observed: Observed, findings: Findings) -> None:
    for key, order in observed.orders.items():
        written = observed.writer.get(key, {})
        if written.keys() >= order.index_of.keys() and not order.conflicts:
            continue
        for index, offset in enumerate(order.offsets):
            for value in order.values_at(index):
                if value not in written:
                    findings.add("invented", key=key, offset=offset, value=value)

"""The order in which a process sent, against the order in which its records stand.

- nonmonotonic-send, int-nonmonotonic-send: sends of one process to a key not ascending, across operations or within
  one.
- int-send-skip: sends of one operation to a key more than one apart. Transactions interleave, so that is allowed.

Across operations, the last send whose place is known counts; what fails was not sent. Jepsen remembers only the very
last send, and forgets it when the process assigns or subscribes to other keys.
"""

from itertools import pairwise

from jepsen.checkers.log.observed import Observed, Order
from jepsen.checkers.log.polls import keys_of, skipped
from jepsen.checkers.verdict import Findings, Rules
from jepsen.history import MICRO_OPS, Op

Last = dict[object, tuple[int | None, object, Op]]
"""key -> index (None if unknown), value and operation of the last send."""


def check(observed: Observed, rules: Rules, findings: Findings) -> None:
    last_of: dict[int, Last] = {}
    for op in observed.ops:
        if op.f in MICRO_OPS:
            if op.sends:
                sent = _by_key(op)
                if len(op.sends) > len(sent):
                    _within(observed, op, sent, findings)
                if op.type != "fail":
                    _across(observed, op, sent, last_of.setdefault(op.process, {}), rules, findings)
        elif rules.jepsen and op.f in ("assign", "subscribe") and op.type in ("ok", "info"):
            kept = keys_of(op)
            last_of[op.process] = {key: held for key, held in last_of.get(op.process, {}).items() if key in kept}


def _by_key(op: Op) -> dict[object, list[object]]:
    if len(op.sends) == 1:
        ((key, _, value),) = op.sends
        return {key: [value]}
    sent: dict[object, list[object]] = {}
    for key, _, value in op.sends:
        sent.setdefault(key, []).append(value)
    return sent


def _within(observed: Observed, op: Op, sent: dict[object, list[object]], findings: Findings) -> None:
    for key, values in sent.items():
        order = observed.orders.get(key)
        if order is None:
            continue
        for value, following in pairwise(values):
            before, after = order.index_of.get(value), order.index_of.get(following)
            if before is None or after is None or after == before + 1:
                continue
            delta, pair = after - before, [value, following]
            if delta > 1:
                between = skipped(order, before, after)
                findings.add("int-send-skip", key=key, values=pair, delta=delta, skipped=between, op=op)
            else:
                findings.add("int-nonmonotonic-send", key=key, values=pair, delta=delta, op=op)


def _across(
    observed: Observed, op: Op, sent: dict[object, list[object]], last: Last, rules: Rules, findings: Findings
) -> None:
    for key, values in sent.items():
        order = observed.orders.get(key)
        if order is None:
            continue
        first, final = (values[0], values[-1]) if rules.jepsen else _placed(order, values)
        index = order.index_of.get(first)
        previous = last.get(key)
        if previous is not None and previous[0] is not None and index is not None and index <= previous[0]:
            findings.add(
                "nonmonotonic-send",
                key=key,
                values=[previous[1], first],
                delta=index - previous[0],
                ops=[previous[2], op],
            )
        if index is not None or rules.jepsen:
            last[key] = (order.index_of.get(final), final, op)


def _placed(order: Order, values: list[object]) -> tuple[object, object]:
    """The first and the last of `values` whose place is known; of none, the first and last."""
    known = [value for value in values if value in order.index_of] if len(values) > 1 else values
    return (known[0], known[-1]) if known else (values[0], values[-1])

"""The order in which records were read, against the order in which they stand.

- int-poll-skip, int-nonmonotonic-poll: within one operation, two consecutive reads of a key more than one apart, or not
  ascending; keys in the operation's rebalance log excepted.
- poll-skip, nonmonotonic-poll: the same between the last read of a key in a process's previous ok operation that read
  it and the first of this one; assign and subscribe forget only the keys they drop.
- precommitted-read: an operation polls its own send.
"""

from collections.abc import Mapping

from jepsen.checkers.log.observed import Observed, Order
from jepsen.checkers.verdict import Findings, Rules
from jepsen.history import MICRO_OPS, Op
from jepsen.microops import Reads

SKIPPED_SHOWN_MAX = 10

Last = dict[object, tuple[int | None, object, Op]]
"""key -> index (None if unknown), value and operation of the last read."""


def check(observed: Observed, rules: Rules, findings: Findings) -> None:
    last_of: dict[int, Last] = {}
    for op in observed.ops:
        if op.f in MICRO_OPS:
            if op.reads:
                _read(observed, op, last_of.setdefault(op.process, {}), rules, findings)
                if op.sends:
                    _precommitted(op, findings)
        elif op.f in ("assign", "subscribe") and op.type in ("ok", "info"):
            kept = keys_of(op)
            last = last_of.get(op.process, {})
            last_of[op.process] = {key: held for key, held in last.items() if key in kept}


def keys_of(op: Op) -> frozenset[object]:
    """The keys that an assign or subscribe asks for."""
    return frozenset(op.value) if isinstance(op.value, (tuple, frozenset)) else frozenset()


def rebalanced_keys(op: Op) -> frozenset[object]:
    """The keys in an operation's `:rebalance-log`."""
    log = op.extra.get("rebalance-log")
    found: set[object] = set()
    for entry in log if isinstance(log, tuple) else ():
        if isinstance(entry, Mapping):
            for name, keys in entry.items():
                if getattr(name, "name", name) == "keys" and isinstance(keys, (tuple, frozenset)):
                    found.update(keys)
    return frozenset(found)


def _read(observed: Observed, op: Op, last: Last, rules: Rules, findings: Findings) -> None:
    moved: Last = {}
    excepted = rebalanced_keys(op) if op.extra else frozenset()
    for key, _, values in op.reads:
        order = observed.orders.get(key)
        if not values or order is None:
            if rules.jepsen:
                moved[key] = (None, None, op)  # Jepsen forgets where a process was when a poll of the key is empty
            continue
        first, final = order.index_of.get(values[0]), order.index_of.get(values[-1])
        if len(values) > 1 and key not in excepted and not order.follow_each_other(values):
            _within(op, key, order, values, findings)
        previous = last.get(key)
        if previous is not None and previous[0] is not None and first is not None and first != previous[0] + 1:
            _between(previous, op, key, order, first, values[0], findings)
        if final is not None or rules.jepsen:
            moved[key] = (final, values[-1], op)
    if op.type == "ok":
        last.update(moved)


def _within(op: Op, key: object, order: Order, values: list[object], findings: Findings) -> None:
    indexes = list(map(order.index_of.get, values))
    for place in range(1, len(indexes)):
        before, after = indexes[place - 1], indexes[place]
        if before is None or after is None or after == before + 1:
            continue
        pair = values[place - 1 : place + 1]
        if after > before:
            findings.add(
                "int-poll-skip",
                key=key,
                values=pair,
                delta=after - before,
                skipped=skipped(order, before, after),
                op=op,
            )
        else:
            findings.add("int-nonmonotonic-poll", key=key, values=pair, delta=after - before, op=op)


def _between(
    previous: tuple[int | None, object, Op],
    op: Op,
    key: object,
    order: Order,
    first: int,
    value: object,
    findings: Findings,
) -> None:
    index, last_value, last_op = previous
    assert index is not None
    if first > index:
        between = skipped(order, index, first)
        findings.add("poll-skip", key=key, delta=first - index, skipped=between, ops=[last_op, op])
    else:
        findings.add("nonmonotonic-poll", key=key, values=[last_value, value], delta=first - index, ops=[last_op, op])


def skipped(order: Order, before: int, after: int) -> list[object]:
    """The first few values between two indexes."""
    return order.values[before + 1 : min(after, before + 1 + SKIPPED_SHOWN_MAX)]


def _precommitted(op: Op, findings: Findings) -> None:
    read = _values_by_key(op.reads)
    for key, _, value in op.sends:
        if value in read.get(key, ()):
            findings.add("precommitted-read", key=key, value=value, op=op)


def _values_by_key(reads: Reads) -> dict[object, list[object]]:
    return {key: values for key, _, values in reads}

"""Per-node equality of the final logs (ours): unequal-logs.

At the end of a run, when the cluster is whole and at rest, each node's own copy is read:

    {:f :final-read :type :ok :value {"n1" {0 [[0 7] [1 8]], 1 [...]}, "n2" {...}}}

Every node that lists a key must hold the same records at the same offsets, and every record that the history has placed
in that log. A node that has no replica of a key does not list it, one that could not be read does not appear. Of record
contents, for topics that are neither compacted nor trimmed.
"""

from collections.abc import Mapping

from jepsen.checkers.log.observed import Observed
from jepsen.checkers.verdict import Findings, NotJudgeable
from jepsen.edn import write
from jepsen.history import Op

ABSENT = "nothing"

Copy = dict[int, object]
"""offset -> value."""


def check(observed: Observed, findings: Findings) -> None:
    copies: dict[object, dict[object, Copy]] = {}
    for op in observed.ops:
        if op.f == "final-read" and op.type == "ok":
            for node, key, copy in _copies(op):
                copies.setdefault(key, {})[node] = copy
    for key, of_nodes in copies.items():
        order = observed.orders.get(key)
        known = dict(zip(order.offsets, order.values, strict=True)) if order else {}
        if all(copy == next(iter(of_nodes.values())) for copy in of_nodes.values()):
            (copy, *_) = of_nodes.values()
            if copy.items() >= known.items():
                continue
        _compare(key, of_nodes, known, findings)


def _compare(key: object, of_nodes: dict[object, Copy], known: Copy, findings: Findings) -> None:
    for offset in sorted(set(known).union(*of_nodes.values())):
        held = {node: copy.get(offset, ABSENT) for node, copy in of_nodes.items()}
        expected = known.get(offset, next(iter(held.values())))
        if any(value != expected for value in held.values()):
            history = {"history": known[offset]} if offset in known else {}
            findings.add("unequal-logs", key=key, offset=offset, nodes=held, **history)


def _copies(op: Op) -> list[tuple[object, object, Copy]]:
    try:
        if not isinstance(op.value, Mapping):
            raise TypeError
        return [
            (node, key, {offset: value for offset, value in pairs})  # noqa: C416 - says what a pair is
            for node, keys in op.value.items()
            for key, pairs in keys.items()
        ]
    except (TypeError, ValueError, AttributeError):
        raise NotJudgeable(
            f":final-read at :index {op.ended}: {write(op.value)[:60]} is not {{node {{key [[offset value] ...]}}}}"
        ) from None

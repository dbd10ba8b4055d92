"""Offsets that cannot be.

- inconsistent-offsets: an offset holds two values.
- duplicate: a value stands at two offsets of a key.
- made-up-offset (ours): a reply bears a negative offset, a record without one, or offset 0 for a record sent after
  another of its key had been seen, where no poll finds it: 0 is the first offset there ever is, so that one is a
  default that nobody filled in.
"""

from jepsen.checkers.log.observed import Observed
from jepsen.checkers.verdict import Findings
from jepsen.history import NEVER


def check(observed: Observed, findings: Findings) -> None:
    for key, order in observed.orders.items():
        for offset in sorted(order.conflicts):
            findings.add("inconsistent-offsets", key=key, offset=offset, values=order.conflicts[offset])
        if order.one_to_one:
            continue
        places: dict[object, list[int]] = {}
        for index, offset in enumerate(order.offsets):
            for value in order.values_at(index):
                places.setdefault(value, []).append(offset)
        for value, offsets in places.items():
            if len(offsets) > 1:
                findings.add("duplicate", key=key, value=value, count=len(offsets), offsets=offsets)


def check_made_up(observed: Observed, findings: Findings) -> None:
    for op, key, offset, value in observed.misplaced:
        findings.add("made-up-offset", key=key, offset=offset, value=value, op=op)
    zeros = {
        (key, value): op
        for op in observed.micro_ops()
        if op.type == "ok"
        for key, offset, value in op.sends
        if offset == 0
    }
    seen_since = _first_seen(observed)
    suspects = {(key, value): op for (key, value), op in zeros.items() if seen_since[key] < op.invoked}
    if suspects:
        for op in observed.micro_ops():
            for key, offsets, values in op.reads:
                if 0 in offsets:  # there it stands: then it is out of order, but not made up
                    suspects.pop((key, values[offsets.index(0)]), None)
    for (key, value), op in suspects.items():
        findings.add("made-up-offset", key=key, offset=0, value=value, op=op)


def _first_seen(observed: Observed) -> dict[object, int]:
    """key -> when the first operation ended that showed the key to hold a record."""
    found: dict[object, int] = {}
    for op in observed.micro_ops():
        for key, offset, _ in op.sends:
            if offset is not None and op.type == "ok" and op.ended < found.get(key, NEVER):
                found[key] = op.ended
        for key, offsets, _ in op.reads:
            if offsets and op.ended < found.get(key, NEVER):
                found[key] = op.ended
    return found

"""Values that should have been read and were not.

- lost-write: take the highest first index among values of a key read by ok operations; every value whose last index is
  not above it, never read by an ok operation, of a committed writer.
- unseen: values sent ok that no ok operation polled, at the end of the history.
"""

from jepsen.checkers.log.observed import Observed, Order
from jepsen.checkers.verdict import Findings
from jepsen.history import Op


def check(observed: Observed, findings: Findings) -> None:
    for key, read in observed.read_ok.items():
        order = observed.orders.get(key)
        if order is None:
            continue
        first = order.first_index_of()
        bound = max(map(first.__getitem__, filter(first.__contains__, read)), default=-1)
        lost = _lost(observed, key, order, bound)
        if lost:
            farthest = _reader_at(observed, key, order, bound)
            for value, writer in lost:
                findings.add(
                    "lost-write",
                    key=key,
                    value=value,
                    index=first[value],
                    max_read_index=bound,
                    writer=writer,
                    max_read=farthest,
                )


def _lost(observed: Observed, key: object, order: Order, bound: int) -> list[tuple[object, Op]]:
    read, written = observed.read_ok[key], observed.writer.get(key, {})
    last = order.last_index_of()
    found = [value for value, index in last.items() if index <= bound and value not in read]
    found.sort(key=last.__getitem__)
    return [(value, written[value]) for value in found if value in written and observed.committed(written[value])]


def _reader_at(observed: Observed, key: object, order: Order, bound: int) -> Op | None:
    """Who read as far as that index: the proof that what stands before it was there."""
    values = order.values_at(bound)
    for op in observed.micro_ops():
        if op.type == "ok":
            for other, _, read in op.reads:
                if other == key and any(value in read for value in values):
                    return op
    return None


def check_unseen(observed: Observed, findings: Findings) -> None:
    for key, sent in observed.sent_ok.items():
        unseen = sent - observed.read_ok.get(key, set())
        if unseen:
            written = observed.writer[key]
            for value in sorted(unseen, key=lambda value: written[value].invoked):
                findings.add("unseen", key=key, value=value, writer=written[value])

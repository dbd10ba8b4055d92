"""What the history shows of the log: who wrote which value, what was read, and the order of versions.

`committed(op)`: ok, or info with at least one of its values read by an ok operation. A key's log maps offsets to
values, from all polls of any type and the sends of committed operations. The version order is the log without its gaps;
an index is a position in it. Where an offset holds several values, the one seen first stands in the version order and
all are in `conflicts`; a value at several offsets has its last index, as in Jepsen.
"""

from collections.abc import Iterator

from jepsen.checkers.verdict import NotJudgeable
from jepsen.edn import write
from jepsen.history import MICRO_OPS, History, Op


class Order:
    """One key's version order. `offsets` ascending and `values` beside them; `index_of` a value's last place in
    them."""

    __slots__ = ("conflicts", "index_of", "offsets", "one_to_one", "values")

    def __init__(self, log: dict[int, object], conflicts: dict[int, list[object]]) -> None:
        self.offsets = sorted(log)
        self.values = [log[offset] for offset in self.offsets]
        self.index_of = dict(zip(self.values, range(len(self.values)), strict=True))
        self.conflicts = conflicts
        self.one_to_one = not conflicts and len(self.index_of) == len(self.values)
        """Every offset holds one value, every value stands at one offset."""

    def follow_each_other(self, values: list[object]) -> bool:
        """For certain, that is; False says little. Much faster than looking up every value."""
        first = self.index_of.get(values[0])
        return first is not None and self.one_to_one and values == self.values[first : first + len(values)]

    def values_at(self, index: int) -> list[object]:
        """All values seen at the offset of that index."""
        return self.conflicts.get(self.offsets[index], [self.values[index]])

    def first_index_of(self) -> dict[object, int]:
        if self.one_to_one:
            return self.index_of
        found: dict[object, int] = {}
        for index in range(len(self.values)):
            for value in self.values_at(index):
                found.setdefault(value, index)
        return found

    def last_index_of(self) -> dict[object, int]:
        if self.one_to_one:
            return self.index_of
        return {value: index for index in range(len(self.values)) for value in self.values_at(index)}


class Observed:
    """One pass over the history; what every family of log anomalies starts from."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.ops = history.ops
        self.writer: dict[object, dict[object, Op]] = {}
        """key -> value -> who sent it."""
        self.failed: dict[object, set[object]] = {}
        self.sent_ok: dict[object, set[object]] = {}
        self.read_ok: dict[object, set[object]] = {}
        self.orders: dict[object, Order] = {}
        self.misplaced: list[tuple[Op, object, int | None, object]] = []
        """(operation, key, offset, value) of replies whose offset is negative, or None for a record that was read."""
        self._collect()
        self._order()

    def micro_ops(self) -> Iterator[Op]:
        return (op for op in self.ops if op.f in MICRO_OPS)

    def committed(self, op: Op) -> bool:
        return op.type == "ok" or (
            op.type == "info" and any(value in self.read_ok.get(key, ()) for key, _, value in op.sends)
        )

    def _collect(self) -> None:
        judged = False
        by_type: dict[str, dict[object, set[object]]] = {"ok": self.sent_ok, "fail": self.failed, "info": {}}
        for op in self.ops:
            if op.f not in MICRO_OPS:
                continue
            if op.value is not None:
                shown = write(op.value)[:60]
                raise NotJudgeable(f":value {shown} of :f :{op.f} at :index {op.invoked} holds no micro-operations")
            if op.sends:
                sent = by_type[op.type]
                for key, _, value in op.sends:
                    if key not in self.writer:
                        self.writer[key] = {}
                    self.writer[key][value] = op
                    if key not in sent:
                        sent[key] = set()
                    sent[key].add(value)
            if op.type == "ok":
                judged = True
                for key, _, values in op.reads:
                    if key not in self.read_ok:
                        self.read_ok[key] = set()
                    self.read_ok[key].update(values)
        if not judged:
            raise NotJudgeable("no send, poll or txn that ended ok: there is nothing to judge")

    def _order(self) -> None:
        logs: dict[object, dict[int, object]] = {}
        conflicts: dict[object, dict[int, list[object]]] = {}
        for op in self.ops:
            for key, offsets, values in op.reads:
                log = logs.get(key)
                if log is None:
                    log = logs[key] = {}
                if list(map(log.get, offsets)) != values:  # type: ignore[arg-type] # None is in no log
                    for offset, value in zip(offsets, values, strict=True):
                        if not _place(log, conflicts, key, offset, value):
                            self.misplaced.append((op, key, offset, value))
            if op.sends and self.committed(op):
                for key, offset, value in op.sends:
                    if offset is None:
                        continue
                    if key not in logs:
                        logs[key] = {}
                    if not _place(logs[key], conflicts, key, offset, value):
                        self.misplaced.append((op, key, offset, value))
        self.orders = {key: Order(log, conflicts.get(key, {})) for key, log in logs.items()}


def _place(
    log: dict[int, object],
    conflicts: dict[object, dict[int, list[object]]],
    key: object,
    offset: int | None,
    value: object,
) -> bool:
    """Puts a value into a key's log; False if such an offset has no place in one."""
    if offset is None or offset < 0:
        return False
    known = log.setdefault(offset, value)
    if known != value:
        several = conflicts.setdefault(key, {}).setdefault(offset, [known])
        if value not in several:
            several.append(value)
    return True

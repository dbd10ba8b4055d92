"""Consumer groups (ours), judged wherever operations name their `:group`.

    {:f :poll      :value [[:poll]]  :group "g"}     a poll by a member; groups start at the first record of a key
    {:f :commit    :value {0 13}     :group "g"}     key -> next offset to read: of the last record processed, plus one
    {:f :committed :value {0 13}     :group "g"}     what the coordinator says is committed; nil for nothing

- group-offset-backwards: a commit or a look at a committed offset ended ok, and one that was invoked later shows less.
- group-commit-past-unread: the group commits past a record that no poll of its members had returned before.
- group-start-past-unread: a member reads a record while one before it had been returned to nobody in the group.
"""

from collections.abc import Iterable, Mapping

from jepsen.checkers.log.observed import Observed
from jepsen.checkers.verdict import Findings, NotJudgeable
from jepsen.edn import write
from jepsen.history import MICRO_OPS, Op

NOTHING = -1
"""What a group has committed before it has committed anything."""

Shown = tuple[int, Op]
"""An offset, and the operation that showed it to be committed."""


def check(observed: Observed, findings: Findings) -> None:
    shown: dict[tuple[object, object], list[Shown]] = {}
    events: dict[object, list[tuple[int, Op]]] = {}
    for op in observed.ops:
        group = op.extra.get("group")
        if group is None:
            continue
        if op.f in ("commit", "committed") and op.type == "ok":
            for key, offset in offsets_of(op).items():
                shown.setdefault((group, key), []).append((offset, op))
            if op.f == "commit":
                events.setdefault(group, []).append((op.invoked, op))
        elif op.f in MICRO_OPS and op.reads:
            events.setdefault(group, []).append((op.ended, op))
    for (group, key), offsets in shown.items():
        _backwards(group, key, offsets, findings)
    for group, in_group in events.items():
        in_group.sort(key=lambda event: event[0])
        _Progress(observed, group, findings).follow(op for _, op in in_group)


def offsets_of(op: Op) -> dict[object, int]:
    """key -> offset of a :commit or :committed. Raises NotJudgeable."""
    if not isinstance(op.value, Mapping):
        raise NotJudgeable(f":f :{op.f} at :index {op.ended}: {write(op.value)[:60]} is not {{key offset}}")
    found: dict[object, int] = {}
    for key, offset in op.value.items():
        if not isinstance(offset, int) and offset is not None:
            raise NotJudgeable(f":f :{op.f} at :index {op.ended}: {write(offset)[:60]} is not an offset")
        found[key] = NOTHING if offset is None else offset
    return found


def _backwards(group: object, key: object, shown: list[Shown], findings: Findings) -> None:
    """Sweeps over operations as they begin, with the highest offset of those that had ended."""
    ended = sorted(shown, key=lambda one: one[1].ended)
    place = 0
    highest: Shown | None = None
    for offset, op in sorted(shown, key=lambda one: one[1].invoked):
        while place < len(ended) and ended[place][1].ended < op.invoked:
            if highest is None or ended[place][0] > highest[0]:
                highest = ended[place]
            place += 1
        if highest is not None and offset < highest[0]:
            findings.add(
                "group-offset-backwards",
                group=group,
                key=key,
                offsets=[highest[0], None if offset == NOTHING else offset],
                ops=[highest[1], op],
            )


class _Progress:
    """How far one group has read each key without a gap."""

    def __init__(self, observed: Observed, group: object, findings: Findings) -> None:
        self.observed, self.group, self.findings = observed, group, findings
        self.read: dict[object, set[int]] = {}
        self.next_unread: dict[object, int] = {}

    def follow(self, ops: Iterable[Op]) -> None:
        for op in ops:
            if op.f == "commit":
                for key, offset in offsets_of(op).items():
                    self._all_read_before(key, offset, op, "group-commit-past-unread")
                continue
            for key, offsets, _ in op.reads:
                read = self.read.setdefault(key, set())
                # What an aborted poll read is read again: only where it started counts.
                for polled in offsets if op.type != "fail" else offsets[:1]:
                    if polled is not None:
                        self._all_read_before(key, polled, op, "group-start-past-unread")
                        if op.type != "fail":
                            read.add(polled)

    def _all_read_before(self, key: object, offset: int, op: Op, name: str) -> None:
        """Moves on to the first record that was not read; what lies before `offset` is reported once."""
        order = self.observed.orders.get(key)
        if order is None:
            return
        offsets, read = order.offsets, self.read.get(key, set())
        place = self.next_unread.get(key, 0)
        unread: list[int] = []
        while place < len(offsets) and (offsets[place] < offset or offsets[place] in read):
            if offsets[place] not in read:
                unread.append(offsets[place])
            place += 1
        self.next_unread[key] = place
        if unread:
            self.findings.add(
                name, group=self.group, key=key, offset=offset, unread=unread[:10], unread_count=len(unread), op=op
            )

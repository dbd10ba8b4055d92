"""State machines for the simulation: a small log of values, and the wrapper that takes a digest of every state.

`ValueLog` is the least machine that has what a partition has: offsets given by the leader, payloads stored beside the
entry, and trimming. `Watched` stands between a group and any machine and reports a digest of its rows at each applied
index.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence

from consensus.machine import Applied, Machine
from consensus.model import Entry, Payload
from consensus.store import KeyRange

_COMMAND = struct.Struct(">BQQ")
_ROW = struct.Struct(">QI")
_PAIR = struct.Struct(">QQ")
META = b"m"


def payload_key(group: int, offset: int) -> bytes:
    return _PAIR.pack(group, offset)


def offset_key(offset: int) -> bytes:
    return b"o" + offset.to_bytes(8, "big")


def value_bytes(value: int) -> bytes:
    """Unique per value, of varying length."""
    return value.to_bytes(8, "big") * (1 + value % 13)


def append_command(offset: int, value: int) -> bytes:
    return _COMMAND.pack(1, offset, value)


def trim_command(start: int) -> bytes:
    return _COMMAND.pack(2, start, 0)


class GapInOffsets(AssertionError):
    """An entry was applied whose offset does not follow the last one."""


class ValueLog:
    """Values at offsets start..next-1; `tail` is the leader's next offset, entries in flight counted."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.rows: dict[bytes, bytes] = {}
        self.start = 0
        self.next = 0
        self.tail: int | None = None

    # --- the Machine protocol -------------------------------------------------------------------------

    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        self.rows = dict(rows)
        self.start, self.next = _PAIR.unpack(self.rows.get(META, bytes(16)))

    def apply(self, entries: Sequence[Entry]) -> Applied:
        changed: dict[bytes, bytes | None] = {}
        gone: list[KeyRange] = []
        for entry in entries:
            kind, offset, value = _COMMAND.unpack(entry.command)
            if kind == 1:
                if offset != self.next:
                    raise GapInOffsets(f"group {self.group}: offset {offset} applied where {self.next} is next")
                changed[offset_key(offset)] = _ROW.pack(value, entry.payloads[0].crc)
                self.next += 1
            elif offset > self.start:
                gone.append((payload_key(self.group, self.start), payload_key(self.group, offset)))
                changed.update((offset_key(old), None) for old in range(self.start, offset))
                self.start = offset
        changed[META] = _PAIR.pack(self.start, self.next)
        for key, row in changed.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        return Applied(rows=changed, delete_payloads=gone)

    def payload_ranges(self) -> list[KeyRange]:
        return [(payload_key(self.group, self.start), payload_key(self.group, self.next))]

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        start, end = _PAIR.unpack(rows.get(META, bytes(16)))
        return [(payload_key(self.group, start), payload_key(self.group, end))]

    def led(self, term: int) -> None:
        self.tail = self.next

    def unled(self) -> None:
        self.tail = None

    # --- for clients and checks -----------------------------------------------------------------------

    def draft(self, value: int) -> tuple[int, bytes, Payload]:
        """(offset, command, payload) of the next append; `proposed` once it stands in the log."""
        assert self.tail is not None, "only a leader gives offsets"
        payload = Payload.of(payload_key(self.group, self.tail), value_bytes(value))
        return self.tail, append_command(self.tail, value), payload

    def proposed(self) -> None:
        assert self.tail is not None
        self.tail += 1

    def values(self) -> dict[int, tuple[int, int]]:
        """offset -> (value, CRC-32C of the payload) of what is kept."""
        found = {int.from_bytes(k[1:], "big"): row for k, row in self.rows.items() if k != META}
        return {offset: _ROW.unpack(row) for offset, row in found.items()}


class Watched:
    """Any machine, with an order-free digest of its rows after each run of entries: `report(index, digest)`.

    With `single`, entries are applied one at a time, so that there is a digest at every index to compare with."""

    def __init__(self, inner: Machine, single: bool, report: Callable[[int, int], None]) -> None:
        self.inner = inner
        self.single = single
        self.report = report
        self.restored: Callable[[int, int], None] = lambda applied, digest: None
        self._rows: dict[bytes, int] = {}
        self._digest = 0

    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        self._rows = {}
        self._digest = 0
        self._mix(dict(rows))
        self.restored(applied, self._digest)
        self.inner.restore(rows, applied)

    def _mix(self, rows: dict[bytes, bytes | None]) -> None:
        for key, row in rows.items():
            self._digest ^= self._rows.pop(key, 0)
            if row is not None:
                mixed = hashlib.blake2b(len(key).to_bytes(4, "big") + key + row, digest_size=8).digest()
                self._rows[key] = number = int.from_bytes(mixed, "big")
                self._digest ^= number

    def apply(self, entries: Sequence[Entry]) -> Applied:
        runs = [[entry] for entry in entries] if self.single else [list(entries)]
        whole = Applied(rows={}, delete_payloads=[])
        for run in runs:
            if run:
                applied = self.inner.apply(run)
                self._mix(applied.rows)
                self.report(run[-1].index, self._digest)
                whole.rows.update(applied.rows)
                whole.delete_payloads.extend(applied.delete_payloads)
        return whole

    def payload_ranges(self) -> list[KeyRange]:
        return self.inner.payload_ranges()

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        return self.inner.ranges_of(rows)

    def led(self, term: int) -> None:
        self.inner.led(term)

    def unled(self) -> None:
        self.inner.unled()

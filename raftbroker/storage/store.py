"""The `Store` of consensus over any engine: one atomic batch for all groups, checks on everything read back.

What it keeps in memory per group is only where the log begins and ends (`Replica`); it changes after the engine
took the batch. Writes come from one thread, reads from the event loop at the same time: a read that finds
something amiss looks again at a snapshot of the engine before it says so, because the first look may have met
a truncation half way.
"""

from collections.abc import Callable, Iterator, Sequence

import google_crc32c
import msgspec

from consensus.errors import Damaged, EntriesGone, StoreFull
from consensus.model import Configuration, Entry, EntryKind, LogBase, Payload, decode_configuration
from consensus.store import GroupImage, KeyRange, Write
from raftbroker.storage import layout
from raftbroker.storage.engine import Engine, EngineView, Reads
from raftbroker.storage.layout import Row
from raftbroker.storage.writes import BatchBuilder, Replica

_MIB = 1 << 20


class LogStore:
    """Implements `consensus.store.Store`; see there for what each method promises.

    `reserve_bytes` of the disk are left for deletions and compaction: below that the store is `full`, and new records
    are refused before they are proposed, until a quarter more than that is free again. What has been proposed, and
    deletions, are still written; below a quarter of the reserve `write` refuses with StoreFull all that brings
    entries or payloads. `on_full` is told of a change of `full`, in whichever thread noticed."""

    def __init__(
        self,
        engine: Engine,
        *,
        reserve_bytes: int = 0,
        on_full: Callable[[bool], None] = lambda full: None,
        reclaim: Callable[[Sequence[KeyRange]], None] = lambda ranges: None,
    ) -> None:
        self._engine = engine
        self._reserve = reserve_bytes
        self._on_full = on_full
        self._reclaim = reclaim
        self._full = False
        self._replicas: dict[int, Replica] = {}
        self._marked: set[int] = set()
        self._find_groups()
        self._measure(0)

    # --- what is there ----------------------------------------------------------------------------------

    def _find_groups(self) -> None:
        for key, value in self._engine.scan("node", b"g", b"h"):
            group, field = layout.split_meta_key(key)
            if field == layout.MARKER:
                self._marked.add(group)
            elif field == layout.BASE:
                base = layout.read_base(group, value)
                self._replicas[group] = Replica(base.index, base.index)
        for group, replica in self._replicas.items():
            rows = self._engine.scan("raft", layout.group_prefix(group), layout.group_end(group), reverse=True)
            for key, _ in rows:
                replica.last = max(replica.base, layout.split_entry_key(key))
                break

    def groups(self) -> list[int]:
        return sorted(self._replicas)

    def marked(self, group: int) -> bool:
        return group in self._marked

    def load(self, group: int) -> GroupImage:
        get = self._engine.get
        if group in self._marked and group not in self._replicas:
            removed = layout.read_hard_state(group, get("node", layout.meta_key(group, layout.HARD_STATE)))
            return GroupImage(group, removed, LogBase(), 0, [], [], 0, 0, {})
        base = layout.read_base(group, get("node", layout.meta_key(group, layout.BASE)))
        applied = layout.read_number(group, "applied", get("node", layout.meta_key(group, layout.APPLIED)))
        commit = layout.read_number(group, "commit", get("node", layout.meta_key(group, layout.COMMIT)))
        hard_state = layout.read_hard_state(group, get("node", layout.meta_key(group, layout.HARD_STATE)))
        terms: list[tuple[int, int]] = []
        configurations: list[tuple[int, Configuration]] = []
        last, term = base.index, base.term
        for index, row in self._rows(self._engine, group, 0, 1 << 63):
            if index != last + 1:
                raise Damaged(f"the log of group {group} goes from entry {last} to {index}")
            if row.term < term:
                raise Damaged(f"the term of entry {index} of group {group} is {row.term}, after {term}")
            if not terms or row.term != terms[-1][1]:
                terms.append((index, row.term))
            if row.kind == EntryKind.CONFIGURATION:
                configurations.append((index, self._configuration(group, index, row)))
            last, term = index, row.term
        if not base.index <= applied <= last:
            raise Damaged(f"group {group} has applied {applied}, but its log runs from {base.index} to {last}")
        prefix = layout.group_prefix(group)
        rows = self._engine.scan("state", prefix, layout.group_end(group))
        return GroupImage(
            group=group,
            hard_state=hard_state,
            base=base,
            last_index=last,
            terms=terms,
            configurations=configurations,
            commit=min(max(commit, applied), last),
            applied=applied,
            state={key[len(prefix) :]: value for key, value in rows},
        )

    def _configuration(self, group: int, index: int, row: Row) -> Configuration:
        try:
            return decode_configuration(row.command)
        except msgspec.DecodeError as error:
            raise Damaged(f"the configuration in entry {index} of group {group} does not decode: {error}") from error

    def _rows(self, source: Reads, group: int, first: int, end: int) -> Iterator[tuple[int, Row]]:
        """(index, row) of the entries from `first` to before `end`, each checked."""
        for key, value in source.scan("raft", layout.entry_key(group, first), layout.entry_key(group, end)):
            index = layout.split_entry_key(key)
            yield index, layout.read_row(group, index, value)

    # --- reading entries and payloads -------------------------------------------------------------------

    def entries(self, group: int, first: int, last: int, bytes_max: int) -> list[Entry]:
        replica = self._replicas.get(group)
        if replica is None or not replica.base < first <= replica.last:
            raise EntriesGone(f"entry {first} of group {group} is not in the log")
        try:
            return self._read_entries(self._engine, group, first, last, bytes_max)
        except (Damaged, EntriesGone):
            view = self._engine.snapshot()
            try:
                return self._read_entries(view, group, first, last, bytes_max)
            finally:
                view.close()

    def _read_entries(self, source: Reads, group: int, first: int, last: int, bytes_max: int) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for index, row in self._rows(source, group, first, last + 1):
            if index != first + len(found):
                raise Damaged(f"entry {first + len(found)} of group {group} is missing")
            size += 64 + len(row.command) + sum(length + 32 for _, length, _ in row.payloads)
            if found and size > bytes_max:
                break
            payloads = self._read_payloads(source, group, index, row)
            if payloads is None:
                break
            found.append(Entry(row.term, index, row.kind, row.command, payloads, row.crc))
        if not found:
            raise EntriesGone(f"entry {first} of group {group} is gone, or retention has taken its records")
        return found

    def _read_payloads(self, source: Reads, group: int, index: int, row: Row) -> tuple[Payload, ...] | None:
        """None where one of them has been trimmed."""
        payloads: list[Payload] = []
        for key, length, crc in row.payloads:
            data = source.get("log", key)
            if data is None:
                return None
            if len(data) != length or google_crc32c.value(data) != crc:
                raise Damaged(f"payload {key.hex()} of entry {index} of group {group} fails its CRC")
            payloads.append(Payload(key, data, crc))
        return tuple(payloads)

    def payload_digests(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        found: dict[bytes, tuple[int, int]] = {}
        for key in keys:
            data = self._engine.get("log", key)
            if data is not None:
                found[key] = (len(data), google_crc32c.value(data))
        return found

    def open_snapshot(self, group: int) -> "StoreSnapshot":
        return StoreSnapshot(self._engine.snapshot(), group)

    def node_row(self, key: bytes) -> bytes | None:
        return self._engine.get("node", layout.node_key(key))

    # --- writing ----------------------------------------------------------------------------------------

    def write(self, writes: Sequence[Write]) -> None:
        builder = BatchBuilder(self._engine, self._replicas, self._marked)
        for write in writes:
            builder.add(write)
        self._measure(builder.batch.size)
        if self._full and self._spent(builder.batch.size) and not all(write.frees_space for write in writes):
            raise StoreFull(
                f"the disk has {self._engine.free_bytes() // _MIB} MiB left, and {self._reserve // 4 // _MIB} MiB are "
                "kept for deletions: delete topics, lower retention or free space"
            )
        self._engine.write(builder.batch)
        self._replicas.update(builder.replicas)
        self._marked.update(builder.replicas, builder.removed)
        for group in builder.removed:
            self._replicas.pop(group, None)
        if self._full:
            deleted = [keys for write in writes for keys in write.delete_payloads]
            if deleted:
                self._reclaim(deleted)

    def sync(self) -> None:
        self._engine.sync()

    def close(self) -> None:
        self._engine.close()

    # --- a full disk ------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        if self._full:
            self._measure(0)
        return self._full

    def _spent(self, coming: int) -> bool:
        """Whether the reserve is needed for what frees space."""
        return self._engine.free_bytes() < self._reserve // 4 + coming

    def _measure(self, coming: int) -> None:
        """Looks at the disk, `coming` more bytes being about to be written."""
        needed = self._reserve + self._reserve // 4 if self._full else self._reserve
        full = self._engine.free_bytes() < needed + coming if self._reserve else False
        if full != self._full:
            self._full = full
            self._on_full(full)


class StoreSnapshot:
    """Implements `consensus.store.SnapshotReader`. The CRCs of its manifest are those of the bytes as read."""

    def __init__(self, view: EngineView, group: int) -> None:
        self._view = view
        self._group = group
        self._prefix = layout.group_prefix(group)
        self._applied = layout.read_number(group, "applied", view.get("node", layout.meta_key(group, layout.APPLIED)))

    @property
    def applied(self) -> int:
        return self._applied

    def state(self, after: bytes | None, bytes_max: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        low = self._prefix if after is None else self._prefix + after + b"\0"
        found: list[tuple[bytes, bytes]] = []
        size = 0
        for key, value in self._view.scan("state", low, layout.group_end(self._group)):
            size += len(key) + len(value)
            if found and size > bytes_max:
                return found, True
            found.append((key[len(self._prefix) :], value))
        return found, False

    def manifest(self, ranges: Sequence[KeyRange], count_max: int) -> tuple[list[tuple[bytes, int, int]], bool]:
        found: list[tuple[bytes, int, int]] = []
        for first, end in ranges:
            for key, data in self._view.scan("log", first, end):
                if len(found) >= count_max:
                    return found, True
                found.append((key, len(data), google_crc32c.value(data)))
        return found, False

    def payloads(self, keys: Sequence[bytes], bytes_max: int) -> list[Payload]:
        found: list[Payload] = []
        size = 0
        for key in keys:
            data = self._view.get("log", key)
            if data is None:
                raise Damaged(f"payload {key.hex()} of group {self._group} is missing from the snapshot")
            size += len(data)
            if found and size > bytes_max:
                break
            found.append(Payload.of(key, data))
        return found

    def close(self) -> None:
        self._view.close()

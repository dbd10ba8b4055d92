"""Turns the committer's `Write`s, of many groups, into one engine batch.

The fields of a write take effect in their order, and the engine keeps the order of operations: a payload that a
truncation deletes and a new entry brings again, under the same key, is there in the end. Several writes of one group
may share a batch: what the earlier ones append is remembered here, because the engine does not show it yet.
"""

from collections.abc import Mapping, Sequence, Set

from consensus.errors import InvariantBroken
from consensus.model import Entry, LogBase
from consensus.store import Install, Write
from raftbroker.storage import layout
from raftbroker.storage.engine import Batch, Engine, Family


class Replica:
    """Where a group's log begins and ends: the base's index and the last entry's."""

    __slots__ = ("base", "last")

    def __init__(self, base: int, last: int) -> None:
        self.base = base
        self.last = last


class BatchBuilder:
    """Collects one batch. `replicas` and `removed` are what changes in memory once the engine has taken it."""

    def __init__(self, engine: Engine, replicas: Mapping[int, Replica], marked: Set[int]) -> None:
        self.batch = Batch()
        self.replicas: dict[int, Replica] = {}
        self.removed: set[int] = set()
        self._engine = engine
        self._current = replicas
        self._marked = marked
        self._appended: dict[int, list[Entry]] = {}

    def add(self, write: Write) -> None:
        """Raises ValueError for a group that is not here, or must not be made again."""
        for key, value in write.node.items():
            self._put_or_delete("node", layout.node_key(key), value)
        group = write.group
        if write.create is not None:
            self._create(group, write.create)
        replica = self._replica(group)
        if replica is None:
            if write != Write(group, node=write.node):
                raise ValueError(f"group {group} has no replica in this store")
            return
        if write.hard_state is not None:
            self.batch.put("node", layout.meta_key(group, layout.HARD_STATE), layout.encode_meta(write.hard_state))
        if write.truncate_from is not None:
            self._truncate(group, replica, write.truncate_from)
        if write.install is not None:
            self._install(group, replica, write.install)
        for payload in write.payloads:
            self.batch.put("log", payload.key, payload.data)
        if write.entries:
            self._append(group, replica, write.entries)
        self._add_applied(write)
        if write.drop_through is not None:
            self._drop(group, replica, write.drop_through)
        if write.remove:
            self._remove(group, replica)

    def _add_applied(self, write: Write) -> None:
        """The fields from `commit` to `delete_payloads`."""
        group = write.group
        if write.commit is not None:
            self.batch.put("node", layout.meta_key(group, layout.COMMIT), layout.pack_number(write.commit))
        if write.applied is not None:
            self.batch.put("node", layout.meta_key(group, layout.APPLIED), layout.pack_number(write.applied))
        if write.state:
            prefix = layout.group_prefix(group)
            for key, value in write.state.items():
                self._put_or_delete("state", prefix + key, value)
        for first, end in write.delete_payloads:
            self.batch.delete_range("log", first, end)

    def _put_or_delete(self, family: Family, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.batch.delete(family, key)
        else:
            self.batch.put(family, key, value)

    def _replica(self, group: int) -> Replica | None:
        """The group as this batch has left it so far."""
        replica = self.replicas.get(group)
        if replica is None:
            current = self._current.get(group)
            if current is None or group in self.removed:
                return None
            replica = self.replicas[group] = Replica(current.base, current.last)
        return replica

    def _create(self, group: int, base: LogBase) -> None:
        if self._replica(group) is not None or group in self.removed:
            raise ValueError(f"group {group} has a replica in this store")
        if group in self._marked and base != LogBase():
            raise ValueError(f"group {group} had a replica in this store: it may come back as an empty learner only")
        self.replicas[group] = Replica(base.index, base.index)
        self.batch.put("node", layout.meta_key(group, layout.MARKER), b"")
        self.batch.put("node", layout.meta_key(group, layout.BASE), layout.encode_meta(base))
        self.batch.put("node", layout.meta_key(group, layout.APPLIED), layout.pack_number(base.index))

    def _append(self, group: int, replica: Replica, entries: Sequence[Entry]) -> None:
        put = self.batch.put
        index = replica.last
        for entry in entries:
            index += 1
            if entry.index != index:
                raise InvariantBroken(f"entry {entry.index} of group {group} would follow entry {index - 1}")
            put("raft", layout.entry_key(group, index), layout.row_of(entry))
            if entry.payloads:
                for payload in entry.payloads:
                    put("log", payload.key, payload.data)
        self._appended.setdefault(group, []).extend(entries)
        replica.last = index

    def _payload_keys(self, group: int, first: int, last: int) -> list[bytes]:
        """Of the entries first..last, which are in the log as this batch has left it so far."""
        keys: list[bytes] = []
        if first > last:
            return keys
        fresh = [entry for entry in self._appended.get(group, ()) if first <= entry.index <= last]
        for entry in fresh:
            keys.extend(payload.key for payload in entry.payloads)
        if fresh:
            last = fresh[0].index - 1  # the engine has older rows from there on, or none
        rows = self._engine.scan("raft", layout.entry_key(group, first), layout.entry_key(group, last + 1))
        for key, value in rows:
            index = layout.split_entry_key(key)
            keys.extend(head[0] for head in layout.read_row(group, index, value).payloads)
        return keys

    def _delete_entries(self, group: int, first: int, last: int) -> None:
        if first > last:
            return
        if last - first < 16:
            for index in range(first, last + 1):
                self.batch.delete("raft", layout.entry_key(group, index))
        else:
            self.batch.delete_range("raft", layout.entry_key(group, first), layout.entry_key(group, last + 1))
        if group in self._appended:
            self._appended[group] = [entry for entry in self._appended[group] if not first <= entry.index <= last]

    def _truncate(self, group: int, replica: Replica, first: int) -> None:
        if first <= replica.base:
            raise InvariantBroken(f"entry {first} of group {group} is below the log's start and cannot be truncated")
        for key in self._payload_keys(group, first, replica.last):
            self.batch.delete("log", key)
        self._delete_entries(group, first, replica.last)
        replica.last = min(replica.last, first - 1)

    def _install(self, group: int, replica: Replica, install: Install) -> None:
        for key in self._payload_keys(group, replica.base + 1, replica.last):
            if not layout.within(key, install.keep):
                self.batch.delete("log", key)
        for first, end in layout.subtract(install.drop, install.keep):
            self.batch.delete_range("log", first, end)
        self._delete_entries(group, replica.base + 1, replica.last)
        prefix = layout.group_prefix(group)
        self.batch.delete_range("state", prefix, layout.group_end(group))
        for key, value in install.state.items():
            self.batch.put("state", prefix + key, value)
        self.batch.put("node", layout.meta_key(group, layout.BASE), layout.encode_meta(install.base))
        self.batch.put("node", layout.meta_key(group, layout.APPLIED), layout.pack_number(install.base.index))
        replica.base = replica.last = install.base.index

    def _drop(self, group: int, replica: Replica, base: LogBase) -> None:
        if base.index > replica.last:
            raise InvariantBroken(f"group {group} has no entry {base.index}: its log ends at {replica.last}")
        if base.index <= replica.base:
            return
        self._delete_entries(group, replica.base + 1, base.index)
        self.batch.put("node", layout.meta_key(group, layout.BASE), layout.encode_meta(base))
        replica.base = base.index

    def _remove(self, group: int, replica: Replica) -> None:
        """The payloads of entries go too: those not yet applied are in no range that the caller knows. Marker and
        hard state stay."""
        for key in self._payload_keys(group, replica.base + 1, replica.last):
            self.batch.delete("log", key)
        self._delete_entries(group, replica.base + 1, replica.last)
        self.batch.delete_range("state", layout.group_prefix(group), layout.group_end(group))
        for field in (layout.BASE, layout.APPLIED, layout.COMMIT):
            self.batch.delete("node", layout.meta_key(group, field))
        del self.replicas[group]
        self.removed.add(group)

"""What each disk must hold, kept apart from the code that writes it: an oracle for the store and for every promise.

`Shadow` follows the typed `Write`s of one node, as written and as durable, with nothing of the real key layout. So it
tells what an acknowledgement may promise at this instant (C1), and, after a crash, what `LogStore.load` must find.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from consensus.model import HardState, LogBase
from consensus.store import GroupImage, Write
from raftbroker.storage.store import LogStore

from .disk import Platter, SimEngine


class Mismatch(AssertionError):
    """The store does not hold what was written to it."""


@dataclass
class ShadowGroup:
    """One group on one disk: hard state, base, (term, CRC) of each entry above it, applied index and rows."""

    hard_state: HardState = field(default_factory=HardState)
    base: LogBase = field(default_factory=LogBase)
    log: dict[int, tuple[int, int]] = field(default_factory=dict)
    last: int = 0
    applied: int = 0
    state: dict[bytes, bytes] = field(default_factory=dict)

    def copy(self) -> "ShadowGroup":
        return replace(self, log=dict(self.log), state=dict(self.state))

    def term_at(self, index: int) -> int | None:
        if index == self.base.index:
            return self.base.term
        entry = self.log.get(index)
        return entry[0] if entry else None

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is here, in the log or inside the applied state."""
        return index <= self.base.index or (index in self.log and self.log[index][0] == term)

    def dropped(self, write: Write) -> dict[int, tuple[int, int]]:
        """The entries that the write truncates and does not bring again."""
        again = {entry.index: (entry.term, entry.crc) for entry in write.entries}
        first = write.truncate_from if write.truncate_from is not None else self.last + 1
        gone = {index: self.log[index] for index in range(first, self.last + 1)}
        return {index: entry for index, entry in gone.items() if again.get(index) != entry}

    def play(self, write: Write) -> None:
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.truncate_from is not None:
            for index in range(write.truncate_from, self.last + 1):
                self.log.pop(index, None)
            self.last = min(self.last, write.truncate_from - 1)
        if write.install is not None:
            self.base, self.last = write.install.base, write.install.base.index
            self.log = {}
            self.applied, self.state = self.base.index, dict(write.install.state)
        for entry in write.entries:
            if entry.index != self.last + 1:
                raise Mismatch(f"entry {entry.index} written after {self.last}")
            self.log[entry.index] = (entry.term, entry.crc)
            self.last = entry.index
        if write.applied is not None:
            self.applied = write.applied
        for key, value in write.state.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        if write.drop_through is not None:
            for index in range(self.base.index + 1, write.drop_through.index + 1):
                self.log.pop(index, None)
            self.base = write.drop_through


Groups = dict[int, ShadowGroup]
Truncates = Callable[[int, dict[int, tuple[int, int]]], None]
"""(group, what is dropped: index -> (term, CRC))"""


def play(groups: Groups, write: Write) -> None:
    """Of a group that is removed the hard state stays, and holds when it is made again."""
    if write.create is not None:
        made = groups.setdefault(write.group, ShadowGroup())
        made.base, made.last, made.applied = write.create, write.create.index, write.create.index
    group = groups.get(write.group)
    if group is not None:
        group.play(write)
        if write.remove:
            groups[write.group] = ShadowGroup(group.hard_state)


class Shadow:
    """One node's disk as the writes tell it. Batches are counted as the platter counts them."""

    def __init__(self, platter: Platter) -> None:
        self.platter = platter
        self.written: Groups = {}
        self._durable: Groups = {}
        self._pending: deque[tuple[int, list[Write]]] = deque()
        platter.on_crash = self.crashed

    def wrote(self, writes: Sequence[Write], truncates: Truncates) -> None:
        kept = [copy_of(write) for write in writes]
        for write in kept:
            group = self.written.get(write.group)
            if group is not None and write.truncate_from is not None:
                if write.hard_state is not None:
                    group.hard_state = write.hard_state
                dropped = group.dropped(write)
                if dropped:
                    truncates(write.group, dropped)
            play(self.written, write)
        self._pending.append((self.platter.written, kept))

    @property
    def durable(self) -> Groups:
        while self._pending and self._pending[0][0] <= self.platter.synced:
            for write in self._pending.popleft()[1]:
                play(self._durable, write)
        return self._durable

    def crashed(self, synced: int) -> None:
        self.written = {number: group.copy() for number, group in self.durable.items()}
        self._pending.clear()

    def wiped(self) -> None:
        self.written, self._durable = {}, {}
        self._pending.clear()

    def check(self, image: GroupImage) -> None:
        """Compares what the store loads at start with what it was given."""
        group = self.written.get(image.group)
        if group is None:
            raise Mismatch(f"group {image.group} is loaded but was never written")
        terms: list[tuple[int, int]] = []
        for index in sorted(group.log):
            if not terms or terms[-1][1] != group.log[index][0]:
                terms.append((index, group.log[index][0]))
        expected = (group.hard_state, group.base, group.last, terms, group.applied, group.state)
        found = (image.hard_state, image.base, image.last_index, image.terms, image.applied, image.state)
        names = ("hard state", "base", "last index", "terms", "applied", "state")
        for name, one, other in zip(names, expected, found, strict=True):
            if one != other:
                raise Mismatch(f"group {image.group} loads with {name} {other}, written was {one}")


def copy_of(write: Write) -> Write:
    """The parts the shadow needs, safe from later changes by the writer; entries without their bytes."""
    return Write(
        group=write.group,
        create=write.create,
        hard_state=write.hard_state,
        install=write.install,
        truncate_from=write.truncate_from,
        entries=tuple(write.entries),
        commit=write.commit,
        applied=write.applied,
        state=dict(write.state),
        drop_through=write.drop_through,
        remove=write.remove,
    )


class WatchedStore(LogStore):
    """The real store, with a shadow that is told of each batch; `truncates` hears what is dropped, before it is."""

    def __init__(self, engine: SimEngine, shadow: Shadow, truncates: Truncates, reserve_bytes: int) -> None:
        super().__init__(engine, reserve_bytes=reserve_bytes)
        self.shadow = shadow
        self._truncates = truncates

    def write(self, writes: Sequence[Write]) -> None:
        before = self.shadow.platter.written
        super().write(writes)
        if self.shadow.platter.written != before + 1:
            raise Mismatch("one call of write made several batches, or none")
        self.shadow.wrote(writes, self._truncates)

    def load(self, group: int) -> GroupImage:
        image = super().load(group)
        self.shadow.check(image)
        return image

"""A simulated disk: what was not synced may be forgotten, and everything can be slow, stuck, full or damaged.

`Platter` is one node's disk and survives its crashes. `SimEngine` is the store's open handle in one life of the node
and implements `raftbroker.storage.engine.Engine`; everything above it (key layout, checks, recovery) is the real
thing. As with a write-ahead log, a crash keeps what was synced and a prefix of the batches written after that, each
whole.

`SimDisk` implements `consensus.store.Disk` and takes time, on the virtual clock, before the write, between write and
sync, and after the sync: a crash can fall on each of them, and `on_stage` lets a script choose which.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from consensus.errors import Damaged, StoreFull
from consensus.store import Store, Write
from raftbroker.storage.engine import DELETE, FAMILIES, PUT, Batch, Family

from .loop import PROCESS

ROOMY = 1 << 40
"""The capacity of a disk that is not full."""
Undo = list[tuple[str, bytes, bytes | None]]
"""(family, key, the value before or None), in the order of the changes."""


class Table:
    """Rows in key order. A shared one is copied before it is changed, so that a view of it costs nothing."""

    __slots__ = ("keys", "rows", "shared", "size")

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.size = 0
        self.shared = False

    def copy(self) -> "Table":
        twin = Table()
        twin.rows, twin.keys, twin.size = dict(self.rows), list(self.keys), self.size
        return twin

    def put(self, key: bytes, value: bytes) -> bytes | None:
        """Returns what was there before."""
        rows = self.rows
        old = rows.get(key)
        if old is None:
            keys = self.keys
            if not keys or key > keys[-1]:
                keys.append(key)
            else:
                insort(keys, key)
            self.size += len(key) + len(value)
        else:
            self.size += len(value) - len(old)
        rows[key] = value
        return old

    def delete(self, key: bytes) -> bytes | None:
        old = self.rows.pop(key, None)
        if old is not None:
            self.size -= len(key) + len(old)
            del self.keys[bisect_left(self.keys, key)]
        return old

    def range(self, first: bytes, last: bytes) -> list[bytes]:
        return self.keys[bisect_left(self.keys, first) : bisect_left(self.keys, last)]


class Tables(dict[str, Table]):
    """The column families of one disk."""

    def __init__(self) -> None:
        super().__init__((family, Table()) for family in FAMILIES)

    def view(self) -> "Tables":
        """The tables as they are now, whatever is written later."""
        for table in self.values():
            table.shared = True
        twin = Tables()
        twin.update(self)
        return twin

    @property
    def size(self) -> int:
        return sum(table.size for table in self.values())

    def own(self, family: str) -> Table:
        """The table, no view's any more."""
        table = self[family]
        if table.shared:
            table = self[family] = table.copy()
        return table

    def play(self, batch: Batch) -> Undo:
        undo: Undo = []
        for kind, family, key, value in batch.operations:
            table = self.own(family)
            if kind == PUT:
                undo.append((family, key, table.put(key, value)))
            elif kind == DELETE:
                undo.append((family, key, table.delete(key)))
            else:
                undo += [(family, gone, table.delete(gone)) for gone in table.range(key, value)]
        return undo

    def rewind(self, undo: Undo) -> None:
        for family, key, value in reversed(undo):
            if value is None:
                self.own(family).delete(key)
            else:
                self.own(family).put(key, value)


@dataclass
class Pace:
    """How long the disk takes, in seconds: for a write or a sync, usually and now and then."""

    least: float = 0.0005
    most: float = 0.006
    spike_chance: float = 0.01
    spike_most: float = 0.05

    def draw(self, random: Random) -> float:
        if random.random() < self.spike_chance:
            return random.uniform(self.most, self.spike_most)
        return random.uniform(self.least, self.most)


class Platter:
    """One node's disk, through all its lives. `written` and `synced` count batches: a crash leaves a number between."""

    def __init__(self, random: Random, capacity: int = ROOMY) -> None:
        self.random = random
        self.capacity = capacity
        self.pace = Pace()
        self.stuck = False
        self.failing = False
        """The next sync raises OSError, once: what is durable then is not known."""
        self.current = Tables()
        self.pending: list[Undo] = []
        """How to forget each batch not yet synced."""
        self.written = 0
        self.synced = 0
        self.rotten: set[tuple[str, bytes]] = set()
        """Rows whose block fails RocksDB's own checksum."""
        self.on_crash: Callable[[int], None] = lambda kept: None

    def crash(self, keep: int | None = None) -> None:
        """Power is lost: what was synced stays, and a prefix of the rest."""
        kept = self.random.randint(0, len(self.pending)) if keep is None else min(keep, len(self.pending))
        for undo in reversed(self.pending[kept:]):
            self.current.rewind(undo)
        self.pending.clear()
        self.written = self.synced = self.synced + kept
        self.on_crash(self.synced)

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        self.current = Tables()
        self.pending.clear()
        self.rotten.clear()
        self.written = self.synced = 0

    def rot(self, family: str, key: bytes) -> None:
        """One bit of a row flips. In an entry, the store's own CRC must tell; elsewhere the engine notices by the
        checksum of the block, as RocksDB does, and raises Damaged. `flip` is for what the engine cannot notice."""
        if family == "raft":
            self.flip(family, key)
        else:
            self.rotten.add((family, key))

    def flip(self, family: str, key: bytes) -> None:
        """One bit of a row changes, and nothing but a CRC in or beside the row can tell."""
        table = self.current.own(family)
        value = table.rows.get(key)
        if value:
            bit = self.random.randrange(len(value) * 8)
            changed = bytearray(value)
            changed[bit // 8] ^= 1 << bit % 8
            table.rows[key] = bytes(changed)


class View:
    """What a reader sees: `current` at one moment. Implements the engine's EngineView."""

    def __init__(self, platter: Platter, tables: Tables) -> None:
        self._platter = platter
        self._tables = tables

    def get(self, family: Family, key: bytes) -> bytes | None:
        if (family, key) in self._platter.rotten:
            raise Damaged(f"block checksum mismatch in {family}")
        return self._tables[family].rows.get(key)

    def scan(self, family: Family, low: bytes, high: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        table = self._tables[family]
        found = [(key, table.rows[key]) for key in table.range(low, high)]
        rotten = self._platter.rotten
        for key, value in reversed(found) if reverse else found:
            if rotten and (family, key) in rotten:
                raise Damaged(f"block checksum mismatch in {family}")
            yield key, value

    def close(self) -> None:
        """Nothing is held."""


class SimEngine(View):
    """The open store of one life; severed when that life ends."""

    def __init__(self, platter: Platter) -> None:
        super().__init__(platter, platter.current)
        self.severed = False

    def write(self, batch: Batch) -> None:
        assert not self.severed, "a dead node writes"
        platter = self._platter
        if batch.size and platter.current.size + self._growth(batch) > platter.capacity:
            raise StoreFull("the simulated disk is full")
        platter.pending.append(platter.current.play(batch))
        platter.written += 1

    def _growth(self, batch: Batch) -> int:
        if self._platter.current.size + batch.size <= self._platter.capacity:
            return 0
        rows = self._platter.current
        puts = [(f, k, v) for kind, f, k, v in batch.operations if kind == PUT]
        return sum(len(v) - len(rows[f].rows[k]) if k in rows[f].rows else len(k) + len(v) for f, k, v in puts)

    def sync(self) -> None:
        assert not self.severed, "a dead node syncs"
        platter = self._platter
        if platter.failing:
            platter.failing = False
            raise OSError(5, "the simulated disk fails")
        platter.synced = platter.written
        platter.pending.clear()

    def snapshot(self) -> View:
        return View(self._platter, self._platter.current.view())

    def free_bytes(self) -> int:
        return max(0, self._platter.capacity - self._platter.current.size)

    def close(self) -> None:
        self.severed = True


STAGES = ("taken", "written", "synced")


class SimDisk:
    """`consensus.store.Disk` on virtual time. At each stage the node may be killed."""

    def __init__(self, store: Store, platter: Platter) -> None:
        self.store = store
        self.platter = platter
        self.on_stage: Callable[[str], None] = lambda stage: None

    async def _stage(self, stage: str, pause: bool) -> None:
        self.on_stage(stage)
        platter, process = self.platter, PROCESS.get()
        if process is not None and not process.alive:
            await asyncio.get_running_loop().create_future()  # killed by the hook, here and now
        if pause:
            await asyncio.sleep(platter.pace.draw(platter.random))
        while platter.stuck:  # noqa: ASYNC110  an event would need to know its loop
            await asyncio.sleep(0.05)

    async def commit(self, writes: Sequence[Write]) -> None:
        draw = self.platter.random.random
        await self._stage("taken", draw() < 0.3)
        self.store.write(writes)
        await self._stage("written", True)
        self.store.sync()
        await self._stage("synced", draw() < 0.3)

"""What a golden transcript's nodes are made of, where it is not the real thing: the machine, the disk, the timers."""

import asyncio
import random
from collections.abc import Callable, Sequence

from consensus.host import Host
from consensus.machine import Applied
from consensus.model import Entry, Member
from consensus.store import KeyRange, Write
from consensus.transport import Inbox, Peer
from raftbroker.storage.store import LogStore
from tests.simulation.disk import Platter
from tests.unit.consensus.transcript_text import Text


class Patience(random.Random):
    """Not random at all: the lower the node's number, the sooner it loses patience, or else none ever does."""

    def __init__(self, node: int, endless: bool) -> None:
        super().__init__(node)
        self._part = 1e6 if endless else node / 10

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._part


class Words:
    """The machine: a list of words, each stored once more as a payload; `trim N` drops the first ones."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.rows: dict[bytes, bytes] = {}
        self.start = self.next = 0
        self.tail = 0

    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        self.rows = dict(rows)
        self.start, self.next = _bounds(rows)

    def apply(self, entries: Sequence[Entry]) -> Applied:
        changed: dict[bytes, bytes | None] = {}
        gone: list[KeyRange] = []
        for entry in entries:
            word = entry.command.decode()
            if word.startswith("trim "):
                start = min(int(word.split()[1]), self.next)
                gone.append((payload_key(self.start), payload_key(start)))
                changed.update((row_key(offset), None) for offset in range(self.start, start))
                self.start = max(start, self.start)
            else:
                changed[row_key(self.next)] = word.encode()
                self.next += 1
        changed[b"m"] = b"%d %d" % (self.start, self.next)
        for key, value in changed.items():
            self.rows.pop(key, None)
            if value is not None:
                self.rows[key] = value
        if entries:
            words = ", ".join(f'{entry.index} "{entry.command.decode()}"' for entry in entries)
            self._say(f"applies {words}")
        return Applied(changed, gone)

    def payload_ranges(self) -> list[KeyRange]:
        return [(payload_key(self.start), payload_key(self.next))]

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        start, end = _bounds(rows)
        return [(payload_key(start), payload_key(end))]

    def led(self, term: int) -> None:
        self.tail = self.next

    def unled(self) -> None:
        """Nothing is kept for that."""


def _bounds(rows: dict[bytes, bytes]) -> tuple[int, int]:
    start, end = rows.get(b"m", b"0 0").split()
    return int(start), int(end)


def payload_key(offset: int) -> bytes:
    return b"r%03d" % offset


def row_key(offset: int) -> bytes:
    return b"w%03d" % offset


class ManualDisk:
    """One batch at a time, durable when told so."""

    def __init__(self, say: Callable[[str], None], text: Text) -> None:
        self._say = say
        self._text = text
        self.under_way: tuple[Sequence[Write], asyncio.Future[None]] | None = None
        self.count = 0

    async def commit(self, writes: Sequence[Write]) -> None:
        self.count += 1
        self._say(f"batch {self.count}: {' | '.join(self._text.write(write) for write in writes)}")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.under_way = (writes, future)
        await future


class Node:
    """One node through all its lives."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lost = 0
        self.platter = Platter(random.Random(number))
        self.host: Host | None = None
        self.disk: ManualDisk | None = None
        self.store: LogStore | None = None
        self.inbox: Inbox | None = None
        self.peer: Peer | None = None
        self.machine: Words | None = None
        self.shown: tuple[object, ...] = ()
        self.commit = 0
        self.lives = 0

    @property
    def uuid(self) -> str:
        return f"{self.number * 100 + self.lost:032x}"

    @property
    def member(self) -> Member:
        return Member(self.number, self.uuid)

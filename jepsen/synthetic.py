"""Histories of a log that does nothing wrong, made from a random number generator: for tests of the checkers and of
their speed.

A handful of clients send to and poll from a perfect log. Each operation takes effect at one instant between its
invocation and its completion, or, if it ends as `info`, perhaps later or never; some fail and have no effect. Clients
crash and come back under new process numbers, transactions leave gaps in the offsets, subscribed consumers are
rebalanced within and between polls. In the end every client starts afresh and reads everything. Such a history has no
anomaly, whatever was drawn.
"""

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import TypeAlias

import msgspec

Pair: TypeAlias = list[int]
MicroOp: TypeAlias = tuple[str] | tuple[str, int, int | Pair] | tuple[str, dict[int, list[Pair]]]

FINAL_POLL_RECORDS = 40


class Shape(msgspec.Struct, frozen=True):
    """What the history is made of; probabilities are per operation."""

    operations: int = 200
    keys: int = 3
    clients: int = 5
    sends_max: int = 2
    polled_max: int = 8
    subscribe: bool = False
    transactions: float = 0.1
    info: float = 0.05
    fail: float = 0.05
    crash: float = 0.01
    assign: float = 0.03
    gap: float = 0.1
    rebalance: float = 0.1


class Event(msgspec.Struct):
    """One line of a history. `value` holds micro-operations as tuples, or keys; `extra` is EDN for further keys of the
    line."""

    type: str
    process: int
    f: str
    value: Sequence[MicroOp | int]
    extra: str = ""


class _Client:
    """One client: its place in each key it reads, and the operation that it has open."""

    def __init__(self, process: int) -> None:
        self.process = process
        self.positions: dict[int, int] = {}
        self.open: Event | None = None
        self.end: Event | None = None
        self.moved: dict[int, int] = {}
        self.rebalanced: set[int] = set()


class _Log:
    """The log itself: per key the records, each with its offset."""

    def __init__(self, shape: Shape, random: Random) -> None:
        self.shape, self.random = shape, random
        self.clients = [_Client(process) for process in range(shape.clients)]
        self.records: list[list[Pair]] = [[] for _ in range(shape.keys)]
        self.offsets = [0] * shape.keys
        self.values = [0] * shape.keys
        self.late: list[list[MicroOp]] = []

    def apply(self, client: _Client, value: list[MicroOp], *, transaction: bool = False) -> list[MicroOp]:
        """Every micro-operation at this instant; polls first, for a transaction does not see its own sends."""
        done = [self.poll(client) if one[0] == "poll" else one for one in value]
        for place, one in enumerate(done):
            if len(one) == 3 and isinstance(one[2], int):
                done[place] = ("send", one[1], self._append(one[1], one[2]))
                self.offsets[one[1]] += transaction  # the marker that ends a transaction takes an offset
        return done

    def poll(self, client: _Client) -> MicroOp:
        polled: dict[int, list[Pair]] = {}
        left = self.random.randint(0, self.shape.polled_max)
        for key in sorted(client.positions):
            records = self.records[key]
            start = client.moved.get(key, client.positions[key])
            found = records[start : start + left]
            left -= len(found)
            if not found:
                continue
            client.moved[key] = start + len(found)
            if self.shape.subscribe and self.random.random() < self.shape.rebalance:
                client.rebalanced.add(key)
                start = self.random.randint(0, len(records))
                found = [*found, *records[start : start + left]]
                client.moved[key] = start + len(records[start : start + left])
            polled[key] = found
        return "poll", polled

    def _append(self, key: int, value: int) -> Pair:
        if self.random.random() < self.shape.gap:
            self.offsets[key] += self.random.randint(1, 2)
        record = [self.offsets[key], value]
        self.offsets[key] += 1
        self.records[key].append(record)
        return record


def events(shape: Shape, random: Random) -> Iterator[Event]:
    """The lines of one history, in order."""
    log = _Log(shape, random)
    begun = 0
    while begun < shape.operations:
        client = random.choice(log.clients)
        if client.open is None:
            yield _begin(log, client)
            begun += 1
        elif client.end is None:
            _take_effect(log, client)
        else:
            yield _complete(log, client)
        if log.late and random.random() < 0.05:
            log.apply(client, log.late.pop(random.randrange(len(log.late))))
    for client in log.clients:
        if client.open is not None:
            if client.end is None:
                _take_effect(log, client)
            yield _complete(log, client)
    yield from _read_everything(log)


def _begin(log: _Log, client: _Client) -> Event:
    random, shape = log.random, log.shape
    drawn = random.random()
    value: Sequence[MicroOp | int]
    if not client.positions or drawn < shape.assign:
        f = "subscribe" if shape.subscribe else "assign"
        value = random.sample(range(shape.keys), random.randint(1, shape.keys))
    elif drawn < shape.assign + shape.crash:
        f, value = "crash", []
    elif drawn < shape.assign + shape.crash + shape.transactions:
        f, value = "txn", [("poll",), *_sends(log), ("poll",)]
    elif random.random() < 0.5:
        f, value = "send", _sends(log)
    else:
        f, value = "poll", [("poll",)] * random.choice((1, 1, 1, 2))
    client.open = Event("invoke", client.process, f, value)
    return client.open


def _sends(log: _Log) -> list[MicroOp]:
    made: list[MicroOp] = []
    for _ in range(log.random.randint(1, log.shape.sends_max)):
        key = log.random.randrange(log.shape.keys)
        log.values[key] += 1
        made.append(("send", key, log.values[key]))
    return made


def _take_effect(log: _Log, client: _Client) -> None:
    """The instant at which the open operation happens, or turns out not to; how it will end is settled here."""
    asked, shape, random = client.open, log.shape, log.random
    assert asked is not None
    client.moved, client.rebalanced = {}, set()
    end = Event("ok", client.process, asked.f, asked.value)
    client.end = end
    drawn = random.random()
    if asked.f == "crash":
        end.type = "info"
    elif drawn < shape.fail:
        end.type, end.extra = "fail", ":error :refused"
    elif drawn < shape.fail + shape.info:
        end.type, end.extra = "info", ":error :timeout"
        fate = random.choice(("done", "told", "late", "never"))
        sends = [one for one in asked.value if isinstance(one, tuple) and one[0] == "send"]
        if fate in ("done", "told"):
            done = log.apply(client, sends)
            end.value = done if fate == "told" and done else asked.value
        elif fate == "late":
            log.late.append(sends)
    elif asked.f not in ("assign", "subscribe"):
        micro_ops = [one for one in asked.value if isinstance(one, tuple)]
        end.value = log.apply(client, micro_ops, transaction=asked.f == "txn")
        if client.rebalanced:
            end.extra = f":rebalance-log [{{:keys [{' '.join(map(str, sorted(client.rebalanced)))}]}}]"


def _complete(log: _Log, client: _Client) -> Event:
    end, random = client.end, log.random
    assert end is not None
    client.open, client.end = None, None
    if end.type == "info":
        client.process += log.shape.clients
        client.positions = {}
    elif end.type == "ok":
        if end.f in ("assign", "subscribe"):
            kept = client.positions
            keys = [key for key in end.value if isinstance(key, int)]
            client.positions = {key: kept.get(key, random.randint(0, len(log.records[key]))) for key in keys}
        else:
            client.positions.update(client.moved)
        if log.shape.subscribe and client.positions and random.random() < log.shape.rebalance:
            key = random.choice(sorted(client.positions))
            client.positions[key] = random.randint(0, len(log.records[key]))
    return end


def _read_everything(log: _Log) -> Iterator[Event]:
    for client in log.clients:
        yield Event("invoke", client.process, "crash", [])
        yield Event("info", client.process, "crash", [])
        client.process += log.shape.clients
        client.positions = dict.fromkeys(range(log.shape.keys), 0)
        everything = sorted(client.positions)
        yield Event("invoke", client.process, "assign", everything, ":seek-to-beginning? true")
        yield Event("ok", client.process, "assign", everything, ":seek-to-beginning? true")
    behind = list(log.clients)
    while behind:
        for client in behind:
            polled = {}
            for key, position in client.positions.items():
                if found := log.records[key][position : position + FINAL_POLL_RECORDS]:
                    polled[key] = found
                    client.positions[key] += len(found)
            yield Event("invoke", client.process, "poll", [("poll",)])
            yield Event("ok", client.process, "poll", [("poll", polled)])
        behind = [one for one in behind if any(one.positions[key] < len(log.records[key]) for key in one.positions)]


def lines(made: Iterable[Event]) -> Iterator[bytes]:
    """The events as a history's lines, :index and :time given."""
    for index, event in enumerate(made):
        value = " ".join(_form(one) for one in event.value)
        extra = f" {event.extra}" if event.extra else ""
        yield (
            f"{{:index {index} :time {index * 50_000} :type :{event.type} :process {event.process} "
            f":f :{event.f} :value [{value}]{extra}}}\n"
        ).encode()


def _form(one: MicroOp | int) -> str:
    if isinstance(one, int):
        return str(one)
    if len(one) == 1:
        return "[:poll]"
    if len(one) == 3:
        sent = one[2] if isinstance(one[2], int) else f"[{one[2][0]} {one[2][1]}]"
        return f"[:send {one[1]} {sent}]"
    polled = one[1]
    assert isinstance(polled, dict)
    keys = (f"{key} [{' '.join(f'[{offset} {value}]' for offset, value in pairs)}]" for key, pairs in polled.items())
    return f"[:poll {{{', '.join(keys)}}}]"

"""The definitions of the log's anomalies, word for word and without regard for speed: what the checker must agree with.

An index is a value's last place in the version order, as in the checker and in Jepsen.
"""

from collections.abc import Iterable
from itertools import pairwise

import msgspec

from jepsen.history import NEVER, History, Op

Edges = set[tuple[int, int]]


class Oracle:
    """Finds the names, nothing else."""

    def __init__(self, history: History, *, jepsen: bool = False) -> None:
        self.jepsen = jepsen
        self.all = history.ops
        self.ops = [op for op in history.ops if op.f in ("send", "poll", "txn")]
        self.keys = {key for op in self.ops for key, _, _ in (*op.sends, *op.reads)}
        self.read_ok = {
            key: {
                value for op in self.ops if op.type == "ok" for k, _, values in op.reads if k == key for value in values
            }
            for key in self.keys
        }
        self.log = {key: self.log_of(key) for key in self.keys}
        self.order = {key: [next(iter(self.log[key][o])) for o in sorted(self.log[key])] for key in self.keys}

    def committed(self, op: Op) -> bool:
        read = any(value in self.read_ok[key] for key, _, value in op.sends)
        return op.type == "ok" or (op.type == "info" and read)

    def log_of(self, key: object) -> dict[int, dict[object, None]]:
        log: dict[int, dict[object, None]] = {}
        for op in self.ops:
            pairs = [
                (o, v) for k, offsets, values in op.reads if k == key for o, v in zip(offsets, values, strict=True)
            ]
            if self.committed(op):
                pairs += [(offset, value) for k, offset, value in op.sends if k == key]
            for offset, value in pairs:
                if offset is not None and offset >= 0:
                    log.setdefault(offset, {})[value] = None
        return log

    def index(self, key: object, value: object) -> int | None:
        places = [index for index, held in enumerate(self.order[key]) if held == value]
        return places[-1] if places else None

    def writers(self, key: object, value: object) -> list[Op]:
        return [op for op in self.ops if (key, value) in {(k, v) for k, _, v in op.sends}][-1:]

    def names(self) -> set[str]:
        found: set[str] = set()
        for key in self.keys:
            found |= self.of_key(key)
        for op in self.ops:
            found |= self.within(op)
        for process in {op.process for op in self.all}:
            found |= self.of_process([op for op in self.all if op.process == process])
        return found | self.cycles(self.ops)

    def of_key(self, key: object) -> set[str]:
        found: set[str] = set()
        log, read = self.log[key], self.read_ok[key]
        places: dict[object, list[int]] = {}
        for index, offset in enumerate(sorted(log)):
            for value in log[offset]:
                places.setdefault(value, []).append(index)
        if any(len(values) > 1 for values in log.values()):
            found.add("inconsistent-offsets")
        if any(len(indexes) > 1 for indexes in places.values()):
            found.add("duplicate")
        failed = {v for op in self.ops if op.type == "fail" for k, _, v in op.sends if k == key}
        if failed & read:
            found.add("G1a")
        bound = max((places[value][0] for value in read if value in places), default=-1)
        for value, indexes in places.items():
            if indexes[-1] <= bound and value not in read and any(map(self.committed, self.writers(key, value))):
                found.add("lost-write")
            if not self.jepsen and not self.writers(key, value):
                found.add("invented")
        sent = {v for op in self.ops if op.type == "ok" for k, _, v in op.sends if k == key}
        if sent - read:
            found.add("unseen")
        return found

    def within(self, op: Op) -> set[str]:
        found: set[str] = set()
        for key, _, values in op.reads:
            if any((key, value) in {(k, v) for k, _, v in op.sends} for value in values):
                found.add("precommitted-read")
            for delta in self.deltas(key, values):
                if delta != 1:
                    found.add("int-poll-skip" if delta > 1 else "int-nonmonotonic-poll")
        for key in self.keys:
            for delta in self.deltas(key, [value for k, _, value in op.sends if k == key]):
                if delta != 1:
                    found.add("int-send-skip" if delta > 1 else "int-nonmonotonic-send")
        return found

    def deltas(self, key: object, values: list[object]) -> Iterable[int]:
        for one, other in pairwise(values):
            before, after = self.index(key, one), self.index(key, other)
            if before is not None and after is not None:
                yield after - before

    def of_process(self, ops: list[Op]) -> set[str]:
        found: set[str] = set()
        for key in self.keys:
            last_read: int | None = None
            last_sent: int | None = None
            for op in ops:
                if op.f in ("assign", "subscribe") and op.type in ("ok", "info") and key not in _asked(op):
                    last_read = None
                    last_sent = None if self.jepsen else last_sent
                indexes = [self.index(key, v) for k, _, values in op.reads if k == key for v in values]
                empty = any(k == key and not values for k, _, values in op.reads)
                if indexes and last_read is not None and indexes[0] is not None and indexes[0] != last_read + 1:
                    found.add("poll-skip" if indexes[0] > last_read else "nonmonotonic-poll")
                if op.type == "ok" and (
                    (indexes and (self.jepsen or indexes[-1] is not None)) or (empty and self.jepsen)
                ):
                    last_read = indexes[-1] if indexes else None
                sends = [self.index(key, v) for k, _, v in op.sends if k == key]
                if not self.jepsen:
                    sends = [index for index in sends if index is not None]
                if sends and op.type != "fail":
                    if last_sent is not None and sends[0] is not None and sends[0] <= last_sent:
                        found.add("nonmonotonic-send")
                    last_sent = sends[-1]
        return found

    # --- cycles: all edges, no shortcuts ---

    def pieces(self) -> list[Op]:
        """As if a transaction were not one step: its reads and each of its sends are operations of their own."""
        made: list[Op] = []
        for op in self.ops:
            parts = [((), op.reads), *(((send,), ()) for send in op.sends)] if op.f == "txn" else [(op.sends, op.reads)]
            for sends, reads in parts:
                made.append(msgspec.structs.replace(op, number=len(made), sends=sends, reads=reads))
        return made

    def cycles(self, ops: list[Op]) -> set[str]:
        ww: Edges = set()
        wr: Edges = set()
        writer = {(key, value): op for op in ops for key, _, value in op.sends}
        for key in self.keys:
            known = [writer[key, value].number for value in self.order[key] if (key, value) in writer]
            ww |= {(one, other) for one, other in pairwise(known) if one != other}
        for op in ops:
            for key, _, values in op.reads:
                found = [writer[key, value] for value in values if (key, value) in writer]
                wr |= {(one.number, op.number) for one in found if one is not op}
        pairs = [(a, b) for a in ops for b in ops if a.type == "ok" and a.ended < b.invoked and a.ended != NEVER]
        realtime = {(a.number, b.number) for a, b in pairs}
        process = {(a.number, b.number) for a, b in pairs if a.process == b.process}
        names: set[str] = set()
        for part in components(ww | wr | realtime):
            inside = [{edge for edge in edges if part >= set(edge)} for edges in (ww, wr, process, realtime)]
            names |= self.named(*inside)
        return names

    def named(self, ww: Edges, wr: Edges, process: Edges, realtime: Edges) -> set[str]:
        if components(ww):
            return {"G0"}
        found = {"G1c"} if components(ww | wr) else set()
        for name, order in (("-process", process), ("-realtime", realtime)):
            if name == "-process" and self.jepsen:
                continue
            if components(ww | order):
                found.add(f"G0{name}")
            elif "G1c" not in found and components(ww | wr | order):
                found.add(f"G1c{name}")
        return found


def components(edges: Edges) -> list[set[int]]:
    """The strongly connected components of more than one node, by the transitive closure."""
    nodes = {node for edge in edges for node in edge}
    reached = {node: {b for a, b in edges if a == node} for node in nodes}
    for middle in nodes:
        for node in nodes:
            if middle in reached[node]:
                reached[node] |= reached[middle]
    found: list[set[int]] = []
    for node in nodes:
        part = {other for other in reached[node] if node in reached[other]}
        if len(part | {node}) > 1 and (part | {node}) not in found:
            found.append(part | {node})
    return found


def _asked(op: Op) -> tuple[object, ...]:
    assert isinstance(op.value, tuple)
    return op.value

"""Cycles: operations that cannot have happened in any one order.

    ww          the writer of a version to the writer of the next one of the same key
    wr          a writer to every reader of its value
    process     an operation that ended ok to the next one of its process
    realtime    an operation that ended ok to every one invoked after that

- G0: a cycle of ww; G1c: of ww and wr; G0-process, G1c-process: the same with process order; G0-realtime, G1c-realtime:
  with real time.

As in Elle, every strongly connected component of the whole graph is named by the worst in it: G0 hides everything else,
G1c hides G1c-process and -realtime, G0-realtime hides G1c-realtime. Jepsen has no process order, real time being the
stronger one, and allows all cycles, because transactions of Kafka are not isolated from each other. Here a cycle is
allowed only if it takes a transaction to be one atomic step: one that is there still when each send and the reads of
a `txn` are operations of their own, anywhere between its invocation and its completion, is bad.

The search is linear: of a reader's wr edges only the one from its newest version counts, for ww leads there from all
others.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from jepsen.checkers.graph import Successors, Timeline, components, later_only, not_in_order, shortest_cycle
from jepsen.checkers.log.observed import Observed
from jepsen.checkers.verdict import Example, Findings, Rules
from jepsen.history import MICRO_OPS, Op

NAMES = tuple(f"{name}{order}" for name in ("G0", "G1c") for order in ("", "-process", "-realtime"))
EDGES_LOOKED_AT_MAX = 1_000_000
"""In search of a short example, per component and name."""

STEPS_SHOWN_MAX = 32

Steps = dict[int, dict[int, Example]]
"""from -> to -> why."""


Writers = dict[object, dict[object, Op]]
"""key -> value -> who sent it."""


def check(observed: Observed, rules: Rules, findings: Findings) -> None:
    whole = _Cycles(observed, observed.ops, observed.writer, rules)
    if rules.jepsen:
        whole.report(findings, hide=set())
        findings.allow(*NAMES)
    elif any(op.f == "txn" and op.sends for op in observed.ops):
        pieces = list(_pieces(observed.ops))
        writer: Writers = {}
        for op in pieces:
            for key, _, value in op.sends:
                writer.setdefault(key, {})[value] = op
        bad = _Cycles(observed, pieces, writer, rules).report(findings, hide=set())
        whole.report(findings, hide=bad)
        findings.allow(*(set(NAMES) - bad))
    else:
        whole.report(findings, hide=set())


def _pieces(ops: Iterable[Op]) -> Iterable[Op]:
    """The operations, each send of a transaction and its reads on their own; numbered anew."""
    number = 0
    for op in ops:
        apart = op.f == "txn" and len(op.sends) + bool(op.reads) > 1
        parts = [(op.sends, op.reads)] if not apart else [((), op.reads), *(((send,), ()) for send in op.sends)]
        for sends, reads in parts:
            yield msgspec.structs.replace(op, number=number, sends=sends, reads=reads)
            number += 1


class _Cycles:
    """The graph of `ops`, whose place in the list is their number; `writer` knows who of them sent what."""

    def __init__(self, observed: Observed, ops: list[Op], writer: Writers, rules: Rules) -> None:
        self.observed, self.ops, self.writer = observed, ops, writer
        ends = [op.ended if op.type == "ok" and op.f in MICRO_OPS else None for op in ops]
        self.time = Timeline([op.invoked for op in ops], ends)
        self.orders = ("-realtime",) if rules.jepsen else ("-process", "-realtime")
        self.writers = {key: self._writers_of(key) for key in observed.orders}

    def _writers_of(self, key: object) -> list[int]:
        """index -> the operation that wrote that version, -1 if none is known."""
        found = map(self.writer.get(key, {}).get, self.observed.orders[key].values)
        return [-1 if op is None else op.number for op in found]

    def report(self, findings: Findings, hide: set[str]) -> set[str]:
        """Adds what it finds but `hide`; gives back the names of all that it found."""
        named: set[str] = set()
        for name, cycle in self._search():
            named.add(name)
            if name not in hide:
                findings.add(name, **cycle)
        return named

    def _search(self) -> Iterable[tuple[str, Example]]:
        edges: list[Sequence[int]] = [()] * self.time.size
        for before, after, _, _ in self._ww():
            edges[before] = (*edges[before], after)
        readers: dict[int, list[int]] = {}
        for op in self.ops:
            if op.reads and (op.type == "ok" or op.sends):
                for writer in self._newest_writers(op):
                    readers.setdefault(writer, []).append(op.number)
        for writer, numbers in readers.items():
            edges[writer] = (*edges[writer], *numbers)
        suspects = not_in_order(edges, self.time)
        if not suspects:
            return
        size = self.time.size
        parts = components(suspects, lambda node: (*(edges[node] if node < size else ()), *self.time.after(node)))
        part_of = {node: place for place, part in enumerate(parts) for node in part if node < size}
        ww, wr = self._explained(part_of)
        for part in parts:
            yield from _Component(self.ops, self.time, part, ww, wr).cycles(self.orders)

    def _explained(self, part_of: dict[int, int]) -> tuple[Steps, Steps]:
        """The edges within components, each with its reason; of wr edges all."""
        ww: Steps = {}
        wr: Steps = {}
        for before, after, key, (index, following) in self._ww():
            if before in part_of and part_of[before] == part_of.get(after):
                values = self.observed.orders[key].values
                why: Example = {"type": "ww", "key": key, "value": values[index], "next": values[following]}
                ww.setdefault(before, {}).setdefault(after, why)
        for number, part in part_of.items():
            for key, _, values_read in self.ops[number].reads:
                for writer, value in self.writers_read(self.ops[number], key, values_read):
                    if part_of.get(writer) == part:
                        wr.setdefault(writer, {}).setdefault(number, {"type": "wr", "key": key, "value": value})
        return ww, wr

    def _ww(self) -> Iterable[tuple[int, int, object, tuple[int, int]]]:
        """(writer, writer of the next version, key, the two indexes)."""
        for key, writers in self.writers.items():
            last = -1
            last_index = -1
            for index, writer in enumerate(writers):
                if writer >= 0:
                    if writer != last and last >= 0:
                        yield last, writer, key, (last_index, index)
                    last, last_index = writer, index

    def _newest_writers(self, op: Op) -> Iterable[int]:
        """Per key read, the writer of the newest version; of all of them if they do not follow each other."""
        for key, _, values in op.reads:
            order = self.observed.orders.get(key)
            if order is None or not values:
                continue
            newest = -1
            if order.follow_each_other(values):
                newest = self.writers[key][order.index_of[values[-1]]]
            if newest >= 0:
                if newest != op.number:
                    yield newest
            else:
                yield from {writer for writer, _ in self.writers_read(op, key, values)}

    def writers_read(self, op: Op, key: object, values: Iterable[object]) -> Iterable[tuple[int, object]]:
        """(writer, value) of every value that another operation wrote."""
        written = self.writer.get(key, {})
        for value in values:
            writer = written.get(value)
            if writer is not None and writer is not op:
                yield writer.number, value


class _Component:
    """One strongly connected component, small or large: names it and finds an example of each name.

    Its nodes are operations and the completions between them; `ww` and `wr` do not lead out of it.
    """

    def __init__(self, ops: list[Op], time: Timeline, nodes: list[int], ww: Steps, wr: Steps) -> None:
        self.ops, self.time = ops, time
        self.inside = set(nodes)
        self.members = members = sorted(node for node in nodes if node < time.size)
        self.ww, self.wr = ww, wr
        self.next_of_process = _next_of_process(ops, members)

    def cycles(self, orders: Iterable[str]) -> Iterable[tuple[str, Example]]:
        g0 = self._find([self.ww], "")
        if g0:
            yield "G0", g0
            return
        g1c = self._find([self.ww, self.wr], "")
        if g1c:
            yield "G1c", g1c
        for order in orders:
            found = self._find([self.ww], order)
            if found:
                yield f"G0{order}", found
            elif not g1c and (found := self._find([self.ww, self.wr], order)):
                yield f"G1c{order}", found

    def _find(self, data: list[Steps], order: str) -> Example | None:
        """A short cycle of these edges, if there is any."""
        pair = self._pair(data, order)
        if pair:
            return self._explain(pair, data, order)
        found = components(self.members, lambda node: [*_targets(data, node), *self._next_in(order, node)])
        parts = [sorted(node for node in part if node < self.time.size) for part in found]
        if not parts:
            return None
        part = min(parts, key=len)
        return self._explain(shortest_cycle(part, self._search_in(part, data, order), EDGES_LOOKED_AT_MAX), data, order)

    def _pair(self, data: list[Steps], order: str) -> list[int] | None:
        """Two operations that each come before the other."""
        for before in self.members:
            for after in _targets(data, before):
                if before in _targets(data, after) or self._precedes(after, before, order):
                    return [before, after]
        return None

    def _precedes(self, one: int, other: int, order: str) -> bool:
        first, second = self.ops[one], self.ops[other]
        if not order or first.type != "ok" or first.ended > second.invoked:
            return False
        return order == "-realtime" or first.process == second.process

    def _next_in(self, order: str, node: int) -> Iterable[int]:
        if order == "-realtime":
            return [following for following in self.time.after(node) if following in self.inside]
        return self.next_of_process.get(node, ()) if order == "-process" else ()

    def _search_in(self, part: list[int], data: list[Steps], order: str) -> Callable[[], Successors]:
        """For breadth-first searches in one part: real time leads straight to operations, not over completions."""
        inside = set(part)
        invoked = [self.ops[number].invoked for number in part]

        def search() -> Successors:
            later = later_only(part, invoked)

            def successors(node: int) -> Iterable[int]:
                yield from (target for target in _targets(data, node) if target in inside)
                if order == "-realtime" and self.ops[node].type == "ok":
                    yield from later(self.ops[node].ended)
                elif order == "-process":
                    yield from self._next_in(order, node)

            return successors

        return search

    def _explain(self, cycle: list[int], data: list[Steps], order: str) -> Example:
        steps: list[Example] = []
        ops: list[Op] = []
        for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            why = next((edges[before][after] for edges in data if after in edges.get(before, ())), None)
            if why is None:
                why = {"type": order[1:]}
                if steps and steps[-1] == why:
                    continue  # the process went on over operations that play no part
            steps.append(why)
            ops.append(self.ops[before])
        return {"length": len(steps), "cycle": ops[:STEPS_SHOWN_MAX], "steps": steps[:STEPS_SHOWN_MAX]}


def _next_of_process(ops: list[Op], members: list[int]) -> dict[int, list[int]]:
    """From what ended ok to what its process did next, up to and with the next that ended ok.

    Pieces of one operation, which were invoked at once, do not follow each other.
    """
    following: dict[int, list[int]] = {}
    groups: dict[int, tuple[list[int], list[int], int]] = {}
    for number in members:
        op = ops[number]
        before, current, invoked = groups.get(op.process, ([], [], -1))
        if op.invoked != invoked and current:
            before, current = current, []
        for one in before:
            following.setdefault(one, []).append(number)
        if op.type == "ok":
            current.append(number)
        groups[op.process] = before, current, op.invoked
    return following


def _targets(data: list[Steps], node: int) -> list[int]:
    return [target for edges in data for target in edges.get(node, ())]

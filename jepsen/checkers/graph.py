"""Directed graphs over whole numbers: strongly connected components, and short cycles."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence

Successors = Callable[[int], Iterable[int]]


def components(nodes: Iterable[int], successors: Successors) -> list[list[int]]:
    """The strongly connected components of more than one node, by Tarjan's algorithm; linear, and without recursion.

    Whatever can be reached from `nodes` is looked at; no node is its own successor.
    """
    found: list[list[int]] = []
    low: dict[int, int] = {}  # the smallest number reachable so far; DONE once its component is complete
    path: list[int] = []
    done = 1 << 62
    for root in nodes:
        if root in low:
            continue
        number = low[root] = len(low)
        path.append(root)
        work = [(root, number, iter(successors(root)))]
        while work:
            node, number, rest = work[-1]
            for target in rest:
                seen = low.get(target)
                if seen is None:
                    fresh = low[target] = len(low)
                    path.append(target)
                    work.append((target, fresh, iter(successors(target))))
                    break
                if seen < low[node]:
                    low[node] = seen
            else:
                work.pop()
                if low[node] == number:
                    component = _pop_until(path, node)
                    for member in component:
                        low[member] = done
                    if len(component) > 1:
                        found.append(component)
                elif work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
    return found


def _pop_until(path: list[int], node: int) -> list[int]:
    members = []
    while True:
        members.append(path.pop())
        if members[-1] == node:
            return members


class Timeline:
    """Which operation ended before which began, in a number of edges linear in the operations.

    Each completion is a node too, and follows the one before it: an operation leads to its own completion, the newest
    completion before an invocation leads to that operation. One operation is thus before another in real time exactly
    if a path of completions leads from one to the other.
    """

    def __init__(self, invoked: Sequence[int], ended: Sequence[int | None]) -> None:
        """`invoked` ascending; `ended` beside it, None for what may take effect at any later time."""
        self.invoked, self.ended = invoked, ended
        self.size = len(invoked)
        self.completed = sorted(
            (node for node, end in enumerate(ended) if end is not None), key=lambda node: ended[node] or 0
        )
        """Operations in the order of their completions."""
        self._ended = [ended[node] or 0 for node in self.completed]
        self._first_after = [0] * (len(self._ended) + 2)
        """place -> the first operation invoked after so many completions."""
        node = 0
        for place, end in enumerate(self._ended, 1):
            node = bisect_right(invoked, end, node)
            self._first_after[place] = node
        self._first_after[-1] = self.size

    def released_by(self, completions: int) -> int:
        """How many operations were invoked before the next completion after so many."""
        return self._first_after[completions + 1]

    def after(self, node: int) -> Iterable[int]:
        """The successors in time of an operation or of a completion."""
        if node < self.size:
            end = self.ended[node]
            return () if end is None else (self.size + bisect_left(self._ended, end),)
        place = node - self.size + 1
        begun = range(self._first_after[place], self._first_after[place + 1])
        return (node + 1, *begun) if place < len(self.completed) else begun


def not_in_order(edges: Sequence[Sequence[int]], time: Timeline) -> list[int]:
    """The operations that cannot be put into one order that `edges`, from each operation to others, and real time agree
    with.

    They hold every cycle, and what comes after one. Empty for a graph without cycles, and that is told in one quick
    pass.
    """
    waiting_for = [0] * time.size
    for targets in edges:
        for target in targets:
            waiting_for[target] += 1
    done = bytearray(time.size)
    completed = time.completed
    passed, released = 0, time.released_by(0)
    ready = [node for node in range(released) if not waiting_for[node]]
    while ready:
        while ready:
            node = ready.pop()
            done[node] = 1
            for target in edges[node]:
                waiting_for[target] -= 1
                if not waiting_for[target] and target < released:
                    ready.append(target)
        while passed < len(completed) and done[completed[passed]]:
            passed += 1
        before, released = released, time.released_by(passed)
        for node in range(before, released):
            if not waiting_for[node]:
                ready.append(node)  # noqa: PERF401 - mostly one at a time
    return [node for node in range(time.size) if not done[node]]


Search = Callable[[], Successors]
"""Successors for one search, from which it may leave out what it has given already."""


def shortest_cycle(nodes: Sequence[int], search: Search, budget: int) -> list[int]:
    """A cycle through some of `nodes`, which are strongly connected: the shortest that looking at `budget` edges finds.

    The first node is not repeated at the end. At least one cycle is always found, however small the budget.
    """
    best: list[int] = []
    for start in nodes:
        came_from, spent = _breadth_first(start, search(), len(best) or len(nodes) + 1)
        budget -= spent
        if start in came_from:
            best = _path(start, came_from)
        if len(best) == 2 or (best and budget < 0):
            break
    return best


def _breadth_first(start: int, successors: Successors, shorter_than: int) -> tuple[dict[int, int], int]:
    """node -> the node it was reached from, until `start` is among them; and how many edges were looked at.

    Gives up where the cycle would not be shorter than `shorter_than`.
    """
    came_from: dict[int, int] = {}
    steps = {start: 0}
    queue = deque([start])
    spent = 0
    while queue and start not in came_from:
        node = queue.popleft()
        if steps[node] + 1 >= shorter_than:
            break
        for target in successors(node):
            spent += 1
            if target not in came_from:
                came_from[target] = node
                if target not in steps:
                    steps[target] = steps[node] + 1
                    queue.append(target)
    return came_from, spent


def _path(start: int, came_from: dict[int, int]) -> list[int]:
    path = [came_from[start]]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[::-1]


def later_only(nodes: Sequence[int], invoked: Sequence[int]) -> Callable[[int], Sequence[int]]:
    """A function from an index to those of `nodes` that were invoked after it and that it has not given before.

    `invoked` stands beside `nodes`, ascending.
    """
    given_from = len(nodes)

    def after(ended: int) -> Sequence[int]:
        nonlocal given_from
        first = bisect_right(invoked, ended)
        fresh = nodes[first:given_from]
        given_from = min(given_from, first)
        return fresh

    return after

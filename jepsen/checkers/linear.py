"""Linearizability of one small register: is there an order of its calls that explains every answer?

The search goes through the history once, in the manner of Wing and Gong with Lowe's just-in-time order: it keeps every
configuration that can be true (the register's value, which open calls have taken effect), and works out more of them
only when a call returns that has not taken effect in one. What makes this quick on real histories:

- a read that fits the value takes effect at once: waiting cannot help;
- calls that never return (info) stay open for ever, so they are the danger. One takes effect only where another call is
  to see its value next: else it might as well have waited. Of those with the same effect the first goes first, and
  a cas before a write, which can be of use later wherever the cas could. Of two configurations that differ only in
  which of them were used, the one that used fewer can do all that the other can.

Sound and complete within `configurations_max`; beyond that it gives up and says so.
"""

from collections.abc import Iterable, Mapping

import msgspec

READ, WRITE, CAS = "read", "write", "cas"
CONFIGURATIONS_MAX = 1_000_000
"""Beyond some for each call, which every history needs."""

CONFIGURATIONS_PER_CALL = 16
COMPARISONS_PER_CONFIGURATION = 50


class Call(msgspec.Struct, frozen=True):
    """`before` is what a read saw or a cas expected, `after` what a write or cas set. `ended` is None if it may happen
    at any time."""

    number: int
    kind: str
    invoked: int
    ended: int | None
    before: object = None
    after: object = None


class Stuck(msgspec.Struct, frozen=True):
    """`call` cannot have returned what it did: the register could only hold one of `values`."""

    call: Call
    values: list[object]
    open: list[Call]


class GaveUp(msgspec.Struct, frozen=True):
    """More configurations than allowed by the time `call` returned."""

    call: Call


Effect = tuple[object, object]
"""before and after of a call: what it takes (None for a write) and what it does."""


class _State(msgspec.Struct, frozen=True):
    """A configuration: the value, the open calls that will return and have taken effect, the others that have.

    `unseen`: the value is that of a call that may never have happened, and no call has seen it yet.
    """

    value: object
    done: frozenset[int]
    used: frozenset[int]
    unseen: bool = False


def search(
    calls: Iterable[Call], initial: object, configurations_max: int = CONFIGURATIONS_MAX
) -> Stuck | GaveUp | None:
    """None if the calls, all on one register, are linearizable."""
    return _Search(list(calls), initial, configurations_max).run()


class _Search:
    def __init__(self, calls: list[Call], initial: object, configurations_max: int) -> None:
        self.events = sorted(
            [(call.invoked, 0, call) for call in calls]
            + [(call.ended, 1, call) for call in calls if call.ended is not None],
            key=lambda event: event[:2],
        )
        self.states = {_State(initial, frozenset(), frozenset())}
        self.open: dict[int, Call] = {}
        """By number, those that will return."""
        self.perhaps: dict[str, dict[Effect, list[int]]] = {CAS: {}, WRITE: {}}
        """By kind and effect, those that will not; reads are left out."""
        self.left = configurations_max + CONFIGURATIONS_PER_CALL * len(calls)

    def run(self) -> Stuck | GaveUp | None:
        for _, returned, call in self.events:
            if not returned:
                if call.ended is not None:
                    self.open[call.number] = call
                elif call.kind != READ:
                    before = call.before if call.kind == CAS else None
                    self.perhaps[call.kind].setdefault((before, call.after), []).append(call.number)
                continue
            after = self._take_effect(call)
            if self.left < 0:
                return GaveUp(call)
            if not after:
                others = [other for other in self.open.values() if other is not call]
                return Stuck(call, [*{state.value: None for state in self.states}], others)
            self.states = after
            del self.open[call.number]
        return None

    def _take_effect(self, call: Call) -> set[_State]:
        """Every configuration in which `call` has taken effect when it returns; it is not among the `done` any more."""
        seen: set[_State] = set()
        work = list(self.states)
        reached: set[_State] = set()
        wanted = self._wanted()
        while work and self.left >= 0:
            state = self._with_reads(work.pop())
            if call.number in state.done:
                reached.add(_State(state.value, state.done - {call.number}, state.used))
            elif state not in seen:
                seen.add(state)
                self.left -= 1
                work.extend(self._steps(state, wanted))
        return self._fewest_used(reached)

    def _wanted(self) -> set[object]:
        """Values that an open call must find, or that lead to one over calls that may never have happened."""
        wanted = {call.before for call in self.open.values() if call.kind != WRITE}
        size = -1
        while size < len(wanted):
            size = len(wanted)
            wanted.update(before for before, after in self.perhaps[CAS] if after in wanted)
        return wanted

    def _with_reads(self, state: _State) -> _State:
        fitting = [
            number
            for number, call in self.open.items()
            if call.kind == READ and number not in state.done and call.before == state.value
        ]
        return _State(state.value, state.done.union(fitting), state.used) if fitting else state

    def _steps(self, state: _State, wanted: set[object]) -> Iterable[_State]:
        for number, call in self.open.items():
            fits = call.before == state.value if call.kind == CAS else call.kind == WRITE and not state.unseen
            if fits and number not in state.done:
                yield _State(call.after, state.done | {number}, state.used)
        reached: set[object] = {state.value}
        for kind in (CAS, WRITE):  # a write can do later whatever a cas can: it is the one to keep
            for (before, after), numbers in self.perhaps[kind].items():
                fits = before == state.value if kind == CAS else not state.unseen
                if fits and after in wanted and after not in reached:
                    unused = next((number for number in numbers if number not in state.used), None)
                    if unused is not None:
                        reached.add(after)
                        yield _State(after, state.done, state.used | {unused}, unseen=True)

    def _fewest_used(self, states: set[_State]) -> set[_State]:
        """Without those that another one surpasses: same value, same calls done, and fewer of the others used up."""
        alike: dict[tuple[object, frozenset[int]], list[_State]] = {}
        for state in sorted(states, key=lambda state: len(state.used)):
            kept = alike.setdefault((state.value, state.done), [])
            self.left -= len(kept) // COMPARISONS_PER_CONFIGURATION
            if self.left >= 0 and not any(other.used <= state.used for other in kept):
                kept.append(state)
        return {state for kept in alike.values() for state in kept}


def by_key(calls: Iterable[tuple[object, Call]]) -> Mapping[object, list[Call]]:
    """Calls of each register; registers are independent of each other."""
    found: dict[object, list[Call]] = {}
    for key, call in calls:
        found.setdefault(key, []).append(call)
    return found

"""The checker agrees with the definitions, word for word, on small histories full of faults."""

import random
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers import judge
from jepsen.checkers.verdict import NotJudgeable, Rules
from jepsen.history import History, Op
from tests.jepsen.oracle import Oracle

KEYS = 2

thorough = settings(max_examples=150, deadline=None)


@st.composite
def histories(draw: st.DrawFn, transactions: bool = False) -> History:
    """A few operations over two keys whose offsets are more or less right."""
    length = draw(st.integers(1, 10))
    processes = draw(st.integers(1, 4))
    values = [0] * KEYS
    ops: list[Op] = []
    chaos = draw(st.integers(0, 3))
    times = draw(st.permutations(range(2 * length)))
    for number in range(length):
        f = draw(st.sampled_from(["send", "poll", "txn"] if transactions else ["send", "poll"]))
        kind = draw(st.sampled_from(["ok", "ok", "ok", "ok", "info", "fail"]))
        sends = []
        if f != "poll":
            for _ in range(draw(st.integers(1, 2))):
                key = draw(st.integers(0, KEYS - 1))
                values[key] += 1
                offset = draw(st.none() | st.integers(max(0, values[key] - 1 - chaos), values[key] - 1 + chaos))
                sends.append((key, offset, values[key]))
        began, ended = sorted(times[2 * number : 2 * number + 2])
        ops.append(
            Op(number, draw(st.integers(1, processes)), kind, f, began, ended, began, ended, None, tuple(sends), (), {})
        )
    seed = draw(st.integers(0, 2**32))
    return finished(ops, values, chaos, random.Random(seed))


def finished(ops: Sequence[Op], values: Sequence[int], chaos: int, drawn: random.Random) -> History:
    """Adds reads, and puts operations in order; those of one process do not overlap."""
    place: dict[int, int] = {}
    found: list[Op] = []
    free: dict[int, int] = {}
    for op in sorted(ops, key=lambda op: op.invoked):
        process = next(p for p in range(op.process, 100, 10) if free.get(p, -1) < op.invoked)
        free[process] = op.ended
        reads: list[tuple[object, list[int | None], list[object]]] = []
        if op.f != "send":
            for key in range(KEYS):
                if drawn.random() < 0.7:
                    start = place.get(process * KEYS + key, drawn.randint(1, 3))
                    read = [v for v in range(start, start + drawn.randint(0, 3)) if v <= values[key] + (chaos == 3)]
                    if drawn.random() < 0.1 * chaos:
                        drawn.shuffle(read)
                    if read:
                        place[process * KEYS + key] = read[-1] + 1
                    moved = [
                        max(0, v - 1 + (drawn.randint(-1, 1) if drawn.random() < 0.1 * chaos else 0)) for v in read
                    ]
                    reads.append((key, list(moved), list(read)))
        timed = msgspec.structs.replace(op, number=len(found), process=process, reads=tuple(reads))
        found.append(timed)
        if drawn.random() < 0.15 and op.type == "ok":
            keys = tuple(key for key in range(KEYS) if drawn.random() < 0.5)
            moment = op.ended
            found.append(Op(len(found), process, "ok", "assign", moment, moment, moment, moment, keys, (), (), {}))
    found.sort(key=lambda op: op.invoked)
    renumbered = [msgspec.structs.replace(op, number=number) for number, op in enumerate(found)]
    return History(source="drawn", ops=renumbered, faults=[])


def names(history: History, rules: Rules) -> set[str] | None:
    try:
        verdict = judge(history, "log", rules)
    except NotJudgeable:
        return None
    return set(verdict.bad) | set(verdict.allowed)


@thorough
@given(histories())
def test_ours(history: History) -> None:
    found = names(history, Rules())
    if found is not None:
        assert found - {"made-up-offset"} == Oracle(history).names()


@thorough
@given(histories(transactions=True))
def test_jepsen(history: History) -> None:
    found = names(history, Rules(jepsen=True))
    if found is not None:
        assert found - {"invented"} == Oracle(history, jepsen=True).names()


@thorough
@given(histories(transactions=True))
def test_cycles_that_no_lack_of_isolation_explains_are_bad(history: History) -> None:
    if names(history, Rules()) is None:
        return
    verdict = judge(history, "log", Rules())
    oracle = Oracle(history)
    bad, everything = oracle.cycles(oracle.pieces()), oracle.cycles(oracle.ops)
    assert {name for name in verdict.bad if name.startswith(("G0", "G1c"))} == bad
    assert {name for name in verdict.allowed if name.startswith(("G0", "G1c"))} == everything - bad

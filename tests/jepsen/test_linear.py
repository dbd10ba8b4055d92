"""Linearizability: the search agrees with trying every order, ends on hard histories, and gives up in bounds."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers import judge
from jepsen.checkers.linear import CAS, READ, WRITE, Call, GaveUp, Stuck, search
from jepsen.checkers.verdict import Rules
from tests.jepsen.judging import history_of


@st.composite
def calls(draw: st.DrawFn) -> list[Call]:
    length = draw(st.integers(1, 6))
    moments = draw(st.permutations(range(2 * length)))
    made = []
    for number in range(length):
        begin, end = sorted(moments[2 * number : 2 * number + 2])
        kind = draw(st.sampled_from([READ, WRITE, CAS]))
        one, other = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        ended = None if draw(st.integers(0, 3)) == 0 else end
        made.append(Call(number, kind, begin, ended, one, one if kind == READ else other))
    return sorted(made, key=lambda call: call.invoked)


def explained(made: Sequence[Call], initial: object) -> bool:
    """Tries every order of every choice of calls that may not have happened."""
    certain = [call for call in made if call.ended is not None]
    perhaps = [call for call in made if call.ended is None and call.kind != READ]
    return any(
        _fits(order, initial)
        for size in range(len(perhaps) + 1)
        for chosen in itertools.combinations(perhaps, size)
        for order in itertools.permutations([*certain, *chosen])
    )


def _fits(order: Sequence[Call], value: object) -> bool:
    for place, call in enumerate(order):
        if any(later.ended is not None and later.ended < call.invoked for later in order[place + 1 :]):
            return False
        if call.kind != WRITE and call.before != value:
            return False
        if call.kind != READ:
            value = call.after
    return True


@settings(max_examples=300, deadline=None)
@given(calls())
def test_the_search_agrees_with_trying_everything(made: list[Call]) -> None:
    result = search(made, 0)
    assert (result is None) == explained(made, 0)
    assert not isinstance(result, GaveUp)


def register_run(drawn: random.Random, operations: int, *, clients: int, info: float, values: int) -> list[Call]:
    """Calls of clients of a register that does nothing wrong."""
    value: object = None
    made: list[Call] = []
    open_calls: dict[int, tuple[str, int, object, object, int]] = {}
    time = 0
    for number in range(operations):
        time += 1
        client = drawn.randrange(clients)
        if client not in open_calls:
            kind = drawn.choice([READ, WRITE, CAS])
            open_calls[client] = (kind, time, value, drawn.randrange(values), number)
            continue
        kind, begun, expected, new, made_number = open_calls.pop(client)
        if kind == CAS and expected != value:
            continue  # it failed: nothing has happened
        if drawn.random() < info:
            if drawn.random() < 0.5 and kind != READ:
                value = new
            made.append(Call(made_number, kind, begun, None, expected, new))
            continue
        before, value = value, value if kind == READ else new
        made.append(Call(made_number, kind, begun, time, before, new))
    return sorted(made, key=lambda call: call.invoked)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 0.05, 0.3]), st.integers(2, 50))
def test_a_perfect_register_is_linearizable(seed: int, info: float, values: int) -> None:
    made = register_run(random.Random(seed), 400, clients=8, info=info, values=values)
    assert search(made, None) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_read_of_what_was_overwritten_is_found(seed: int) -> None:
    made = register_run(random.Random(seed), 200, clients=4, info=0.05, values=1000)
    end = 10_000
    made += [
        Call(9001, WRITE, end, end + 1, None, "one"),
        Call(9002, WRITE, end + 2, end + 3, None, "other"),
        Call(9003, READ, end + 4, end + 5, "one"),
    ]
    result = search(made, None)
    assert isinstance(result, Stuck)
    assert result.call.number == 9003
    assert "other" in result.values


def test_a_hundred_writes_that_may_happen_later_are_no_trouble() -> None:
    """Each may have taken effect at any time; without bounds on what is remembered, that is 2**100 configurations."""
    made = [Call(number, WRITE, number, None, None, number % 5) for number in range(100)]
    made += [Call(1000 + read, READ, 200 + 2 * read, 201 + 2 * read, read * 7 % 5) for read in range(100)]
    assert search(made, None, configurations_max=100_000) is None


def test_the_search_gives_up_in_bounds() -> None:
    made = [Call(number, WRITE, number, 1000 + number, None, number) for number in range(18)]
    made.append(Call(99, READ, 500, 501, "never written"))
    result = search(made, None, configurations_max=1000)
    assert isinstance(result, GaveUp)


def test_giving_up_is_an_unknown_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{{:type :invoke :process {n} :f :write :value [x {n}]}}" for n in range(12)]
    lines += ["{:type :invoke :process 20 :f :read :value [x nil]}", "{:type :ok :process 20 :f :read :value [x 99]}"]
    lines += [f"{{:type :ok :process {n} :f :write :value [x {n}]}}" for n in range(12)]
    monkeypatch.setattr("jepsen.checkers.linear.CONFIGURATIONS_PER_CALL", 0)
    monkeypatch.setattr("jepsen.checkers.register.CONFIGURATIONS_MAX", 100)
    verdict = judge(history_of("\n".join(lines)), "register", Rules())
    assert (verdict.valid, verdict.bad, verdict.exit_status) == (False, [], 2)
    assert "more than 100 configurations" in verdict.unknown[0]


def test_registers_are_judged_one_by_one() -> None:
    verdict = judge(
        history_of("""
{:type :invoke :process 0 :f :write :value [x 1]}
{:type :ok :process 0 :f :write :value [x 1]}
{:type :invoke :process 0 :f :read :value [y nil]}
{:type :ok :process 0 :f :read :value [y 1]}
{:type :invoke :process 0 :f :read :value [x nil]}
{:type :ok :process 0 :f :read :value [x 1]}
"""),
        "register",
        Rules(),
    )
    (example,) = verdict.anomalies["nonlinearizable"]
    assert example["key"] == "y"
    assert example["could_hold"] == [None]

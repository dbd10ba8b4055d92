"""Histories of a perfect log are valid, whatever was drawn; each kind of damage done to one is found."""

import functools
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jepsen.checkers.verdict import Rules
from jepsen.synthetic import Event, MicroOp, Pair, Shape, events
from tests.jepsen.judging import JEPSEN, judge_events

drawn_shapes = functools.partial(
    st.builds,
    Shape,
    operations=st.integers(1, 150),
    keys=st.integers(1, 4),
    clients=st.integers(1, 6),
    sends_max=st.integers(1, 3),
    polled_max=st.integers(1, 10),
    info=st.sampled_from([0, 0.1, 0.5]),
    fail=st.sampled_from([0, 0.1, 0.4]),
    crash=st.sampled_from([0, 0.05]),
    assign=st.sampled_from([0.02, 0.2]),
    gap=st.sampled_from([0, 0.3]),
    rebalance=st.sampled_from([0, 0.3]),
)
shapes = drawn_shapes(transactions=st.sampled_from([0, 0.3]), subscribe=st.booleans())
damageable = drawn_shapes(transactions=st.just(0), subscribe=st.just(False))
seeds = st.integers(0, 2**32)


@settings(max_examples=100, deadline=None)
@given(shapes, seeds)
def test_a_perfect_log_is_valid(shape: Shape, seed: int) -> None:
    made = list(events(shape, random.Random(seed)))
    assume(any(event.type == "ok" and event.f in ("send", "poll", "txn") for event in made))
    rules = Rules(sub_via="subscribe" if shape.subscribe else "assign")
    verdict = judge_events(made, rules)
    assert verdict.bad == []
    allowed = {"poll-skip", "nonmonotonic-poll"} if shape.subscribe else set()
    assert set(verdict.allowed) - {"int-send-skip"} <= allowed
    assert verdict.valid
    assert judge_events(made, JEPSEN if not shape.subscribe else Rules(sub_via="subscribe", jepsen=True)).valid


Polled = tuple[Event, int, int, list[Pair]]
"""A completed poll: its event, the place of its micro-operation, the key, and the pairs read of it."""


def polls(made: list[Event]) -> Iterator[Polled]:
    for event in made:
        if event.type == "ok" and event.f == "poll":
            for place, one in enumerate(event.value):
                if isinstance(one, tuple) and len(one) == 2:
                    yield from ((event, place, key, pairs) for key, pairs in one[1].items())


def reread(polled: Polled, pairs: list[Pair]) -> None:
    """Makes the poll have read these pairs instead."""
    event, place, key, _ = polled
    value = list(event.value)
    one = value[place]
    assert isinstance(one, tuple)
    assert len(one) == 2
    value[place] = ("poll", {**one[1], key: pairs})
    event.value = value


def acknowledged(made: list[Event]) -> set[tuple[int, int]]:
    """(key, value) of every send that ended ok, each alone in its operation."""
    found = set()
    for event in made:
        if event.type == "ok" and event.f == "send" and len(event.value) == 1:
            (one,) = event.value
            assert isinstance(one, tuple)
            assert len(one) == 3
            assert isinstance(one[2], list)
            found.add((one[1], one[2][1]))
    return found


def drop_a_record(made: list[Event], drawn: random.Random) -> set[str]:
    key, value = drawn.choice(sorted(acknowledged(made)))
    for polled in list(polls(made)):
        if polled[2] == key:
            reread(polled, [pair for pair in polled[3] if pair[1] != value])
    return {"unseen"}


def drop_a_record_before_others(made: list[Event], drawn: random.Random) -> set[str]:
    read = {key: [value for _, value in pairs] for _, _, key, pairs in polls(made)}
    lost = sorted((key, value) for key, value in acknowledged(made) if value in read.get(key, [])[:-1])
    assume(lost)
    key, value = drawn.choice(lost)
    for polled in list(polls(made)):
        if polled[2] == key:
            reread(polled, [pair for pair in polled[3] if pair[1] != value])
    return {"unseen", "lost-write"}


def long_polls(made: list[Event], least: int) -> list[Polled]:
    found = [polled for polled in polls(made) if len(polled[3]) >= least]
    assume(found)
    return found


def swap_offsets(made: list[Event], drawn: random.Random) -> set[str]:
    polled = drawn.choice(long_polls(made, 2))
    pairs = polled[3]
    place = drawn.randrange(len(pairs) - 1)
    (one, first), (other, second) = pairs[place], pairs[place + 1]
    told = acknowledged(made)  # else both may be known from this poll alone, which could as well be right
    assume((polled[2], first) in told or (polled[2], second) in told)
    reread(polled, [*pairs[:place], [one, second], [other, first], *pairs[place + 2 :]])
    return {"inconsistent-offsets", "duplicate"}


def write_twice(made: list[Event], drawn: random.Random) -> set[str]:
    polled = drawn.choice(long_polls(made, 1))
    value = drawn.choice(polled[3])[1]
    end = max(pair[0] for _, _, key, pairs in polls(made) if key == polled[2] for pair in pairs)
    reread(polled, [*polled[3], [end + 1, value]])
    return {"duplicate"}


def reorder_a_poll(made: list[Event], drawn: random.Random) -> set[str]:
    polled = drawn.choice(long_polls(made, 2))
    pairs = list(polled[3])
    one, other = sorted(drawn.sample(range(len(pairs)), 2))
    pairs[one], pairs[other] = pairs[other], pairs[one]
    reread(polled, pairs)
    return {"int-nonmonotonic-poll"}


def skip_within_a_poll(made: list[Event], drawn: random.Random) -> set[str]:
    polled = drawn.choice(long_polls(made, 3))
    place = drawn.randrange(1, len(polled[3]) - 1)
    skipped = polled[3][place]
    others = any(
        skipped in pairs for event, _, key, pairs in polls(made) if key == polled[2] and event is not polled[0]
    )
    assume(others)
    reread(polled, [*polled[3][:place], *polled[3][place + 1 :]])
    return {"int-poll-skip"}


def read_a_failed_send(made: list[Event], drawn: random.Random) -> set[str]:
    key, value = drawn.choice(sorted(acknowledged(made)))
    for event in made:
        if event.type == "ok" and event.f == "send" and sent(event.value) == [(key, value)]:
            event.type, event.value = "fail", [("send", key, value)]
    return {"G1a"}


def invent_a_record(made: list[Event], drawn: random.Random) -> set[str]:
    polled = drawn.choice(long_polls(made, 1))
    reread(polled, [*polled[3], [polled[3][-1][0] + 100_000, 999_999]])
    return {"invented"}


def forget_to_fill_in(made: list[Event], drawn: random.Random) -> set[str]:
    """A reply with offset -1."""
    key, value = drawn.choice(sorted(acknowledged(made)))
    for event in made:
        if event.type == "ok" and event.f == "send" and sent(event.value) == [(key, value)]:
            event.value = [("send", key, [-1, value])]
    return {"made-up-offset"}


def sent(value: object) -> list[tuple[int, int]]:
    assert isinstance(value, list)
    return [(one[1], one[2][1] if isinstance(one[2], list) else one[2]) for one in value]


def exchange_two_sends(made: list[Event], drawn: random.Random) -> set[str]:
    """The log holds two values in the other order, everywhere, and one was acknowledged before the other was sent."""
    done = acknowledged(made)
    began: dict[tuple[int, int], int] = {}
    ended: dict[tuple[int, int], int] = {}
    for time, event in enumerate(made):
        if event.f == "send" and event.type in ("invoke", "ok") and len(event.value) == 1:
            (pair,) = sent(event.value)
            if pair in done:
                (began if event.type == "invoke" else ended)[pair] = time
    candidates = [
        (one, other)
        for one in sorted(done)
        for other in sorted(done)
        if one[0] == other[0] and ended[one] < began[other] and one != other
    ]
    assume(candidates)
    (key, first), (_, second) = drawn.choice(candidates)
    others = {first: second, second: first}
    offsets: dict[int, int] = {}
    for polled in list(polls(made)):
        if polled[2] == key:
            offsets.update({value: offset for offset, value in polled[3]})
            reread(polled, [[offset, others.get(value, value)] for offset, value in polled[3]])
    for event in made:
        if event.type == "ok" and event.f == "send" and sent(event.value) in ([(key, first)], [(key, second)]):
            ((_, value),) = sent(event.value)
            event.value = [("send", key, [offsets[others[value]], value])]
    return {"G0-realtime"}


DAMAGES = [
    drop_a_record,
    drop_a_record_before_others,
    swap_offsets,
    write_twice,
    reorder_a_poll,
    skip_within_a_poll,
    read_a_failed_send,
    invent_a_record,
    forget_to_fill_in,
    exchange_two_sends,
]
"""Each damages a valid history and says which anomalies must be among the bad ones then."""


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@settings(max_examples=25, deadline=None)
@given(shape=damageable, seed=seeds)
def test_damage_is_found(damage: Callable[[list[Event], random.Random], set[str]], shape: Shape, seed: int) -> None:
    drawn = random.Random(seed)
    made = list(events(shape, drawn))
    assume(acknowledged(made))
    expected = damage(made, drawn)
    verdict = judge_events(made)
    assert expected <= set(verdict.bad)
    assert not verdict.valid


def test_micro_operations_are_what_the_types_say() -> None:
    """The damages above lean on the shapes of made histories."""
    kinds: set[tuple[str, int]] = set()
    for event in events(Shape(operations=300), random.Random(1)):
        for one in event.value:
            if isinstance(one, tuple):
                made: MicroOp = one
                kinds.add((made[0], len(made)))
    assert kinds == {("poll", 1), ("poll", 2), ("send", 3)}

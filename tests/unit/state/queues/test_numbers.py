"""The first-in, first-out numbers, against a list; and the timers, against a sorted one."""

from hypothesis import given
from hypothesis import strategies as st

from raftbroker.state.queues.numbers import Numbers
from raftbroker.state.queues.timers import Timers

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 1500)),
        st.tuples(st.just("drop"), st.integers(1, 1500)),
        st.tuples(st.just("back"), st.integers(0, 20)),
        st.tuples(st.just("keep"), st.integers(2, 3)),
    ),
    max_size=12,
)


@given(steps)
def test_numbers_are_a_list(taken: list[tuple[str, int]]) -> None:
    numbers, mirror = Numbers(), list[int]()
    for step, amount in taken:
        if step == "append":
            for number in range(amount):
                numbers.append(number)
                mirror.append(number)
        elif step == "drop":
            for _ in range(min(amount, len(mirror))):
                assert numbers.first() == mirror.pop(0)
                numbers.drop_first()
        elif step == "back":
            numbers.put_back(list(range(amount)))
            mirror[:0] = range(amount)
        else:
            numbers.keep(lambda number, amount=amount: number % amount == 0)  # type: ignore[misc]
            mirror = [number for number in mirror if number % amount == 0]
        assert len(numbers) == len(mirror)
        assert list(numbers) == mirror
        assert numbers.first() == (mirror[0] if mirror else None)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 50)), max_size=4000))
def test_timers_come_up_in_order_and_only_the_last_word_counts(changes: list[tuple[int, int]]) -> None:
    due: dict[int, int] = {}
    timers = Timers(lambda number: due.get(number, 0))
    for number, due_ms in changes:
        before = due.get(number, 0)
        due[number] = due_ms
        timers.changed(number, before, due_ms)
    left = sorted((due_ms, number) for number, due_ms in due.items() if due_ms)
    for time_ms in (10, 30, 60):
        while (number_due := timers.pop_due(time_ms)) is not None:
            assert (due[number_due], number_due) == left.pop(0)
            due[number_due] = 0
        assert not left or left[0][0] > time_ms
    assert timers.next_due() is None

"""Rows in memory, payload keys, group time, bounded windows."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftbroker.state.clock import GroupClock
from raftbroker.state.keys import payload_key, split_payload_key
from raftbroker.state.view import MemoryView
from raftbroker.state.window import Window
from raftbroker.storage import records

small_keys = st.binary(max_size=3)


@given(st.lists(st.dictionaries(small_keys, st.none() | st.binary(max_size=2), max_size=5), max_size=10), small_keys)
def test_memory_view_is_a_sorted_dict(changes: list[dict[bytes, bytes | None]], prefix: bytes) -> None:
    view, model = MemoryView(), dict[bytes, bytes]()
    for rows in changes:
        view.apply(rows)
        for key, value in rows.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        expected = [(key, model[key]) for key in sorted(model) if key.startswith(prefix)]
        assert list(view.scan(prefix)) == expected
        assert view.get(prefix) == model.get(prefix)
    assert view.rows() == model
    assert len(view) == len(model)


def test_memory_view_copies_what_it_is_given() -> None:
    rows = {b"a": b"1"}
    view = MemoryView(rows)
    view.apply({b"a": b"2"})
    assert rows == {b"a": b"1"}


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_payload_keys_are_those_of_storage(partition: int, offset: int) -> None:
    key = payload_key(partition, offset)
    assert key == records.payload_key(partition, offset)
    assert split_payload_key(key) == (partition, offset)


def test_payload_keys_sort_as_offsets_do() -> None:
    places = [(1, 0), (1, 255), (1, 256), (1, 2**40), (2, 0), (256, 1)]
    assert sorted(payload_key(*place) for place in places) == [payload_key(*place) for place in places]
    with pytest.raises(struct.error):
        split_payload_key(b"short")


# --- group time -----------------------------------------------------------------------------------------


def test_group_time_follows_the_monotonic_clock() -> None:
    clock = GroupClock(applied_ms=1_000, wall_ms=5_000, monotonic=100.0)
    assert [clock.now(100.0), clock.now(100.5), clock.now(107.25)] == [5_000, 5_500, 12_250]


def test_group_time_goes_at_half_speed_until_the_clock_has_caught_up() -> None:
    clock = GroupClock(applied_ms=9_000, wall_ms=5_000, monotonic=100.0)
    assert [clock.now(100.0 + n) for n in (0, 4, 8, 9)] == [9_000, 11_000, 13_000, 14_000]


def test_group_time_never_goes_back() -> None:
    clock = GroupClock(applied_ms=0, wall_ms=5_000, monotonic=100.0)
    assert clock.now(101.0) == 6_000
    assert clock.now(100.0) == 6_000


# --- windows --------------------------------------------------------------------------------------------


class Thing(msgspec.Struct, frozen=True):
    touched: int


def test_the_oldest_goes_first_within_a_partition() -> None:
    window: Window[int, Thing] = Window(2, 100)
    assert window.put(1, 10, Thing(1)) == []
    assert window.put(1, 11, Thing(2)) == []
    assert window.put(1, 10, Thing(3)) == []  # is the newest again
    assert window.put(1, 12, Thing(4)) == [(1, 11)]
    assert [(p, k) for p, k, _ in window.items()] == [(1, 10), (1, 12)]


def test_the_oldest_goes_first_across_partitions() -> None:
    window: Window[int, Thing] = Window(2, 3)
    for touched, partition in enumerate((1, 2, 3), 1):
        window.put(partition, 0, Thing(touched))
    window.put(1, 0, Thing(4))
    assert window.put(4, 0, Thing(5)) == [(2, 0)]
    assert window.drop(2) == []
    assert window.drop(1) == [0]
    assert len(window) == 2


@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["put", "put", "put", "drop"]), st.integers(1, 3), st.integers(0, 4))),
)
def test_windows_against_a_list(partition_max: int, group_max: int, steps: list[tuple[str, int, int]]) -> None:
    window: Window[int, Thing] = Window(partition_max, group_max)
    model: list[tuple[int, int, Thing]] = []
    for touched, (what, partition, key) in enumerate(steps):
        if what == "drop":
            assert set(window.drop(partition)) == {k for p, k, _ in model if p == partition}
            model = [entry for entry in model if entry[0] != partition]
            continue
        model = [entry for entry in model if entry[:2] != (partition, key)] + [(partition, key, Thing(touched))]
        forgotten = window.put(partition, key, Thing(touched))
        expected = []
        mine = [entry for entry in model if entry[0] == partition]
        if len(mine) > partition_max:
            expected.append(mine[0])
        rest = [entry for entry in model if entry not in expected]
        expected += rest[: max(0, len(rest) - group_max)]
        assert forgotten == [entry[:2] for entry in expected]
        model = [entry for entry in model if entry not in expected]
        assert list(window.items()) == model
    restored: Window[int, Thing] = Window(partition_max, group_max)
    restored.restore(sorted(model, key=str))
    assert list(restored.items()) == list(window.items())

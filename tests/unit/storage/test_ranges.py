"""Sets of key ranges, which may be many thousands: what is inside, what is left of one without another."""

import time

from hypothesis import given
from hypothesis import strategies as st

from raftbroker.storage.layout import subtract, within

Ranges = list[tuple[bytes, bytes]]


def ranges(edges: set[int]) -> Ranges:
    """Every other stretch between the edges: ascending and apart."""
    keys = [bytes([edge]) for edge in sorted(edges)]
    return list(zip(keys[::2], keys[1::2], strict=False))


some = st.sets(st.integers(0, 40), max_size=14).map(ranges)


@given(some, some)
def test_what_is_left_is_what_is_inside_one_and_not_the_other(first: Ranges, second: Ranges) -> None:
    left = subtract(first, second)
    for edge in range(42):
        for key in (bytes([edge]), bytes([edge, 1])):
            inside = [any(low <= key < high for low, high in one) for one in (first, second, left)]
            assert inside[2] == (inside[0] and not inside[1])
            assert [within(key, first), within(key, second), within(key, left)] == inside
    assert left == sorted(left)


def test_many_ranges_take_no_time() -> None:
    many = [(b"%08d" % n, b"%08d" % (n + 1)) for n in range(0, 100_000, 2)]
    others = [(b"%08d" % n, b"%08d" % (n + 3)) for n in range(0, 100_000, 6)]
    began = time.perf_counter()
    left = subtract(many, others)
    assert 0 < len(left) < len(many)
    assert all(within(low, many) for low, _ in left)
    assert time.perf_counter() - began < 2.0

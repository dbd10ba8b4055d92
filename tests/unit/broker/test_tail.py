"""The tail in memory: what it holds is an unbroken run of what its owner appended, within its bound."""

import random

from raftbroker.broker.tail import BATCH_OVERHEAD_BYTES, TailCache

OWNER = object()


def test_it_reads_what_was_added_below_the_end() -> None:
    tail = TailCache(1 << 20)
    for base, count in ((10, 3), (13, 1), (14, 2)):
        tail.add(OWNER, 1, base, base + count, b"%d" % base)
    assert tail.read(OWNER, 1, 10, 16, 100) == [b"10", b"13", b"14"]
    assert tail.read(OWNER, 1, 12, 16, 100) == [b"10", b"13", b"14"]  # within a batch
    assert tail.read(OWNER, 1, 13, 14, 100) == [b"13"]  # 14 is not committed
    assert tail.read(OWNER, 1, 14, 14, 100) is None
    assert tail.read(OWNER, 1, 9, 16, 100) is None  # before it begins
    assert tail.read(OWNER, 1, 16, 20, 100) is None
    assert tail.read(OWNER, 2, 10, 16, 100) is None
    assert tail.read(OWNER, 1, 10, 16, 4) == [b"10", b"13"]
    assert tail.read(OWNER, 1, 10, 16, 1) == [b"10"]  # at least one


def test_nothing_of_another_owner_is_served() -> None:
    tail = TailCache(1 << 20)
    tail.add(OWNER, 1, 0, 1, b"old")
    other = object()
    assert tail.read(other, 1, 0, 1, 100) is None
    tail.add(other, 1, 0, 1, b"new")
    assert tail.read(other, 1, 0, 1, 100) == [b"new"]
    assert tail.read(OWNER, 1, 0, 1, 100) is None
    tail.forget(OWNER)
    assert tail.read(other, 1, 0, 1, 100) == [b"new"]
    tail.forget(other)
    assert tail.read(other, 1, 0, 1, 100) is None


def test_a_run_that_breaks_off_begins_anew() -> None:
    tail = TailCache(1 << 20)
    tail.add(OWNER, 1, 0, 2, b"a")
    tail.add(OWNER, 1, 1, 2, b"b")  # 0 was taken back
    assert tail.read(OWNER, 1, 0, 2, 100) is None
    assert tail.read(OWNER, 1, 1, 2, 100) == [b"b"]


def test_it_keeps_within_its_bound_and_the_oldest_goes_first() -> None:
    bytes_max = 10 * (100 + BATCH_OVERHEAD_BYTES)
    tail = TailCache(bytes_max)
    rng = random.Random(5)
    ends = dict.fromkeys(range(4), 0)
    order: list[tuple[int, int]] = []
    for n in range(600):
        partition = rng.randrange(4)
        if rng.random() < 0.02:
            tail.forget(OWNER)
            order.clear()
        tail.add(OWNER, partition, ends[partition], ends[partition] + 1, b"%100d" % n)
        order.append((partition, ends[partition]))
        ends[partition] += 1
        assert tail.bytes <= bytes_max
        for kept, base in order[-3:]:
            found = tail.read(OWNER, kept, base, ends[kept], 100)
            assert found is not None
            assert len(found) == 1
        assert all(tail.read(OWNER, gone, base, ends[gone], 100) is None for gone, base in order[:-10][-20:])


def test_without_room_it_holds_nothing() -> None:
    tail = TailCache(0)
    tail.add(OWNER, 1, 0, 1, b"a")
    assert tail.read(OWNER, 1, 0, 1, 100) is None
    assert tail.bytes == 0

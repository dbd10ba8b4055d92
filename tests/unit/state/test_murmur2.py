"""The vectors of Kafka's own tests (UtilsTest.testMurmur2), and the partitions kafka-python chooses."""

import pytest

from raftbroker.state.murmur2 import murmur2, partition_for_key


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_kafkas_vectors(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "of_1000"),
    [
        (b"", 681),
        (b"a", 524),
        (b"ab", 434),
        (b"abc", 107),
        (b"abcd", 100),
        (b"abcde", 741),
        (b"customer-42", 153),
        (bytes(range(256)), 374),
        (b"\xff" * 7, 99),
        (b"x" * 1001, 20),
    ],
)
def test_partitions_of_kafka_python(key: bytes, of_1000: int) -> None:
    assert partition_for_key(key, 1000) == of_1000


def test_the_partition_is_in_range_for_any_count() -> None:
    for count in (1, 2, 3, 7, 6, 1000):
        assert {partition_for_key(b"%d" % n, count) for n in range(10 * count)} <= set(range(count))

"""Fetch's messages, versions 4 to 12, read and written by hand: record bytes are passed on as they are stored.

An encoded answer is a list of buffers, the stored batches among them. Of a request no length is believed: what is cut
off raises `struct.error`, `IndexError` or `BrokenFrame`, as `api.Codec` allows, and the time and memory that a request
costs are bounded by its size.
"""

from collections.abc import Iterator, Sequence
from struct import Struct

import msgspec

from raftbroker.kafka.api import Codec, Parts
from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.hand import compact_text, packed_uvarint, skip_tags, text, uvarint, write_text
from raftbroker.kafka.reader import ELEMENTS_MAX

FLEXIBLE_FROM = 12

_HEAD = Struct(">iiiib")
_SESSION = Struct(">ii")
_INT32 = Struct(">i")
_PARTITION_V4, _PARTITION_V5, _PARTITION_V9 = Struct(">iqi"), Struct(">iqqi"), Struct(">iiqqi")
_PARTITION_V12 = Struct(">iiqiqiB")
"""With the number of its tagged fields."""
_TOP_V7 = Struct(">ihi")
_RESULT_V4, _RESULT_V5 = Struct(">ihqq"), Struct(">ihqqq")
"""Partition, error code, high watermark, last stable offset, log start offset."""
_ABORTED = Struct(">qq")
_LEADER_TAG = Struct(">BBBiiB")
_NO_REPLICA = _INT32.pack(-1)


class FetchPartition(msgspec.Struct, gc=False):
    partition: int
    leader_epoch: int
    offset: int
    bytes_max: int


class FetchTopic(msgspec.Struct, gc=False):
    topic: str
    partitions: list[FetchPartition]


class FetchRequest(msgspec.Struct, gc=False):
    replica_id: int
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    session_id: int
    session_epoch: int
    topics: list[FetchTopic]


class PartitionData(msgspec.Struct, gc=False):
    """What one partition has. `leader` and its epoch are told (from version 12) unless -1."""

    partition: int
    error_code: int = 0
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    aborted: Sequence[tuple[int, int]] | None = None
    """(producer id, first offset); None where not asked for."""
    batches: Sequence[bytes] = ()
    size: int = 0
    """Of the batches, in bytes."""
    leader: int = -1
    leader_epoch: int = -1


class TopicData(msgspec.Struct, gc=False):
    topic: str
    partitions: list[PartitionData]


class FetchResponse(msgspec.Struct, gc=False):
    """`session_id` is always 0: there are no sessions."""

    topics: list[TopicData]
    throttle_time_ms: int = 0
    error_code: int = 0


# --- requests -------------------------------------------------------------------------------------------------


def decode(body: memoryview, version: int) -> FetchRequest:
    replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level = _HEAD.unpack_from(body)
    at = _HEAD.size
    session_id, session_epoch = 0, -1
    if version >= 7:
        session_id, session_epoch = _SESSION.unpack_from(body, at)
        at += _SESSION.size
    read = _topics_flexible if version >= FLEXIBLE_FROM else _topics
    topics, at, left = read(body, at, version)
    if version >= 7:
        at = _skip_forgotten(body, at, left, version >= FLEXIBLE_FROM)
    if version >= FLEXIBLE_FROM:
        _, at = compact_text(body, at)
        skip_tags(body, at)
    elif version >= 11:
        text(body, at)
    return FetchRequest(
        replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch, topics
    )


def _topics(body: memoryview, at: int, version: int) -> tuple[list[FetchTopic], int, int]:
    """(topics, the place behind them, how many elements the frame may still list)"""
    topic_count, at, left = _count(body, at, ELEMENTS_MAX)
    topics: list[FetchTopic] = []
    for _ in range(topic_count):
        name, at = text(body, at)
        count, at, left = _count(body, at, left)
        rows = _PARTITION_V9 if version >= 9 else _PARTITION_V5 if version >= 5 else _PARTITION_V4
        end = at + count * rows.size
        if end > len(body):
            raise BrokenFrame(f"{count} partitions begin {len(body) - at} bytes before the end of the frame")
        listed: Iterator[tuple[int, ...]] = rows.iter_unpack(body[at:end])
        if version >= 9:
            partitions = [FetchPartition(n, e, o, m) for n, e, o, _, m in listed]
        elif version >= 5:
            partitions = [FetchPartition(n, -1, o, m) for n, o, _, m in listed]
        else:
            partitions = [FetchPartition(n, -1, o, m) for n, o, m in listed]
        at = end
        topics.append(FetchTopic(name, partitions))
    return topics, at, left


def _topics_flexible(body: memoryview, at: int, version: int) -> tuple[list[FetchTopic], int, int]:
    topic_count, at, left = _compact_count(body, at, ELEMENTS_MAX)
    unpack, size = _PARTITION_V12.unpack_from, _PARTITION_V12.size
    topics: list[FetchTopic] = []
    for _ in range(topic_count):
        name, at = compact_text(body, at)
        if name is None:
            raise BrokenFrame("a topic's name is null")
        count, at, left = _compact_count(body, at, left)
        partitions: list[FetchPartition] = []
        for _ in range(count):
            partition, epoch, offset, _, _, bytes_max, tags = unpack(body, at)
            at += size
            if tags:
                at = skip_tags(body, at - 1)
            partitions.append(FetchPartition(partition, epoch, offset, bytes_max))
        at = at + 1 if body[at] == 0 else skip_tags(body, at)
        topics.append(FetchTopic(name, partitions))
    return topics, at, left


def _skip_forgotten(body: memoryview, at: int, left: int, flexible: bool) -> int:
    """What a session should no longer hold; there are none."""
    topic_count, at, left = _compact_count(body, at, left) if flexible else _count(body, at, left)
    for _ in range(topic_count):
        _, at = compact_text(body, at) if flexible else text(body, at)
        count, at, left = _compact_count(body, at, left) if flexible else _count(body, at, left)
        at += 4 * count
        if at > len(body):
            raise BrokenFrame(f"{count} forgotten partitions do not fit into the frame")
        if flexible:
            at = skip_tags(body, at)
    return at


def _count(body: memoryview, at: int, left: int) -> tuple[int, int, int]:
    """(elements of an array, the place behind their number, how many elements the frame may still list)"""
    (count,) = _INT32.unpack_from(body, at)
    return count, at + 4, _left(left, count, len(body) - at - 4)


def _compact_count(body: memoryview, at: int, left: int) -> tuple[int, int, int]:
    count, at = uvarint(body, at)
    return count - 1, at, _left(left, count - 1, len(body) - at)


def _left(left: int, count: int, size: int) -> int:
    left -= count
    if not 0 <= count <= size or left < 0:
        raise BrokenFrame(f"an array of {count} elements begins {size} bytes before the end of the frame")
    return left


# --- answers --------------------------------------------------------------------------------------------------


def encode(response: FetchResponse, version: int) -> Parts:
    flexible = version >= FLEXIBLE_FROM
    parts: list[bytes | bytearray] = []
    out = bytearray()
    if version >= 7:
        out += _TOP_V7.pack(response.throttle_time_ms, response.error_code, 0)
    else:
        out += _INT32.pack(response.throttle_time_ms)
    out += _packed_count(len(response.topics), flexible)
    for topic in response.topics:
        write_text(out, topic.topic, flexible)
        out += _packed_count(len(topic.partitions), flexible)
        for data in topic.partitions:
            _write_head(out, data, version)
            size = data.size
            out += packed_uvarint(size + 1) if flexible else _INT32.pack(size)
            if size:
                parts.append(out)
                parts += data.batches
                out = bytearray()
            if flexible:
                _write_leader(out, data)
        if flexible:
            out.append(0)
    if flexible:
        out.append(0)
    if out:
        parts.append(out)
    return parts


def _packed_count(count: int, flexible: bool) -> bytes:
    return packed_uvarint(count + 1) if flexible else _INT32.pack(count)


def _write_head(out: bytearray, data: PartitionData, version: int) -> None:
    """All of a partition that stands before its records."""
    if version >= 5:
        out += _RESULT_V5.pack(
            data.partition, data.error_code, data.high_watermark, data.last_stable_offset, data.log_start_offset
        )
    else:
        out += _RESULT_V4.pack(data.partition, data.error_code, data.high_watermark, data.last_stable_offset)
    flexible = version >= FLEXIBLE_FROM
    if data.aborted is None:
        out += b"\0" if flexible else b"\xff\xff\xff\xff"
    else:
        out += _packed_count(len(data.aborted), flexible)
        for one in data.aborted:
            out += _ABORTED.pack(*one)
            if flexible:
                out.append(0)
    if version >= 11:
        out += _NO_REPLICA


def _write_leader(out: bytearray, data: PartitionData) -> None:
    """A partition's tagged fields."""
    if data.leader_epoch >= 0:
        out += _LEADER_TAG.pack(1, 1, 9, data.leader, data.leader_epoch, 0)
    else:
        out.append(0)


CODEC: Codec[FetchRequest, FetchResponse] = Codec(FLEXIBLE_FROM, decode, encode)

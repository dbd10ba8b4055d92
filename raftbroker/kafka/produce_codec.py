"""Produce's messages, versions 3 to 11, read and written by hand: record bytes are never copied.

A decoded request holds slices of its frame. No length is believed: what is cut off raises `struct.error`, `IndexError`
or `BrokenFrame`, as `api.Codec` allows, and the time and memory that a request costs are bounded by its size.
"""

from collections.abc import Sequence
from struct import Struct

import msgspec

from raftbroker.kafka.api import Codec, Parts
from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.hand import compact_text, nullable_text, packed_uvarint, skip_tags, text, uvarint, write_text
from raftbroker.kafka.reader import ELEMENTS_MAX

FLEXIBLE_FROM = 9

_ACKS_TIMEOUT = Struct(">hi")
_INT16, _INT32 = Struct(">h"), Struct(">i")
_INDEX_AND_SIZE = Struct(">ii")
_RESULT = Struct(">ihqqq")
"""Partition, error code, base offset, log append time, log start offset."""
_RESULT_V3 = Struct(">ihqq")
_LEADER_TAG = Struct(">BBBiiB")


class PartitionRecords(msgspec.Struct, gc=False):
    partition: int
    records: memoryview | None


class TopicRecords(msgspec.Struct, gc=False):
    topic: str
    partitions: list[PartitionRecords]


class ProduceRequest(msgspec.Struct, gc=False):
    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[TopicRecords]


class PartitionResult(msgspec.Struct, gc=False):
    """What became of one partition's batch. `leader` and its epoch are told (from version 10) unless -1."""

    partition: int
    error_code: int = 0
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1
    error_message: str | None = None
    batch_indexes: Sequence[int] = ()
    """Of the records that are to blame, in their batch; empty for none in particular."""
    leader: int = -1
    leader_epoch: int = -1


class TopicResult(msgspec.Struct, gc=False):
    topic: str
    partitions: list[PartitionResult]


class LeaderEndpoint(msgspec.Struct, frozen=True, gc=False):
    node: int
    host: str
    port: int


class ProduceResponse(msgspec.Struct, gc=False):
    topics: list[TopicResult]
    throttle_time_ms: int = 0
    leaders: Sequence[LeaderEndpoint] = ()
    """Where the leaders named in the results are; from version 10."""


# --- requests -------------------------------------------------------------------------------------------------


def decode(body: memoryview, version: int) -> ProduceRequest:
    return _decode_flexible(body) if version >= FLEXIBLE_FROM else _decode(body)


def _decode(body: memoryview) -> ProduceRequest:
    size, left = len(body), ELEMENTS_MAX
    transactional_id, at = nullable_text(body, 0)
    acks, timeout_ms = _ACKS_TIMEOUT.unpack_from(body, at)
    (topic_count,) = _INT32.unpack_from(body, at + 6)
    at += 10
    left = _counted(left, topic_count, size - at)
    topics: list[TopicRecords] = []
    for _ in range(topic_count):
        name, at = text(body, at)
        (count,) = _INT32.unpack_from(body, at)
        at += 4
        left = _counted(left, count, size - at)
        partitions: list[PartitionRecords] = []
        for _ in range(count):
            index, length = _INDEX_AND_SIZE.unpack_from(body, at)
            at += 8
            if length == -1:
                partitions.append(PartitionRecords(index, None))
                continue
            end = at + length
            if length < 0 or end > size:
                raise BrokenFrame(f"records of {length} bytes begin {size - at} bytes before the end of the frame")
            partitions.append(PartitionRecords(index, body[at:end]))
            at = end
        topics.append(TopicRecords(name, partitions))
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def _decode_flexible(body: memoryview) -> ProduceRequest:
    size, left = len(body), ELEMENTS_MAX
    transactional_id, at = compact_text(body, 0)
    acks, timeout_ms = _ACKS_TIMEOUT.unpack_from(body, at)
    topic_count, at = uvarint(body, at + 6)
    topic_count -= 1
    left = _counted(left, topic_count, size - at)
    topics: list[TopicRecords] = []
    for _ in range(topic_count):
        name, at = compact_text(body, at)
        if name is None:
            raise BrokenFrame("a topic's name is null")
        count, at = uvarint(body, at)
        count -= 1
        left = _counted(left, count, size - at)
        partitions: list[PartitionRecords] = []
        for _ in range(count):
            (index,) = _INT32.unpack_from(body, at)
            length, at = uvarint(body, at + 4)
            if length == 0:
                partitions.append(PartitionRecords(index, None))
            else:
                end = at + length - 1
                if end > size:
                    raise BrokenFrame(f"records of {length - 1} bytes begin {size - at} bytes before the frame's end")
                partitions.append(PartitionRecords(index, body[at:end]))
                at = end
            at = at + 1 if body[at] == 0 else skip_tags(body, at)
        at = at + 1 if body[at] == 0 else skip_tags(body, at)
        topics.append(TopicRecords(name, partitions))
    skip_tags(body, at)
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def _counted(left: int, count: int, size: int) -> int:
    """How many elements the frame may still list. Raises BrokenFrame."""
    left -= count
    if not 0 <= count <= size or left < 0:
        raise BrokenFrame(f"an array of {count} elements begins {size} bytes before the end of the frame")
    return left


# --- answers --------------------------------------------------------------------------------------------------


def encode(response: ProduceResponse, version: int) -> Parts:
    out = bytearray()
    flexible = version >= FLEXIBLE_FROM
    _write_count(out, len(response.topics), flexible)
    for topic in response.topics:
        write_text(out, topic.topic, flexible)
        _write_count(out, len(topic.partitions), flexible)
        for result in topic.partitions:
            _write_result(out, result, version)
        if flexible:
            out.append(0)
    out += _INT32.pack(response.throttle_time_ms)
    if flexible:
        _write_leaders(out, response.leaders if version >= 10 else ())
    return (out,)


def _write_count(out: bytearray, count: int, flexible: bool) -> None:
    out += packed_uvarint(count + 1) if flexible else _INT32.pack(count)


def _write_result(out: bytearray, result: PartitionResult, version: int) -> None:
    if version < 5:
        out += _RESULT_V3.pack(result.partition, result.error_code, result.base_offset, result.log_append_time_ms)
        return
    out += _RESULT.pack(
        result.partition, result.error_code, result.base_offset, result.log_append_time_ms, result.log_start_offset
    )
    if version < 8:
        return
    flexible = version >= FLEXIBLE_FROM
    message = result.error_message
    if message is None:
        out += b"\1\0" if flexible else b"\0\0\0\0\xff\xff"
    else:
        _write_count(out, len(result.batch_indexes), flexible)
        for index in result.batch_indexes:
            out += _INT32.pack(index)
            write_text(out, message, flexible)
            if flexible:
                out.append(0)
        write_text(out, message, flexible)
    if flexible:
        if version >= 10 and result.leader_epoch >= 0:
            out += _LEADER_TAG.pack(1, 0, 9, result.leader, result.leader_epoch, 0)
        else:
            out.append(0)


def _write_leaders(out: bytearray, leaders: Sequence[LeaderEndpoint]) -> None:
    """The tagged fields at the end of an answer."""
    if not leaders:
        out.append(0)
        return
    inner = bytearray(packed_uvarint(len(leaders) + 1))
    for leader in leaders:
        inner += _INT32.pack(leader.node)
        write_text(inner, leader.host, True)
        inner += _INT32.pack(leader.port)
        inner += b"\0\0"  # no rack, no tags
    out += b"\1\0" + packed_uvarint(len(inner)) + inner


CODEC: Codec[ProduceRequest, ProduceResponse] = Codec(FLEXIBLE_FROM, decode, encode)

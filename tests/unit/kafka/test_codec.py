"""Every API and version: what we read and write is what two other codecs read and write, and nothing broken gets by."""

import random
from collections.abc import Iterator

import pytest
from kafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest
from kafka.protocol.metadata import MetadataRequest, MetadataResponse

from raftbroker.kafka.api import Api
from raftbroker.kafka.codec import messages
from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.handlers import APIS
from raftbroker.kafka.reader import ELEMENTS_MAX
from tests.unit.kafka.samples import MESSAGES, sample, through_kio

SAMPLES = 20
HAND_WRITTEN = {0, 1}
"""Produce and Fetch: their messages are not kafka-python's."""
MIB = 1 << 20


def served() -> Iterator[tuple[int, int]]:
    for key, api in sorted(APIS.items()):
        if key not in HAND_WRITTEN:
            yield from ((key, version) for version in range(api.min_version, api.max_version + 1))
    for key in {68, 69} - set(APIS):
        yield from ((key, version) for version in (0, 1))


def name(key: int) -> str:
    return str(MESSAGES[key, True].name).removesuffix("Request")


SERVED = [pytest.param(key, version, id=f"{name(key)}-{version}") for key, version in served()]


FLEXIBLE = [one for one in SERVED if MESSAGES[one.values[0], True].flexible_version_q(one.values[1])]


def decode(key: int, version: int, body: bytes) -> object:
    codec = messages(MESSAGES[key, True], MESSAGES[key, False])

    async def never(*_: object) -> None:
        raise AssertionError

    api = Api(key=key, name=name(key), min_version=0, max_version=99, codec=codec, handle=never)
    return api.decode(memoryview(body), version)


@pytest.mark.parametrize(("key", "version"), SERVED)
def test_requests_are_read_as_other_codecs_read_them(key: int, version: int) -> None:
    kind = MESSAGES[key, True]
    for seed in range(SAMPLES):
        body = bytes(sample(random.Random(seed), kind, version).encode(version=version))
        assert through_kio(kind, version, body) == body
        assert decode(key, version, body) == kind.decode(body, version=version)


@pytest.mark.parametrize(("key", "version"), SERVED)
def test_answers_are_written_as_other_codecs_read_them(key: int, version: int) -> None:
    kind = MESSAGES[key, False]
    codec = messages(MESSAGES[key, True], kind)
    for seed in range(SAMPLES):
        answer = sample(random.Random(seed), kind, version)
        body = b"".join(codec.encode(answer, version))
        assert through_kio(kind, version, body) == body
        if key != 18:  # kafka-python reads a failed ApiVersions as version 0
            assert kind.decode(body, version=version) == answer


@pytest.mark.parametrize(("key", "version"), SERVED)
def test_a_request_cut_off_anywhere_is_broken(key: int, version: int) -> None:
    for seed in range(4):
        body = bytes(sample(random.Random(seed), MESSAGES[key, True], version).encode(version=version))
        for end in range(len(body)):
            with pytest.raises(BrokenFrame):
                decode(key, version, body[:end])


@pytest.mark.parametrize(("key", "version"), FLEXIBLE)
def test_tagged_fields_that_are_not_known_are_passed_over(key: int, version: int) -> None:
    kind = MESSAGES[key, True]
    body = bytes(kind(version=version).encode(version=version))
    assert body[-1] == 0  # no tagged fields
    tagged = body[:-1] + bytes([2, 100, 3]) + b"abc" + bytes([0xFF, 0x01, 1]) + b"x"
    assert decode(key, version, tagged) == decode(key, version, body)


# --- hostile bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff" * 30 * MIB, "32 bits"),
        (b"\xff\xff\xff\xff\x0f", "an array of"),
        (b"\x81\x80\x80\x80\x10", "32 bits"),
        (b"\x03" + b"\0" * 16 + b"\xff\xff\xff\xff\x0f", "a field of"),
        (b"\x02" + b"\0" * 16 + b"\x03\xff\xfe\0" + b"\x01\x00\x00", "utf-8"),
        (b"\x01\x01\x00\xff\xff\xff\xff\x0f", "more than"),
        (b"\x01\x01\x00\x01\x05\x7fabc", "tagged field 5 of 127 bytes"),
        (b"\x01\x01\x00\x02\x05\x00\x05\x00", "tagged field 5 comes after 5"),
        (b"", "index"),
    ],
)
def test_metadata_v12_refuses(body: bytes, reason: str) -> None:
    with pytest.raises(BrokenFrame, match=reason):
        decode(3, 12, body)


def test_time_does_not_grow_with_tagged_fields_times_bytes() -> None:
    """Each of many topics with a tagged field: kafka-python's decoder copies the rest of the frame at each of them."""
    topic = b"\0" * 16 + b"\0" + b"\x01\x05\x00"
    count = ELEMENTS_MAX // 2 - 1
    size = bytes([(count + 1) & 0x7F | 0x80, (count + 1) >> 7 & 0x7F | 0x80, (count + 1) >> 14])
    read = decode(3, 12, size + topic * count + b"\x01\x00\x00")
    assert isinstance(read, MetadataRequest)
    assert read.topics is not None
    assert len(read.topics) == count


def test_a_request_lists_only_so_many_things() -> None:
    def body(count: int) -> bytes:
        names = b"\0\x01t" * count
        return count.to_bytes(4, "big") + names + b"\0\0\0\0"

    read = decode(20, 1, body(ELEMENTS_MAX))
    assert isinstance(read, DeleteTopicsRequest)
    assert len(read.topic_names) == ELEMENTS_MAX
    with pytest.raises(BrokenFrame, match="more than"):
        decode(20, 1, body(ELEMENTS_MAX + 1))


def test_null_is_taken_only_where_the_protocol_allows_it() -> None:
    with pytest.raises(BrokenFrame, match="topics is null"):
        decode(19, 2, b"\xff\xff\xff\xff" + b"\0\0\0\0\0")
    with pytest.raises(BrokenFrame, match="a string is null"):
        decode(20, 1, b"\0\0\0\x01\xff\xff\0\0\0\0")
    read = decode(19, 2, b"\0\0\0\0" + b"\0\0\0\x05\x01")
    assert isinstance(read, CreateTopicsRequest)
    assert (read.topics, read.timeout_ms, read.validate_only) == ([], 5, True)


def test_fields_of_other_versions_read_as_their_defaults() -> None:
    read = decode(3, 1, b"\xff\xff\xff\xff")
    assert isinstance(read, MetadataRequest)
    assert read.topics is None
    assert read.allow_auto_topic_creation is True
    assert read.include_cluster_authorized_operations is False


def test_answers_may_leave_fields_out() -> None:
    (body,) = messages(MetadataRequest, MetadataResponse).encode(MetadataResponse(brokers=[], topics=[]), 9)
    read = MetadataResponse.decode(bytes(body), version=9)
    assert (read.throttle_time_ms, read.cluster_id, read.controller_id) == (0, None, -1)

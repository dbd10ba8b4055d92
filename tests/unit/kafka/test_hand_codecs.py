"""The codecs written by hand, against kafka-python's, which is compiled from Kafka's own definitions."""

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafka.protocol import consumer, producer

from raftbroker.kafka import fetch_codec, produce_codec
from raftbroker.kafka.api import Parts
from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.hand import packed_uvarint
from raftbroker.kafka.reader import UNSOUND

PRODUCE_VERSIONS = range(3, 12)
FETCH_VERSIONS = range(4, 13)
CODECS = [(produce_codec, version) for version in PRODUCE_VERSIONS] + [(fetch_codec, v) for v in FETCH_VERSIONS]

int16, int32 = st.integers(-(2**15), 2**15 - 1), st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=300)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
some_bytes = st.binary(max_size=400)


def joined(parts: Parts) -> bytes:
    return b"".join(parts)


def with_tags(body: bytes) -> bytes:
    """A flexible message ends with its tagged fields: the same with three that nobody knows."""
    assert body[-1] == 0
    return body[:-1] + b"\3\x05\x01x\x80\x01\0\xff\x01" + packed_uvarint(300) + b"y" * 300


# --- Produce --------------------------------------------------------------------------------------------------

produce_requests = st.builds(
    produce_codec.ProduceRequest,
    st.none() | texts,
    int16,
    int32,
    st.lists(
        st.builds(
            produce_codec.TopicRecords,
            names,
            st.lists(st.builds(produce_codec.PartitionRecords, int32, st.none() | some_bytes.map(memoryview))),
        )
    ),
)

produce_responses = st.builds(
    produce_codec.ProduceResponse,
    st.lists(
        st.builds(
            produce_codec.TopicResult,
            names,
            st.lists(
                st.builds(
                    produce_codec.PartitionResult,
                    int32,
                    int16,
                    int64,
                    int64,
                    int64,
                    st.none() | texts,
                    st.lists(st.integers(0, 2**31 - 1), max_size=3),
                    int32,
                    int32,
                ),
                max_size=5,
            ),
        ),
        max_size=5,
    ),
    int32,
    st.lists(st.builds(produce_codec.LeaderEndpoint, int32, texts, int32), max_size=3),
)


def their_produce(request: produce_codec.ProduceRequest, version: int) -> bytes:
    topic = producer.ProduceRequest.TopicProduceData
    data = [
        topic(
            name=one.topic,
            partition_data=[
                topic.PartitionProduceData(index=p.partition, records=None if p.records is None else bytes(p.records))
                for p in one.partitions
            ],
        )
        for one in request.topics
    ]
    made = producer.ProduceRequest(
        transactional_id=request.transactional_id, acks=request.acks, timeout_ms=request.timeout_ms, topic_data=data
    )
    return bytes(made.encode(version=version))


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
@given(produce_requests)
@settings(max_examples=25, deadline=None)
def test_produce_requests_are_read_as_they_were_written(version: int, request: produce_codec.ProduceRequest) -> None:
    body = their_produce(request, version)
    assert produce_codec.decode(memoryview(body), version) == request
    if version >= 9:
        assert produce_codec.decode(memoryview(with_tags(body)), version) == request


def test_produced_records_are_slices_of_the_frame() -> None:
    records = memoryview(b"r" * 1000)
    partitions = [produce_codec.PartitionRecords(3, records)]
    request = produce_codec.ProduceRequest(None, -1, 1, [produce_codec.TopicRecords("t", partitions)])
    for version in (3, 11):
        body = their_produce(request, version)
        read = produce_codec.decode(memoryview(body), version).topics[0].partitions[0].records
        assert read is not None
        assert read.obj is body


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
@given(produce_responses)
@settings(max_examples=25, deadline=None)
def test_produce_answers_are_written_as_they_are_read(version: int, response: produce_codec.ProduceResponse) -> None:
    read = producer.ProduceResponse.decode(joined(produce_codec.encode(response, version)), version=version)
    assert read.throttle_time_ms == response.throttle_time_ms
    assert [topic.name for topic in read.responses] == [topic.topic for topic in response.topics]
    for theirs, ours in zip(read.responses, response.topics, strict=True):
        assert len(theirs.partition_responses) == len(ours.partitions)
        for got, meant in zip(theirs.partition_responses, ours.partitions, strict=True):
            check_result(got, meant, version)
    leaders = [(one.node_id, one.host, one.port, one.rack) for one in read.node_endpoints or ()]
    assert leaders == [(one.node, one.host, one.port, None) for one in response.leaders if version >= 10]


def check_result(got: Any, meant: produce_codec.PartitionResult, version: int) -> None:
    assert (got.index, got.error_code, got.base_offset) == (meant.partition, meant.error_code, meant.base_offset)
    assert got.log_append_time_ms == meant.log_append_time_ms
    assert got.log_start_offset == (meant.log_start_offset if version >= 5 else -1)
    if version >= 8:
        assert got.error_message == meant.error_message
        blamed = meant.batch_indexes if meant.error_message is not None else ()
        errors = [(one.batch_index, one.batch_index_error_message) for one in got.record_errors]
        assert errors == [(index, meant.error_message) for index in blamed]
    leader = (got.current_leader.leader_id, got.current_leader.leader_epoch) if got.current_leader else (-1, -1)
    told = version >= 10 and meant.leader_epoch >= 0
    assert leader == ((meant.leader, meant.leader_epoch) if told else (-1, -1))


# --- Fetch ----------------------------------------------------------------------------------------------------

fetch_requests = st.builds(
    fetch_codec.FetchRequest,
    int32,
    int32,
    int32,
    int32,
    st.integers(-128, 127),
    int32,
    int32,
    st.lists(
        st.builds(
            fetch_codec.FetchTopic, names, st.lists(st.builds(fetch_codec.FetchPartition, int32, int32, int64, int32))
        )
    ),
)

fetch_responses = st.builds(
    fetch_codec.FetchResponse,
    st.lists(
        st.builds(
            fetch_codec.TopicData,
            names,
            st.lists(
                st.builds(
                    fetch_codec.PartitionData,
                    int32,
                    int16,
                    int64,
                    int64,
                    int64,
                    st.none() | st.lists(st.tuples(int64, int64), max_size=3),
                    st.lists(st.binary(min_size=1, max_size=300), max_size=3),
                    st.just(0),
                    int32,
                    int32,
                ),
                max_size=5,
            ),
        ),
        max_size=4,
    ),
    int32,
    int16,
)


def their_fetch(request: fetch_codec.FetchRequest, version: int, forgotten: Sequence[tuple[str, list[int]]]) -> bytes:
    topic = consumer.FetchRequest.FetchTopic
    fields: dict[str, Any] = {}
    if version >= 7:
        fields = {
            "session_id": request.session_id,
            "session_epoch": request.session_epoch,
            "forgotten_topics_data": [
                consumer.FetchRequest.ForgottenTopic(topic=name, partitions=numbers) for name, numbers in forgotten
            ],
        }
    if version >= 11:
        fields["rack_id"] = "rack"
    made = consumer.FetchRequest(
        replica_id=request.replica_id,
        max_wait_ms=request.max_wait_ms,
        min_bytes=request.min_bytes,
        max_bytes=request.max_bytes,
        isolation_level=request.isolation_level,
        topics=[
            topic(
                topic=one.topic,
                partitions=[
                    topic.FetchPartition(
                        partition=p.partition,
                        current_leader_epoch=p.leader_epoch,
                        fetch_offset=p.offset,
                        last_fetched_epoch=-1,
                        log_start_offset=-1,
                        partition_max_bytes=p.bytes_max,
                    )
                    for p in one.partitions
                ],
            )
            for one in request.topics
        ],
        **fields,
    )
    return bytes(made.encode(version=version))


@pytest.mark.parametrize("version", FETCH_VERSIONS)
@given(fetch_requests, st.lists(st.tuples(names, st.lists(int32, max_size=4)), max_size=3))
@settings(max_examples=25, deadline=None)
def test_fetch_requests_are_read_as_they_were_written(
    version: int, request: fetch_codec.FetchRequest, forgotten: list[tuple[str, list[int]]]
) -> None:
    if version < 9:
        for topic in request.topics:
            for one in topic.partitions:
                one.leader_epoch = -1
    if version < 7:
        request.session_id, request.session_epoch = 0, -1
    body = their_fetch(request, version, forgotten)
    assert fetch_codec.decode(memoryview(body), version) == request
    if version >= 12:
        assert fetch_codec.decode(memoryview(with_tags(body)), version) == request


def test_tagged_fields_of_a_fetched_partition_are_skipped() -> None:
    partition = struct.pack(">iiqiqi", 7, 3, 40, -1, -1, 1000)
    tagged = partition + b"\1\x09\x02ab"
    body = struct.pack(">iiiib", -1, 1, 1, 1, 0) + struct.pack(">ii", 0, -1)
    body += b"\2" + b"\2t" + b"\3" + tagged + partition + b"\0" + b"\0" + b"\1" + b"\1" + b"\0"
    (topic,) = fetch_codec.decode(memoryview(body), 12).topics
    assert topic.partitions == [fetch_codec.FetchPartition(7, 3, 40, 1000)] * 2


@pytest.mark.parametrize("version", FETCH_VERSIONS)
@given(fetch_responses)
@settings(max_examples=25, deadline=None)
def test_fetch_answers_are_written_as_they_are_read(version: int, response: fetch_codec.FetchResponse) -> None:
    for topic in response.topics:
        for one in topic.partitions:
            one.size = sum(map(len, one.batches))
    parts = fetch_codec.encode(response, version)
    read = consumer.FetchResponse.decode(joined(parts), version=version)
    assert read.throttle_time_ms == response.throttle_time_ms
    if version >= 7:
        assert (read.error_code, read.session_id) == (response.error_code, 0)
    assert [topic.topic for topic in read.responses] == [topic.topic for topic in response.topics]
    batches = [batch for topic in response.topics for one in topic.partitions for batch in one.batches]
    assert all(any(part is batch for part in parts) for batch in batches), "a batch was copied"
    for theirs, ours in zip(read.responses, response.topics, strict=True):
        assert len(theirs.partitions) == len(ours.partitions)
        for got, meant in zip(theirs.partitions, ours.partitions, strict=True):
            check_data(got, meant, version)


def check_data(got: Any, meant: fetch_codec.PartitionData, version: int) -> None:
    assert (got.partition_index, got.error_code) == (meant.partition, meant.error_code)
    assert (got.high_watermark, got.last_stable_offset) == (meant.high_watermark, meant.last_stable_offset)
    assert got.log_start_offset == (meant.log_start_offset if version >= 5 else -1)
    aborted = got.aborted_transactions
    assert (None if aborted is None else [(one.producer_id, one.first_offset) for one in aborted]) == meant.aborted
    assert got.preferred_read_replica == -1
    assert bytes(got.records) == b"".join(meant.batches)
    leader = (got.current_leader.leader_id, got.current_leader.leader_epoch) if got.current_leader else (-1, -1)
    told = version >= 12 and meant.leader_epoch >= 0
    assert leader == ((meant.leader, meant.leader_epoch) if told else (-1, -1))


# --- what is not sound ----------------------------------------------------------------------------------------

SOUND = {
    produce_codec: lambda version: their_produce(
        produce_codec.ProduceRequest(
            "id",
            -1,
            1000,
            [produce_codec.TopicRecords("t", [produce_codec.PartitionRecords(0, memoryview(b"records"))] * 2)] * 2,
        ),
        version,
    ),
    fetch_codec: lambda version: their_fetch(
        fetch_codec.FetchRequest(
            -1, 1, 1, 1, 0, 0, -1, [fetch_codec.FetchTopic("t", [fetch_codec.FetchPartition(0, 1, 2, 3)] * 2)] * 2
        ),
        version,
        [("f", [1, 2])],
    ),
}


@pytest.mark.parametrize(("codec", "version"), CODECS)
def test_a_request_that_is_cut_off_is_refused(codec: Any, version: int) -> None:
    body = SOUND[codec](version)
    codec.decode(memoryview(body), version)
    for size in range(len(body)):
        with pytest.raises((BrokenFrame, *UNSOUND)):
            codec.decode(memoryview(body[:size]), version)


@pytest.mark.parametrize(("codec", "version"), CODECS)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_broken_requests_raise_what_is_declared(codec: Any, version: int, data: st.DataObject) -> None:
    body = bytearray(SOUND[codec](version))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        piece = data.draw(st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff" * 5 + b"\x0f", b"\x80"]))
        body[at : at + len(piece)] = data.draw(st.just(piece) | st.binary(min_size=1, max_size=6))
    try:
        codec.decode(memoryview(bytes(body)), version)
    except (BrokenFrame, *UNSOUND):
        pass


@pytest.mark.parametrize(("codec", "version"), CODECS)
@given(st.binary(max_size=200))
@example(b"\xff" * 40)
@example(b"\x7f" * 40)
@settings(max_examples=50, deadline=None)
def test_noise_raises_what_is_declared(codec: Any, version: int, body: bytes) -> None:
    try:
        codec.decode(memoryview(body), version)
    except (BrokenFrame, *UNSOUND):
        pass


def test_an_array_as_long_as_the_frame_says_costs_no_more_than_the_frame() -> None:
    nothing = struct.pack(">hhi", -1, -1, 1000)
    with pytest.raises(BrokenFrame, match="array of 2147483647"):
        produce_codec.decode(memoryview(nothing + struct.pack(">i", 2**31 - 1)), 3)
    with pytest.raises(BrokenFrame, match="array"):
        produce_codec.decode(memoryview(b"\0" + struct.pack(">hi", -1, 1000) + b"\xff\xff\xff\xff\x0f"), 9)
    many = struct.pack(">iiiib", -1, 1, 1, 1, 0) + struct.pack(">i", 300_000) + b"\0\1t\0\0\0\0" * 300_000
    with pytest.raises(BrokenFrame, match="array of 300000"):
        fetch_codec.decode(memoryview(many), 4)

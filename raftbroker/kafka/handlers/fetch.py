"""Fetch (1): batches as they are stored, of the partitions that this node leads.

There are no sessions (KIP-227): a client that wants to open one gets id 0, which means that there is none, and goes on
naming all its partitions. One that goes on with a session, which another broker or an earlier life of this one must
have given it, is told that it is not known and begins anew.
"""

from raftbroker.broker.errors import BrokerError, Internal, LedElsewhere
from raftbroker.broker.leader_fetch import Reading, Wanted
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode, code_of
from raftbroker.kafka.fetch_codec import CODEC, FetchRequest, FetchResponse, PartitionData, TopicData
from raftbroker.kafka.handlers.common import log

FULL_EPOCHS = (0, -1)
"""Session epochs of requests that name all their partitions."""


async def handle(context: KafkaContext, request: Request[FetchRequest]) -> FetchResponse:
    body = request.body
    if body.session_epoch not in FULL_EPOCHS:
        return FetchResponse([], error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
    wanted = [
        Wanted(topic.topic, one.partition, one.offset, one.bytes_max, one.leader_epoch)
        for topic in body.topics
        for one in topic.partitions
    ]
    committed = body.isolation_level > 0
    readings, throttle_ms = await context.broker.leader_side.fetch(
        wanted,
        bytes_max=body.max_bytes,
        bytes_min=body.min_bytes,
        wait=0.0 if context.stopping.is_set() else body.max_wait_ms / 1000,
        committed=committed,
    )
    rest = iter(readings)
    topics = [
        TopicData(topic.topic, [_data(one.partition, next(rest), committed) for one in topic.partitions])
        for topic in body.topics
    ]
    return FetchResponse(topics, throttle_time_ms=throttle_ms)


def _data(partition: int, reading: Reading, committed: bool) -> PartitionData:
    if reading.error is not None:
        return _failed(partition, reading.error, committed)
    return PartitionData(
        partition,
        0,
        reading.high_watermark,
        reading.last_stable,
        reading.log_start,
        reading.aborted if committed else None,
        reading.batches,
        reading.size,
    )


def _failed(partition: int, error: BrokerError, committed: bool) -> PartitionData:
    if isinstance(error, Internal):
        log.error("a fetch failed: %s", error)
    data = PartitionData(partition, code_of(error), aborted=() if committed else None)
    if isinstance(error, LedElsewhere):
        data.leader, data.leader_epoch = error.leader, error.epoch
    return data


API = Api(key=1, name="Fetch", min_version=4, max_version=12, codec=CODEC, handle=handle, abandon=True)

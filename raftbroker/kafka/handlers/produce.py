"""Produce (0): appends batches on the node that leads their partitions.

The batches of a request, and of the requests that a client has under way on one connection, take their places in the
order they came; what is beyond the bytes in flight is held back with its connection, not refused. An outcome that is
not known is answered with REQUEST_TIMED_OUT, which clients repeat: an idempotent producer's repetition gets the
original's offset.

acks=1 waits for a majority's disks as acks=all does. acks=0 has no answer, so an error closes the connection, as Kafka
does it: the client asks for metadata again.
"""

import asyncio
from collections.abc import Iterator

from consensus.errors import ConsensusError, NotLeader, Refused
from raftbroker.broker.errors import BadRecords, BrokerError, Internal, LedElsewhere, MissingKey, TooFewReplicas
from raftbroker.broker.views import Produced
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.endpoints import split_host
from raftbroker.kafka.errors import BrokenFrame, ErrorCode, code_of, message_of
from raftbroker.kafka.handlers.common import NotTaken, log, seconds
from raftbroker.kafka.produce_codec import (
    CODEC,
    LeaderEndpoint,
    PartitionRecords,
    PartitionResult,
    ProduceRequest,
    ProduceResponse,
    TopicResult,
)
from raftbroker.state.batch import parse_header
from raftbroker.state.errors import BadBatch

LEADERS_FROM = 10
"""The version from which on an answer says who leads instead."""
MESSAGE_CHARACTERS_MAX = 1000


async def handle(context: KafkaContext, request: Request[ProduceRequest]) -> ProduceResponse | None:
    body = request.body
    response = ProduceResponse([])
    waiting: list[tuple[asyncio.Future[Produced], PartitionResult]] = []
    numbers = await _transactions(context, body) if body.transactional_id is not None else None
    for topic in body.topics:
        results: list[PartitionResult] = []
        response.topics.append(TopicResult(topic.topic, results))
        for one in topic.partitions:
            result = PartitionResult(one.partition)
            results.append(result)
            try:
                waiting.append((_append(context, body, topic.topic, one, numbers), result))
            except (BrokerError, ConsensusError, NotTaken) as error:
                _fail(result, error)
    request.pass_turn()
    await _outcomes(waiting)
    if body.acks == 0:
        failed = next((result for result in _results(response) if result.error_code), None)
        if failed is not None:
            raise BrokenFrame(f"its client wants no answers and so has to hear of this: {failed.error_message}")
        return None
    response.throttle_time_ms = context.broker.leader_side.throttle_ms()
    if request.version >= LEADERS_FROM:
        _name_leaders(context, response)
    return response


def _append(
    context: KafkaContext,
    body: ProduceRequest,
    topic: str,
    one: PartitionRecords,
    numbers: dict[tuple[str, int], int | Exception] | None,
) -> "asyncio.Future[Produced]":
    """The future of the batch, which has its place now. Raises what is wrong with it."""
    if body.acks not in (-1, 0, 1):
        raise NotTaken(ErrorCode.INVALID_REQUIRED_ACKS, f"acks is 0, 1 or -1 (all), not {body.acks}")
    if not one.records:
        raise BadRecords("there is no record batch for the partition: send one", field="records")
    number = numbers.get((topic, one.partition)) if numbers is not None else None
    if isinstance(number, Exception):
        raise number
    return context.broker.leader_side.append(
        topic, one.partition, one.records, timeout=seconds(body.timeout_ms), transaction=number
    )


async def _transactions(context: KafkaContext, body: ProduceRequest) -> dict[tuple[str, int], int | Exception]:
    """The number of each transactional batch's transaction, by topic and partition; the coordinator is asked where a
    batch opens a transaction on its partition. Later requests wait, so the order stays what it was."""
    name = body.transactional_id
    assert name is not None
    transactions, timeout = context.broker.transactions, seconds(body.timeout_ms)

    async def number(topic: str, one: PartitionRecords) -> int | Exception | None:
        try:
            header = parse_header(one.records or b"")
            if not header.transactional:
                return None
            known = transactions.number_of(topic, one.partition, header)
            return (
                await transactions.verify(name, topic, one.partition, header, timeout=timeout)
                if known is None
                else known
            )
        except BadBatch:
            return None  # `append` says what is wrong with it
        except (BrokerError, ConsensusError) as error:
            return error

    places = [(topic.topic, one) for topic in body.topics for one in topic.partitions]
    found = await asyncio.gather(*(number(topic, one) for topic, one in places))
    return {
        (topic, one.partition): answer for (topic, one), answer in zip(places, found, strict=True) if answer is not None
    }


async def _outcomes(waiting: list[tuple["asyncio.Future[Produced]", PartitionResult]]) -> None:
    try:
        for future, result in waiting:
            try:
                produced = await future
            except (BrokerError, ConsensusError) as error:
                _fail(result, error)
            else:
                result.base_offset = produced.base_offset
                result.log_append_time_ms = produced.timestamp
                result.log_start_offset = produced.log_start
    except asyncio.CancelledError:
        for future, _ in waiting:
            future.cancel()
        raise


def _results(response: ProduceResponse) -> Iterator[PartitionResult]:
    return (result for topic in response.topics for result in topic.partitions)


def _fail(result: PartitionResult, error: Exception) -> None:
    if isinstance(error, Internal):
        log.error("producing failed: %s", error)
    result.error_code = produce_code(error)
    result.error_message = message_of(error)[:MESSAGE_CHARACTERS_MAX]
    if isinstance(error, LedElsewhere):
        result.leader, result.leader_epoch = error.leader, error.epoch
    elif isinstance(error, MissingKey):
        result.batch_indexes = error.indexes


def produce_code(error: Exception) -> ErrorCode:
    """What makes a producer do the right thing: ask who leads and repeat; wait and repeat; repeat what may have been
    done; or give up. None of these says that a batch was not appended which may have been."""
    if isinstance(error, NotTaken):
        return error.code
    if isinstance(error, TooFewReplicas):
        return ErrorCode.NOT_ENOUGH_REPLICAS
    if isinstance(error, NotLeader | Refused):
        return code_of(error, unavailable=ErrorCode.NOT_LEADER_OR_FOLLOWER)
    return code_of(error, unavailable=ErrorCode.NOT_ENOUGH_REPLICAS)


def _name_leaders(context: KafkaContext, response: ProduceResponse) -> None:
    leaders = {result.leader for result in _results(response) if result.leader >= 0}
    if leaders:
        addresses = [(leader, context.broker.leader_side.kafka_address(leader)) for leader in sorted(leaders)]
        response.leaders = [LeaderEndpoint(leader, *split_host(address)) for leader, address in addresses if address]


API = Api(
    key=0,
    name="Produce",
    min_version=3,
    max_version=11,
    advertise_min=0,  # librdkafka before 2.11.1 takes a higher one for a broker without compression
    codec=CODEC,
    handle=handle,
)

"""AddPartitionsToTxn (24): partitions become part of the producer's transaction, which begins with the first of them.

All of them, or none: where one is unknown, the others are not attempted. Versions from 4 on are for brokers among
themselves.
"""

from collections.abc import Iterable

from kafka.protocol.producer import AddPartitionsToTxnRequest, AddPartitionsToTxnResponse

from consensus.errors import ConsensusError
from raftbroker.broker.errors import BrokerError
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode, code_of
from raftbroker.kafka.handlers.txn_forms import failure, refusal

TopicResult = AddPartitionsToTxnResponse.AddPartitionsToTxnTopicResult
PartitionResult = TopicResult.AddPartitionsToTxnPartitionResult


async def handle(context: KafkaContext, request: Request[AddPartitionsToTxnRequest]) -> AddPartitionsToTxnResponse:
    asked = [(one.name, list(one.partitions)) for one in request.body.v3_and_below_topics]
    ids, unknown = await _ids(context, asked)
    if unknown:
        codes = dict.fromkeys(ids, ErrorCode.OPERATION_NOT_ATTEMPTED) | unknown
    else:
        code = await _add(context, request, ids.values())
        codes = dict.fromkeys(ids, code)
    results = [
        TopicResult(
            name=name,
            results_by_partition=[
                PartitionResult(partition_index=number, partition_error_code=codes[name, number]) for number in numbers
            ],
        )
        for name, numbers in asked
    ]
    return AddPartitionsToTxnResponse(throttle_time_ms=0, results_by_topic_v3_and_below=results)


async def _ids(
    context: KafkaContext, asked: list[tuple[str, list[int]]]
) -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], ErrorCode]]:
    """(partition ids, and the codes of those there are none of) by topic and number."""
    ids: dict[tuple[str, int], int] = {}
    unknown: dict[tuple[str, int], ErrorCode] = {}
    for name, numbers in asked:
        try:
            places = (await context.broker.find_topic(name, timeout=context.options.request_timeout)).partitions
        except (BrokerError, ConsensusError) as error:
            unavailable = ErrorCode.COORDINATOR_NOT_AVAILABLE
            unknown |= {(name, number): code_of(error, unavailable=unavailable) for number in numbers}
            continue
        for number in numbers:
            if 0 <= number < len(places):
                ids[name, number] = places[number].id
            else:
                unknown[name, number] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ids, unknown


async def _add(
    context: KafkaContext, request: Request[AddPartitionsToTxnRequest], partitions: Iterable[int]
) -> ErrorCode:
    body = request.body
    try:
        error = await context.broker.transactions.add_partitions(
            body.v3_and_below_transactional_id,
            body.v3_and_below_producer_id,
            body.v3_and_below_producer_epoch,
            list(partitions),
            timeout=context.options.request_timeout,
        )
    except (BrokerError, ConsensusError) as failed:
        return failure(failed)
    return refusal(error, request.version)


API = Api(
    key=24,
    name="AddPartitionsToTxn",
    min_version=0,
    max_version=3,
    codec=messages(AddPartitionsToTxnRequest, AddPartitionsToTxnResponse),
    handle=handle,
)

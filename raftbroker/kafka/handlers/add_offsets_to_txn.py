"""AddOffsetsToTxn (25): a consumer group's offsets become part of the producer's transaction."""

from kafka.protocol.producer import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse

from consensus.errors import ConsensusError
from raftbroker.broker.errors import BrokerError
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.txn_forms import failure, refusal


async def handle(context: KafkaContext, request: Request[AddOffsetsToTxnRequest]) -> AddOffsetsToTxnResponse:
    return AddOffsetsToTxnResponse(throttle_time_ms=0, error_code=await _add(context, request))


async def _add(context: KafkaContext, request: Request[AddOffsetsToTxnRequest]) -> ErrorCode:
    body = request.body
    if not body.group_id:
        return ErrorCode.INVALID_GROUP_ID
    try:
        error = await context.broker.transactions.add_group(
            body.transactional_id,
            body.producer_id,
            body.producer_epoch,
            body.group_id,
            timeout=context.options.request_timeout,
        )
    except (BrokerError, ConsensusError) as failed:
        return failure(failed)
    return refusal(error, request.version)


API = Api(
    key=25,
    name="AddOffsetsToTxn",
    min_version=0,
    max_version=3,
    codec=messages(AddOffsetsToTxnRequest, AddOffsetsToTxnResponse),
    handle=handle,
)

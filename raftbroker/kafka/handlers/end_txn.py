"""EndTxn (26): the producer's transaction is committed or aborted; answered once that is certain."""

from kafka.protocol.producer import EndTxnRequest, EndTxnResponse

from consensus.errors import ConsensusError
from raftbroker.broker.errors import BrokerError
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.txn_forms import failure, refusal


async def handle(context: KafkaContext, request: Request[EndTxnRequest]) -> EndTxnResponse:
    return EndTxnResponse(throttle_time_ms=0, error_code=await _end(context, request))


async def _end(context: KafkaContext, request: Request[EndTxnRequest]) -> ErrorCode:
    body = request.body
    try:
        error = await context.broker.transactions.end(
            body.transactional_id,
            body.producer_id,
            body.producer_epoch,
            body.committed,
            timeout=context.options.request_timeout,
        )
    except (BrokerError, ConsensusError) as failed:
        return failure(failed)
    return refusal(error, request.version)


API = Api(
    key=26,
    name="EndTxn",
    min_version=0,
    max_version=3,
    codec=messages(EndTxnRequest, EndTxnResponse),
    handle=handle,
)

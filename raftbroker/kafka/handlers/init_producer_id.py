"""InitProducerId (22): an id and epoch under which a producer's batches are told apart.

Without a transactional id every request gets a new producer id, as Kafka does it, also one that names the id it has
had: an idempotent producer raises its epoch by itself (KIP-360), and asks here only when epochs have run out.
"""

from kafka.protocol.producer import InitProducerIdRequest, InitProducerIdResponse

from consensus.errors import ConsensusError
from raftbroker.broker.errors import BrokerError, InvalidRequest
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode, code_of
from raftbroker.kafka.handlers.txn_forms import failure

FENCED_FROM = 4
"""The version from which on a client knows PRODUCER_FENCED."""


async def handle(context: KafkaContext, request: Request[InitProducerIdRequest]) -> InitProducerIdResponse:
    body = request.body
    if body.transactional_id is not None:
        return await _transactional(context, request, body.transactional_id)
    try:
        producer_id = await context.broker.producer_ids.take(context.options.request_timeout)
    except (BrokerError, ConsensusError) as error:
        return _failed(code_of(error, unavailable=ErrorCode.COORDINATOR_NOT_AVAILABLE))
    return InitProducerIdResponse(throttle_time_ms=0, error_code=0, producer_id=producer_id, producer_epoch=0)


async def _transactional(
    context: KafkaContext, request: Request[InitProducerIdRequest], name: str
) -> InitProducerIdResponse:
    body = request.body
    try:
        made = await context.broker.transactions.init_producer(
            name,
            body.transaction_timeout_ms,
            (body.producer_id, body.producer_epoch),
            timeout=context.options.request_timeout,
        )
    except (BrokerError, ConsensusError) as error:
        if isinstance(error, InvalidRequest) and error.field == "transaction_timeout_ms":
            return _failed(ErrorCode.INVALID_TRANSACTION_TIMEOUT)
        return _failed(failure(error))
    if made.error is not None:
        code = ErrorCode[made.error]
        if code is ErrorCode.PRODUCER_FENCED and request.version < FENCED_FROM:
            code = ErrorCode.INVALID_PRODUCER_EPOCH
        return _failed(code)
    return InitProducerIdResponse(
        throttle_time_ms=0, error_code=0, producer_id=made.producer_id, producer_epoch=made.epoch
    )


def _failed(code: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(throttle_time_ms=0, error_code=code, producer_id=-1, producer_epoch=-1)


API = Api(
    key=22,
    name="InitProducerId",
    min_version=0,
    max_version=4,
    codec=messages(InitProducerIdRequest, InitProducerIdResponse),
    handle=handle,
)

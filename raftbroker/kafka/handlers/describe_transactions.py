"""DescribeTransactions (65): where the transactions of transactional ids stand, as their coordinator knows it."""

from kafka.protocol.admin import DescribeTransactionsRequest, DescribeTransactionsResponse

from consensus.errors import ConsensusError
from raftbroker.broker.errors import BrokerError
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.txn_forms import failure

State = DescribeTransactionsResponse.TransactionState
Topic = State.TopicData


async def handle(context: KafkaContext, request: Request[DescribeTransactionsRequest]) -> DescribeTransactionsResponse:
    states = [await _state(context, name) for name in request.body.transactional_ids]
    return DescribeTransactionsResponse(throttle_time_ms=0, transaction_states=states)


async def _state(context: KafkaContext, name: str) -> State:
    transactions = context.broker.transactions
    try:
        found = await transactions.describe(name, timeout=context.options.request_timeout)
    except (BrokerError, ConsensusError) as error:
        return _failed(name, failure(error))
    if found.error is not None:
        return _failed(name, ErrorCode[found.error])
    return State(
        error_code=0,
        transactional_id=name,
        transaction_state=found.state.title,
        transaction_timeout_ms=found.timeout_ms,
        transaction_start_time_ms=transactions.began_ms(found),
        producer_id=found.producer_id,
        producer_epoch=found.epoch,
        topics=[
            Topic(topic=topic, partitions=numbers) for topic, numbers in transactions.places(found.partitions).items()
        ],
    )


def _failed(name: str, code: ErrorCode) -> State:
    return State(
        error_code=code,
        transactional_id=name,
        transaction_state="",
        transaction_timeout_ms=0,
        transaction_start_time_ms=-1,
        producer_id=-1,
        producer_epoch=-1,
        topics=[],
    )


API = Api(
    key=65,
    name="DescribeTransactions",
    min_version=0,
    max_version=0,
    codec=messages(DescribeTransactionsRequest, DescribeTransactionsResponse),
    handle=handle,
)

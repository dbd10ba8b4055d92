"""ListTransactions (66): the transactional ids that this node coordinates. A tool asks every node."""

from kafka.protocol.admin import ListTransactionsRequest, ListTransactionsResponse

from consensus.errors import ConsensusError
from raftbroker.broker.errors import BrokerError
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.handlers.txn_forms import failure
from raftbroker.state.transactions.ops import TxnState

State = ListTransactionsResponse.TransactionState

STATES = {state.title: state for state in TxnState}


async def handle(context: KafkaContext, request: Request[ListTransactionsRequest]) -> ListTransactionsResponse:
    body = request.body
    unknown = [name for name in body.state_filters if name not in STATES]
    states = [STATES[name] for name in body.state_filters if name in STATES]
    age_ms = body.duration_filter if request.version >= 1 else -1
    answer = ListTransactionsResponse(
        throttle_time_ms=0, error_code=0, unknown_state_filters=unknown, transaction_states=[]
    )
    if unknown and not states:
        return answer
    try:
        found = await context.broker.transactions.list_here(
            states, body.producer_id_filters, age_ms, timeout=context.options.request_timeout
        )
    except (BrokerError, ConsensusError) as error:
        answer.error_code = failure(error)
        return answer
    answer.transaction_states = [
        State(transactional_id=one.name, producer_id=one.producer_id, transaction_state=one.state.title)
        for one in found
    ]
    return answer


API = Api(
    key=66,
    name="ListTransactions",
    min_version=0,
    max_version=1,
    codec=messages(ListTransactionsRequest, ListTransactionsResponse),
    handle=handle,
)

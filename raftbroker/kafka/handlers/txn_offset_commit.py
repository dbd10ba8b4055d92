"""TxnOffsetCommit (28): a consumer group's offsets, as part of a producer's transaction, to the group's coordinator.

The coordinator of the transaction is asked first, so that offsets can only become part of a transaction that is open
and that the group has been added to (KIP-890).
"""

from kafka.protocol.producer import TxnOffsetCommitRequest, TxnOffsetCommitResponse

from consensus.errors import ConsensusError
from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.transaction_ends import offsets_epoch
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.txn_forms import failure

Topic = TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic
Partition = Topic.TxnOffsetCommitResponsePartition

MEMBERS_FROM = 3
"""The version from which on a consumer says who it is."""


async def handle(context: KafkaContext, request: Request[TxnOffsetCommitRequest]) -> TxnOffsetCommitResponse:
    offsets = [
        OffsetToCommit(
            topic.name,
            one.partition_index,
            one.committed_offset,
            one.committed_leader_epoch if request.version >= 2 else -1,
            one.committed_metadata or "",
        )
        for topic in request.body.topics
        for one in topic.partitions
    ]
    try:
        codes = await _commit(context, request, offsets)
    except (BrokerError, ConsensusError) as error:
        codes = [failure(error)] * len(offsets)
    following = iter(codes)
    topics = [
        Topic(
            name=topic.name,
            partitions=[
                Partition(partition_index=one.partition_index, error_code=next(following)) for one in topic.partitions
            ],
        )
        for topic in request.body.topics
    ]
    return TxnOffsetCommitResponse(throttle_time_ms=0, topics=topics)


async def _commit(
    context: KafkaContext, request: Request[TxnOffsetCommitRequest], offsets: list[OffsetToCommit]
) -> list[ErrorCode]:
    """One code for each offset. Raises what kept it from being decided."""
    body, broker, timeout = request.body, context.broker, context.options.request_timeout
    if not body.group_id:
        return [ErrorCode.INVALID_GROUP_ID] * len(offsets)
    if not broker.consumer_groups.leads(body.group_id):
        return [ErrorCode.NOT_COORDINATOR] * len(offsets)
    number = await broker.transactions.verify_group(
        body.transactional_id, body.producer_id, body.producer_epoch, body.group_id, timeout=timeout
    )
    says_who = request.version >= MEMBERS_FROM
    done = await broker.consumer_groups.txn_commit(
        body.group_id,
        offsets,
        producer_id=body.producer_id,
        producer_epoch=offsets_epoch(number),
        member_id=body.member_id if says_who else "",
        instance_id=body.group_instance_id if says_who else None,
        generation=body.generation_id if says_who else -1,
        timeout=timeout,
        here_only=True,
    )
    if done.error is not None:
        return [ErrorCode[done.error]] * len(offsets)
    return [ErrorCode.NONE if error is None else ErrorCode[error] for error in done.errors or [None] * len(offsets)]


API = Api(
    key=28,
    name="TxnOffsetCommit",
    min_version=0,
    max_version=3,
    codec=messages(TxnOffsetCommitRequest, TxnOffsetCommitResponse),
    handle=handle,
)

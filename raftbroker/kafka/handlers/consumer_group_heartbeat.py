"""ConsumerGroupHeartbeat (68): everything a KIP-848 member says and hears."""

from raftbroker.broker.wire_groups import ConsumerHeartbeatAnswer
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.definitions.consumer_groups import ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse
from raftbroker.kafka.errors import ErrorCode, message_of
from raftbroker.kafka.handlers.group_forms import FAILURES, code, failure, host_of
from raftbroker.kafka.ids import topic_id_of, uuid_of

Assignment = ConsumerGroupHeartbeatResponse.Assignment
TopicPartitions = Assignment.TopicPartitions

OWN_ID_FROM = REGEX_FROM = 1
"""The version from which on a member draws its own id (KIP-1082), and may subscribe by a pattern."""


async def handle(
    context: KafkaContext, request: Request[ConsumerGroupHeartbeatRequest]
) -> ConsumerGroupHeartbeatResponse:
    body = request.body
    owned = None
    if body.topic_partitions is not None:
        owned = {
            topic_id_of(topic.topic_id): tuple(sorted(set(topic.partitions)))
            for topic in body.topic_partitions
            if topic.partitions
        }
    try:
        answer = await context.broker.consumer_groups.consumer_heartbeat(
            body.group_id,
            member_id=body.member_id,
            draws_id=request.version < OWN_ID_FROM,
            epoch=body.member_epoch,
            instance_id=body.instance_id,
            rack_id=body.rack_id,
            client_id=request.client_id or "",
            client_host=host_of(request.connection.peer),
            rebalance_ms=body.rebalance_timeout_ms,
            names=body.subscribed_topic_names,
            regex=body.subscribed_topic_regex if request.version >= REGEX_FROM else None,
            assignor=body.server_assignor,
            owned=owned,
            here_only=True,
        )
    except FAILURES as error:
        refused = failure(context, body.group_id, error)
        return _response(ConsumerHeartbeatAnswer(member_id=body.member_id), refused, message_of(error))
    return _response(answer, code(answer.error), answer.message or None)


def _response(answer: ConsumerHeartbeatAnswer, error: ErrorCode, message: str | None) -> ConsumerGroupHeartbeatResponse:
    assignment = None
    if answer.assignment is not None:
        assignment = Assignment(
            topic_partitions=[
                TopicPartitions(topic_id=uuid_of(topic_id), partitions=list(numbers))
                for topic_id, numbers in answer.assignment.items()
            ]
        )
    return ConsumerGroupHeartbeatResponse(
        throttle_time_ms=0,
        error_code=error,
        error_message=message,
        member_id=answer.member_id or None,
        member_epoch=answer.epoch,
        heartbeat_interval_ms=answer.heartbeat_ms,
        assignment=assignment,
    )


API = Api(
    key=68,
    name="ConsumerGroupHeartbeat",
    min_version=0,
    max_version=1,
    codec=messages(ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse),
    handle=handle,
)

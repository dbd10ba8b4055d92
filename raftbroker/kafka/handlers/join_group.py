"""JoinGroup (11): a member of a classic group joins a rebalance, and is answered once it is complete."""

from kafka.protocol.consumer.group import JoinGroupRequest, JoinGroupResponse

from raftbroker.broker.wire_groups import JoinAnswer
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, code, failure, host_of

Member = JoinGroupResponse.JoinGroupResponseMember

REBALANCE_FROM, ID_REQUIRED_FROM, STATIC_FROM, NULLABLE_FROM, SKIPS_FROM = 1, 4, 5, 7, 9


async def handle(context: KafkaContext, request: Request[JoinGroupRequest]) -> JoinGroupResponse:
    body, version = request.body, request.version
    try:
        answer = await context.broker.consumer_groups.join(
            body.group_id,
            member_id=body.member_id,
            instance_id=body.group_instance_id if version >= STATIC_FROM else None,
            client_id=request.client_id or "",
            client_host=host_of(request.connection.peer),
            session_ms=body.session_timeout_ms,
            rebalance_ms=body.rebalance_timeout_ms if version >= REBALANCE_FROM else -1,
            protocol_type=body.protocol_type,
            protocols=[(offer.name, bytes(offer.metadata)) for offer in body.protocols],
            id_required=version >= ID_REQUIRED_FROM,
            skips_assignment=version >= SKIPS_FROM,
            here_only=True,
        )
    except FAILURES as error:
        return _response(version, JoinAnswer(member_id=body.member_id), failure(context, body.group_id, error))
    return _response(version, answer, code(answer.error))


def _response(version: int, answer: JoinAnswer, error: ErrorCode) -> JoinGroupResponse:
    failed = error is not ErrorCode.NONE
    return JoinGroupResponse(
        throttle_time_ms=0,
        error_code=error,
        generation_id=answer.generation,
        protocol_type=None if failed else answer.protocol_type,
        protocol_name=None if failed and version >= NULLABLE_FROM else answer.protocol,
        leader=answer.leader,
        skip_assignment=answer.skip_assignment,
        member_id=answer.member_id,
        members=[
            Member(member_id=member.member_id, group_instance_id=member.instance_id, metadata=member.metadata)
            for member in answer.members
        ],
    )


API = Api(
    key=11,
    name="JoinGroup",
    min_version=0,
    max_version=9,
    codec=messages(JoinGroupRequest, JoinGroupResponse),
    handle=handle,
    abandon=True,
)

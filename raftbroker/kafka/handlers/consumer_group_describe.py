"""ConsumerGroupDescribe (69): KIP-848 groups with their members, what they have and what they should have."""

from collections.abc import Mapping

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.definitions.consumer_groups import ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse
from raftbroker.kafka.errors import ErrorCode, message_of
from raftbroker.kafka.handlers.group_forms import FAILURES, each, failure
from raftbroker.kafka.ids import uuid_of
from raftbroker.kafka.operations import GROUP_OPERATIONS, mask
from raftbroker.state.groups.rows import Assignment as Assigned
from raftbroker.state.groups.terms import GroupType
from raftbroker.state.groups.views import GroupView, MemberView

Group = ConsumerGroupDescribeResponse.DescribedGroup
Member = Group.Member
Assignment = Member.Assignment
TopicPartitions = Assignment.TopicPartitions

CONSUMER_MEMBER = 1
"""A member that speaks KIP-848 (and not the classic protocol)."""
NO_OPERATIONS = -(1 << 31)


async def handle(
    context: KafkaContext, request: Request[ConsumerGroupDescribeRequest]
) -> ConsumerGroupDescribeResponse:
    body = request.body
    names = (await context.broker.metadata(timeout=context.options.request_timeout)).names
    groups = await each(body.group_ids, lambda name: _describe(context, name, names))
    for group in groups:
        group.authorized_operations = mask(GROUP_OPERATIONS) if body.include_authorized_operations else NO_OPERATIONS
    return ConsumerGroupDescribeResponse(throttle_time_ms=0, groups=groups)


async def _describe(context: KafkaContext, name: str, names: Mapping[str, str]) -> Group:
    try:
        view = await context.broker.consumer_groups.describe(
            name, timeout=context.options.request_timeout, here_only=True
        )
    except FAILURES as error:
        return _none(name, failure(context, name, error), message_of(error))
    if view is None:
        return _none(name, ErrorCode.GROUP_ID_NOT_FOUND, f"Group {name} not found.")
    if view.type is not GroupType.CONSUMER:
        return _none(name, ErrorCode.GROUP_ID_NOT_FOUND, f"Group {name} is not a consumer group.")
    return _group(view, names)


def _group(view: GroupView, names: Mapping[str, str]) -> Group:
    return Group(
        error_code=ErrorCode.NONE,
        error_message=None,
        group_id=view.name,
        group_state=view.state.value,
        group_epoch=view.generation,
        assignment_epoch=view.target_epoch,
        assignor_name=view.protocol,
        members=[_member(member, names) for member in view.members],
    )


def _member(member: MemberView, names: Mapping[str, str]) -> Member:
    return Member(
        member_id=member.member_id,
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        member_epoch=member.epoch,
        client_id=member.client_id,
        client_host=member.client_host,
        subscribed_topic_names=list(member.names),
        subscribed_topic_regex=member.regex or None,
        assignment=_assignment(member.assigned, names),
        target_assignment=_assignment(member.target, names),
        member_type=CONSUMER_MEMBER,
    )


def _assignment(assigned: Assigned, names: Mapping[str, str]) -> Assignment:
    """Without topics that have been deleted since."""
    return Assignment(
        topic_partitions=[
            TopicPartitions(topic_id=uuid_of(topic_id), topic_name=names[topic_id], partitions=list(numbers))
            for topic_id, numbers in assigned.items()
            if topic_id in names
        ]
    )


def _none(name: str, error: ErrorCode, message: str) -> Group:
    return Group(
        error_code=error,
        error_message=message,
        group_id=name,
        group_state="",
        group_epoch=0,
        assignment_epoch=0,
        assignor_name="",
        members=[],
    )


API = Api(
    key=69,
    name="ConsumerGroupDescribe",
    min_version=0,
    max_version=1,
    codec=messages(ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse),
    handle=handle,
)

"""DescribeGroups (15): classic groups with their members. Those of KIP-848 have an API of their own (69)."""

from kafka.protocol.admin.groups import DescribeGroupsRequest, DescribeGroupsResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, each, failure
from raftbroker.kafka.operations import GROUP_OPERATIONS
from raftbroker.state.groups.terms import GroupState, GroupType
from raftbroker.state.groups.views import GroupView, MemberView

Group = DescribeGroupsResponse.DescribedGroup
Member = Group.DescribedGroupMember

NOT_FOUND_FROM = 6
"""Before it, a group that is not there is called dead."""


async def handle(context: KafkaContext, request: Request[DescribeGroupsRequest]) -> DescribeGroupsResponse:
    body = request.body
    groups = await each(body.groups, lambda name: _describe(context, request.version, name))
    if body.include_authorized_operations:
        for group in groups:
            group.authorized_operations = GROUP_OPERATIONS
    return DescribeGroupsResponse(throttle_time_ms=0, groups=groups)


async def _describe(context: KafkaContext, version: int, name: str) -> Group:
    try:
        view = await context.broker.consumer_groups.describe(
            name, timeout=context.options.request_timeout, here_only=True
        )
    except FAILURES as error:
        return _none(name, failure(context, name, error), str(error), "")
    if view is not None and view.type is GroupType.CLASSIC:
        return _group(view)
    message = f"Group {name} not found." if view is None else f"Group {name} is not a classic group."
    found = ErrorCode.GROUP_ID_NOT_FOUND if version >= NOT_FOUND_FROM else ErrorCode.NONE
    return _none(name, found, message, GroupState.DEAD)


def _group(view: GroupView) -> Group:
    stable = view.state is GroupState.STABLE
    return Group(
        error_code=ErrorCode.NONE,
        error_message=None,
        group_id=view.name,
        group_state=view.state.value,
        protocol_type=view.protocol_type,
        protocol_data=view.protocol if stable else "",
        members=[_member(member, stable) for member in view.members],
    )


def _member(member: MemberView, stable: bool) -> Member:
    return Member(
        member_id=member.member_id,
        group_instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        member_metadata=member.metadata if stable else b"",
        member_assignment=member.assignment if stable else b"",
    )


def _none(name: str, error: ErrorCode, message: str, state: str) -> Group:
    return Group(
        error_code=error,
        error_message=message if error is not ErrorCode.NONE else None,
        group_id=name,
        group_state=str(state),
        protocol_type="",
        protocol_data="",
        members=[],
    )


API = Api(
    key=15,
    name="DescribeGroups",
    min_version=0,
    max_version=6,
    codec=messages(DescribeGroupsRequest, DescribeGroupsResponse),
    handle=handle,
)

"""`/v1/groups`: what the public interfaces have no route for: deleting a consumer group, and putting it elsewhere."""

import msgspec
from aiohttp import web

from raftbroker.broker.group_access import refused
from raftbroker.broker.group_positions import ResetTo
from raftbroker.http.call import Call
from raftbroker.http.problems import BAD_REQUEST, ILLEGAL_STATE, NO_GROUP, NO_PARTITION, NO_TOPIC, Problem
from raftbroker.http.route import Answer, Route, json_body
from raftbroker.state.groups.ops import PartitionName


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topic_name: str
    partition_id: int


class ResetOffsets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`value` goes with `to`: an offset, by how many offsets to shift, or epoch ms. Of these topics and partitions; of
    all that the group has committed offsets of, where neither is given."""

    to: ResetTo
    value: int | None = None
    topics: list[str] | None = None
    partitions: list[Place] | None = None
    dry_run: bool = False


class MovedOffset(msgspec.Struct, frozen=True):
    topic_name: str
    partition_id: int
    before: int | None
    """Null where nothing was committed."""
    after: int


class MovedOffsets(msgspec.Struct, frozen=True):
    group: str
    offsets: list[MovedOffset]


_decode = msgspec.json.Decoder(ResetOffsets)
_WITH_VALUE = (ResetTo.OFFSET, ResetTo.SHIFT, ResetTo.TIMESTAMP)


async def reset_offsets(call: Call) -> web.StreamResponse:
    group = call.path("consumer_group_id")
    asked = await call.json(_decode)
    if (asked.value is None) == (asked.to in _WITH_VALUE):
        wanted = "needs a value" if asked.value is None else "takes no value"
        raise Problem(BAD_REQUEST, f"to: {asked.to.value} {wanted}.")
    moved = await call.broker.group_positions.reset(
        group,
        asked.to,
        asked.value or 0,
        topics=asked.topics,
        partitions=None if asked.partitions is None else [PartitionName(*_pair(place)) for place in asked.partitions],
        dry_run=asked.dry_run,
        timeout=call.options.request_timeout,
    )
    offsets = [MovedOffset(item.topic, item.partition, item.before, item.after) for item in moved]
    return call.reply(MovedOffsets(group, offsets))


def _pair(place: Place) -> tuple[str, int]:
    return place.topic_name, place.partition_id


async def delete_group(call: Call) -> web.StreamResponse:
    group = call.path("consumer_group_id")
    error = await call.broker.consumer_groups.delete(group, timeout=call.options.request_timeout)
    if error is not None:
        raise refused(error, group)
    return call.nothing()


ROUTES = (
    Route(
        "POST",
        "/v1/groups/{consumer_group_id}/reset-offsets",
        reset_offsets,
        "resetOffsets",
        "Puts a group without members somewhere else: the beginning, the end, an offset, a time.",
        "v1 groups",
        Answer(MovedOffsets, MovedOffsets("billing", [MovedOffset("orders", 0, 40, 0)])),
        json_body(ResetOffsets(ResetTo.EARLIEST, topics=["orders"])),
        problems=(BAD_REQUEST, ILLEGAL_STATE, NO_TOPIC, NO_PARTITION),
    ),
    Route(
        "DELETE",
        "/v1/groups/{consumer_group_id}",
        delete_group,
        "deleteGroup",
        "Deletes a group without members, with its offsets.",
        "v1 groups",
        Answer(status=204),
        problems=(NO_GROUP, ILLEGAL_STATE),
    ),
)

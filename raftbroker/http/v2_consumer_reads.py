"""What an instance of the v2 consumer API reads, where it stands, and what it has done: records, positions, offsets.

A record that cannot be shown in the instance's format ends the list before it; when it is the first, the request is
refused and the message says how to pass it, so that nothing is passed over in silence.
"""

from datetime import datetime
from typing import TypeVar

import msgspec
from aiohttp import web

from raftbroker.broker.consumer_groups import refused
from raftbroker.broker.consumer_reader import Taken
from raftbroker.broker.wire_consumers import Commit, Look, Poll, Seek, SeekTo
from raftbroker.http.call import Call
from raftbroker.http.media import EMBEDDED_TYPES, FORMATS, Format, base_type
from raftbroker.http.problems import (
    BAD_PAYLOAD,
    BAD_REQUEST,
    BAD_SERIALIZATION,
    ILLEGAL_STATE,
    NO_INSTANCE,
    NO_PARTITION,
    NO_TOPIC,
    NOT_ACCEPTABLE,
    OUT_OF_RANGE,
    UNKNOWN_OUTCOME,
    Problem,
)
from raftbroker.http.produce import TIMESTAMP_MAX
from raftbroker.http.read import OFFSET_MAX
from raftbroker.http.route import Answer, Parameter, Route, Work
from raftbroker.http.show import NotShowable, Show
from raftbroker.http.v2_consumer_forms import (
    CommittedList,
    CommittedOf,
    OffsetOf,
    OffsetsBody,
    PartitionList,
    PositionsBody,
    TimestampOf,
)
from raftbroker.http.v2_consumers import INSTANCE, NOTHING, PARTITIONS, TAG, V2_TYPES, ask, body_of, v2_body
from raftbroker.http.v2_forms import ReadRecord
from raftbroker.state.groups.ops import PartitionName

T = TypeVar("T")

_offsets = msgspec.json.Decoder(OffsetsBody)
_partitions = msgspec.json.Decoder(PartitionList)
_positions = msgspec.json.Decoder(PositionsBody)


# --- records ----------------------------------------------------------------------------------------------


async def read(call: Call) -> web.StreamResponse:
    options = call.options
    timeout_ms = call.query_number("timeout", None, least=-1, most=options.poll_ms_max)
    bytes_max = call.query_number("max_bytes", options.response_bytes_default, least=-1, most=2**31 - 1)
    assert bytes_max is not None
    wait = None if timeout_ms is None or timeout_ms < 0 else timeout_ms / 1000
    most = options.response_bytes_default if bytes_max < 1 else min(bytes_max, options.response_bytes_max)
    patience = options.poll_ms_max / 1000 if wait is None else wait
    found = await call.unless_stopping(ask(call, Poll(most, wait, _wanted(call)), patience))
    if found is None:
        return call.raw(b"[]", Format.BINARY.media_type)
    format_ = Format(found.format)
    parts, held_back = _shown(found.taken, format_)
    if held_back:
        await ask(call, Seek(tuple(held_back)))
        if not parts:
            topic, partition, offset = held_back[0]
            raise Problem(
                BAD_SERIALIZATION,
                f"The record at offset {offset} of partition {partition} of topic {topic!r} is not {format_.value}:"
                f" seek to offset {offset + 1} to pass it, or make the consumer with format {Format.BINARY.value}.",
            )
    call.front.metrics.records_out += len(parts)
    return call.raw(b"[" + b",".join(parts) + b"]", format_.media_type)


def _wanted(call: Call) -> str:
    """The format that Accept insists on; empty where it leaves that to the instance. Raises Problem."""
    accept = call.request.headers.get("Accept", "")
    names = [base_type(item) for item in accept.split(",")]
    formats = [FORMATS[name].value for name in names if name in FORMATS]
    if len(formats) == 1 and len(names) == 1:
        return formats[0]
    if formats or not accept or any(name in ("*/*", "application/*", "application/json", *V2_TYPES) for name in names):
        return ""
    raise Problem(NOT_ACCEPTABLE, f"Nothing in Accept {accept[:200]!r} can be served; ask for one of {EMBEDDED_TYPES}.")


def _shown(taken: tuple[Taken, ...], format_: Format) -> tuple[list[bytes], list[tuple[str, int, int]]]:
    """Records as JSON; and where to read again what cannot be shown and all behind it."""
    parts: list[bytes] = []
    held_back: list[tuple[str, int, int]] = []
    for one in taken:
        if held_back:
            held_back.append((one.topic, one.partition, one.offset))
            continue
        show = Show(one.topic, one.partition, format_)
        for record in one.records:
            try:
                parts.append(show.record(record))
            except NotShowable:
                held_back.append((one.topic, one.partition, record.offset))
                break
    return parts, held_back


# --- offsets ----------------------------------------------------------------------------------------------


async def _optional_body(call: Call, decoder: "msgspec.json.Decoder[T]") -> "T | None":
    if not call.request.body_exists or call.request.content_length == 0:
        return None
    return await body_of(call, decoder)


async def commit(call: Call) -> web.StreamResponse:
    asked = await _optional_body(call, _offsets)
    offsets = None
    if asked is not None:
        for position, one in enumerate(asked.offsets):
            if not 0 <= one.offset < OFFSET_MAX:
                raise Problem(BAD_PAYLOAD, f"offsets[{position}].offset is {one.offset}; an offset is 0 or more.")
        offsets = tuple((one.topic, one.partition, one.offset + 1, one.metadata or "") for one in asked.offsets)
    await ask(call, Commit(offsets))
    return call.nothing()


async def get_committed(call: Call) -> web.StreamResponse:
    asked = await _optional_body(call, _partitions)
    shown = await ask(call, Look())
    names = shown.partitions if asked is None else tuple((one.topic, one.partition) for one in asked.partitions)
    group = call.path("consumer_group_id")
    answer = await call.broker.consumer_groups.offsets(
        group, [PartitionName(*name) for name in names], timeout=call.options.request_timeout
    )
    if answer.error is not None:
        raise refused(answer.error, group)
    found = [
        CommittedOf(item.topic, item.partition, item.offset, item.metadata)
        for item in answer.offsets
        if item.offset >= 0
    ]
    return call.reply_v2(CommittedList(found))


# --- positions --------------------------------------------------------------------------------------------


async def seek(call: Call) -> web.StreamResponse:
    asked = await body_of(call, _positions)
    if not asked.offsets and not asked.timestamps:
        raise Problem(BAD_PAYLOAD, "The body has neither offsets nor timestamps; give where to read next.")
    for position, one in enumerate(asked.offsets or ()):
        if not 0 <= one.offset <= OFFSET_MAX:
            raise Problem(BAD_PAYLOAD, f"offsets[{position}].offset is {one.offset}; an offset is 0 or more.")
    times = tuple(
        (one.topic, one.partition, _milliseconds(position, one)) for position, one in enumerate(asked.timestamps or ())
    )
    if asked.offsets:
        await ask(call, Seek(tuple((one.topic, one.partition, one.offset) for one in asked.offsets)))
    if times:
        await ask(call, Seek(times, times=True))
    return call.nothing()


def _milliseconds(position: int, one: TimestampOf) -> int:
    found = one.timestamp if isinstance(one.timestamp, int) else _parsed(one.timestamp)
    if found is None or not 0 <= found <= TIMESTAMP_MAX:
        raise Problem(
            BAD_PAYLOAD,
            f"timestamps[{position}].timestamp is {str(one.timestamp)[:40]!r}; give milliseconds since 1970, or an ISO"
            " 8601 time with its zone, for instance 2025-06-01T12:00:00Z.",
        )
    return found


def _parsed(text: str) -> int | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round(when.timestamp() * 1000) if when.tzinfo is not None else None


async def seek_beginning(call: Call) -> web.StreamResponse:
    return await _seek_to(call, end=False)


async def seek_end(call: Call) -> web.StreamResponse:
    return await _seek_to(call, end=True)


async def _seek_to(call: Call, *, end: bool) -> web.StreamResponse:
    asked = await body_of(call, _partitions)
    await ask(call, SeekTo(tuple((one.topic, one.partition) for one in asked.partitions), end))
    return call.nothing()


# --- routes -----------------------------------------------------------------------------------------------

_RECORD = ReadRecord(
    "orders", 0, 41, 1_700_000_000_000, msgspec.Raw(b'"customer-7"'), msgspec.Raw(b'{"item":"tea"}'), []
)
_POSITION_PROBLEMS = (NO_TOPIC, NO_PARTITION, NO_INSTANCE, ILLEGAL_STATE, UNKNOWN_OUTCOME)

ROUTES = (
    Route(
        "GET",
        f"{INSTANCE}/records",
        read,
        "consumeRecords",
        "The next records, waiting for the first one if there is none yet; what came before counts as done.",
        TAG,
        Answer(list[ReadRecord], [_RECORD], media=EMBEDDED_TYPES, summary="The records, perhaps none."),
        parameters=(
            Parameter("timeout", int, "How long to wait, in milliseconds; consumer.request.timeout.ms unless given."),
            Parameter("max_bytes", int, "About how large the answer may become; one record is always given."),
        ),
        problems=(
            *(NO_INSTANCE, ILLEGAL_STATE, NOT_ACCEPTABLE, OUT_OF_RANGE, BAD_PAYLOAD, BAD_SERIALIZATION),
            *(UNKNOWN_OUTCOME, BAD_REQUEST, NO_TOPIC, NO_PARTITION),
        ),
        work=Work.POLL,
    ),
    Route(
        "POST",
        f"{INSTANCE}/offsets",
        commit,
        "commitOffsets",
        "Commits up to the records that are named, those with them; without a body, all that the instance was given.",
        TAG,
        NOTHING,
        v2_body(OffsetsBody([OffsetOf("orders", 0, 41)]), required=False),
        problems=_POSITION_PROBLEMS,
    ),
    Route(
        "GET",
        f"{INSTANCE}/offsets",
        get_committed,
        "getCommittedOffsets",
        "What the group has committed, of the partitions that are named, or of those the instance has.",
        TAG,
        Answer(CommittedList, CommittedList([CommittedOf("orders", 0, 42)]), media=V2_TYPES),
        v2_body(PARTITIONS, required=False),
        problems=(NO_INSTANCE,),
    ),
    Route(
        "POST",
        f"{INSTANCE}/positions",
        seek,
        "seek",
        "The instance reads next from these offsets, or from these times on.",
        TAG,
        NOTHING,
        v2_body(
            PositionsBody([OffsetOf("orders", 0, 17)], [TimestampOf("orders", 1, "2025-06-01T12:00:00Z")]),
        ),
        problems=_POSITION_PROBLEMS,
    ),
    Route(
        "POST",
        f"{INSTANCE}/positions/beginning",
        seek_beginning,
        "seekToBeginning",
        "The instance reads these partitions from their first record on.",
        TAG,
        NOTHING,
        v2_body(PARTITIONS),
        problems=_POSITION_PROBLEMS,
    ),
    Route(
        "POST",
        f"{INSTANCE}/positions/end",
        seek_end,
        "seekToEnd",
        "The instance reads of these partitions only what comes from now on.",
        TAG,
        NOTHING,
        v2_body(PARTITIONS),
        problems=_POSITION_PROBLEMS,
    ),
)

"""`GET /topics/{t}/events`: a topic as Server-Sent Events, for browsers' EventSource and anything that reads lines.

Each record is an event whose id says where the stream stands behind it; whoever comes again with the last id goes on
there, through any node. Named events tell of all that is not a record: `ready`, `position` (much was filtered out),
`assigned` (partitions, with a group), `gap` and `unshowable` (records that are passed over, and why), `error` (the last
one). A stream that has nothing to say sends a comment now and then, so that each side notices when the other is gone.

With a group, what was sent is committed some seconds later, so that what a dying connection swallowed is sent again;
whoever resumes by id gets nothing twice. Who must know that each record was processed uses the WebSocket's
acknowledgements.
"""

import asyncio

import msgspec
from aiohttp import web

from raftbroker.broker.consumer_reader import Taken
from raftbroker.broker.errors import BrokerError, Rejected
from raftbroker.http.call import Call
from raftbroker.http.origins import check_origin
from raftbroker.http.problems import (
    BAD_REQUEST,
    FORBIDDEN,
    ILLEGAL_STATE,
    NO_PARTITION,
    NO_TOPIC,
    ErrorBody,
    problem_of,
)
from raftbroker.http.push import (
    CHUNK_RECORDS,
    LOOK_SECONDS,
    PARAMETERS,
    Asked,
    Source,
    asked_of,
    id_of,
    open_alone,
    open_shared,
)
from raftbroker.http.route import Answer, Parameter, Route, Work
from raftbroker.http.show import NotShowable, Show

EVENT_STREAM = "text/event-stream"
RETRY_MS = 1_000
"""How long a browser waits before it connects again."""
PAUSE_SECONDS = 0.5
"""After the cluster could not answer."""


class Gap(msgspec.Struct, frozen=True):
    """Offsets of a partition that are passed over: from `first` to before `next`."""

    partition: int
    first: int
    next: int
    reason: str


class Unshowable(msgspec.Struct, frozen=True):
    """A record whose key or value is not of the stream's format."""

    partition: int
    offset: int
    reason: str


class Standing(msgspec.Struct, frozen=True):
    """The next offset of each partition."""

    topic: str
    positions: dict[str, int]


def _event(name: str, value: object, identity: bytes = b"") -> bytes:
    head = b"event: " + name.encode() + b"\n" + (b"id: " + identity + b"\n" if identity else b"")
    return head + b"data: " + msgspec.json.encode(value) + b"\n\n"


def _data(shown: bytes) -> bytes:
    """JSON that stands in several lines is sent in several lines."""
    if b"\n" in shown or b"\r" in shown:
        shown = shown.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return shown


class _Stream:
    def __init__(self, call: Call, asked: Asked, source: Source) -> None:
        self._call = call
        self._asked = asked
        self._source = source
        self._left = asked.limit
        self._told: dict[int, int] = {}
        """The positions that the client knows of."""
        self._sent = asyncio.get_running_loop().time()

    async def run(self) -> None:
        await self._send(f"retry: {RETRY_MS}\n".encode() + self._standing("ready"))
        while self._left != 0 and not self._has_left():
            try:
                wanted = CHUNK_RECORDS if self._left is None else min(self._left, CHUNK_RECORDS)
                taken = await self._call.unless_stopping(self._source.next(LOOK_SECONDS, wanted))
            except Rejected as error:
                problem = problem_of(error)
                await self._send(_event("error", ErrorBody(problem.code, problem.message)))
                return
            except BrokerError:
                await asyncio.sleep(PAUSE_SECONDS)  # until the cluster answers again
                taken = []
            if taken is None:
                return
            piece = self._assigned() + self._shown(taken)
            if piece:
                await self._send(piece)
            elif asyncio.get_running_loop().time() - self._sent >= self._call.options.push_heartbeat:
                moved = self._source.positions != self._told
                await self._send(self._standing("position") if moved else b":\n\n")

    def _has_left(self) -> bool:
        transport = self._call.request.transport
        return transport is None or transport.is_closing()

    async def _send(self, piece: bytes) -> None:
        await self._call.send(piece)
        self._sent = asyncio.get_running_loop().time()

    def _standing(self, name: str) -> bytes:
        self._told = self._source.positions
        shown = Standing(self._asked.topic, {str(number): offset for number, offset in sorted(self._told.items())})
        return _event(name, shown, id_of(self._told))

    def _assigned(self) -> bytes:
        if self._source.positions.keys() == self._told.keys():
            return b""
        return self._standing("assigned")

    def _shown(self, taken: list[Taken]) -> bytes:
        at = self._source.positions
        at |= {one.partition: one.offset for one in reversed(taken)}
        parts: list[bytes] = []
        count = 0
        for one in taken:
            if one.reason:
                at[one.partition] = one.next_offset
                parts.append(_event("gap", Gap(one.partition, one.offset, one.next_offset, one.reason), id_of(at)))
                continue
            show = Show(one.topic, one.partition, self._asked.format)
            for record in one.records:
                at[one.partition] = record.offset + 1
                if not self._asked.filter.passes(record):
                    continue
                count += 1
                try:
                    parts.append(b"id: " + id_of(at) + b"\ndata: " + _data(show.record(record)) + b"\n\n")
                except NotShowable as error:
                    reason = f"the {error} is not {self._asked.format.value}"
                    parts.append(_event("unshowable", Unshowable(one.partition, record.offset, reason), id_of(at)))
            at[one.partition] = max(at[one.partition], one.next_offset)
        if parts:
            self._told = at
        if self._left is not None:
            self._left -= min(self._left, count)
        self._call.front.metrics.records_out += count
        return b"".join(parts)


async def events(call: Call) -> web.StreamResponse:
    headers = check_origin(call)
    asked = asked_of(call)
    if asked.group is None:
        source: Source = await open_alone(call, asked)
    else:
        source = await open_shared(call, asked, asked.group, acknowledged=False)
    response = web.StreamResponse(
        headers={
            "Content-Type": EVENT_STREAM,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "X-Request-Id": call.request_id,
            **headers,
        }
    )
    try:
        await call.start(response)
        if call.request.method != "HEAD":
            await _Stream(call, asked, source).run()
        await response.write_eof()
    finally:
        await source.close()
    return response


ROUTES = (
    Route(
        "GET",
        "/topics/{topic_name}/events",
        events,
        "streamEvents",
        "The topic's records as Server-Sent Events, from where Last-Event-ID says, as they come.",
        "push",
        Answer(str, "id: 0:42\ndata: {}\n\n", media=(EVENT_STREAM,), summary="Events, until either side ends it."),
        parameters=(
            *PARAMETERS,
            Parameter("Last-Event-ID", str, "The id of the last event that was received.", header=True),
            Parameter("Origin", str, "Where the page comes from that asks: must be allowed.", header=True),
        ),
        problems=(NO_TOPIC, NO_PARTITION, BAD_REQUEST, FORBIDDEN, ILLEGAL_STATE),
        work=Work.PUSH,
    ),
)

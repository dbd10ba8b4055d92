"""`GET /topics/{t}/ws`: a topic over a WebSocket. Records come down; acknowledgements, credits and produce go up.

Messages are JSON objects with a `type`. Down: `ready`, `records` (some at once), `produced`, `committed`, `assigned`,
`gap`, `unshowable`, and `error`, after which the connection goes on unless it is closed. Up: `ack` (with a group: a
partition's records up to an offset are done; they are committed together, soon), `credit` (so many records more may be
sent; counts from the first one on when the address has `credits`), `produce`.

Without credits the connection itself is the bound: what a client does not read is not sent, and one that reads nothing
for a while is given up. What goes up is carried out in its order, one message after the other.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from raftbroker.broker.consumer_reader import Name, Taken
from raftbroker.broker.errors import BrokerError, Rejected
from raftbroker.http.call import Call, decode
from raftbroker.http.events import PAUSE_SECONDS, Standing
from raftbroker.http.media import Format
from raftbroker.http.origins import check_origin
from raftbroker.http.problems import (
    BAD_REQUEST,
    FORBIDDEN,
    ILLEGAL_STATE,
    NO_PARTITION,
    NO_TOPIC,
    Problem,
    problem_of,
)
from raftbroker.http.produce import Key, carry_out, check_keys, choose_partitions, fingerprint, plan
from raftbroker.http.push import (
    CHUNK_RECORDS,
    LOOK_SECONDS,
    PARAMETERS,
    Asked,
    Shared,
    Source,
    asked_of,
    open_alone,
    open_shared,
)
from raftbroker.http.route import Answer, Parameter, Route, Work
from raftbroker.http.show import NotShowable, Show
from raftbroker.http.v2_produce import READERS, answer_body, check_drafts

MESSAGE_BYTES_MAX = 4 << 20
"""Of a message that goes up."""
PING_SECONDS = 15.0
COMMIT_SECONDS = 0.2
"""Acknowledgements that come within this time are committed together."""
CREDITS_MAX = 2**53


class Ack(msgspec.Struct, frozen=True, tag="ack", forbid_unknown_fields=True):
    """All of the partition's records up to this offset, with it, are done."""

    partition: int
    offset: int


class Credit(msgspec.Struct, frozen=True, tag="credit", forbid_unknown_fields=True):
    records: int


class Produce(msgspec.Struct, frozen=True, tag="produce", forbid_unknown_fields=True):
    """`records` as in POST /topics/{topic}, in the connection's format; `id` comes back with the answer."""

    records: msgspec.Raw
    id: str | int | None = None
    idempotency_key: str | None = None


Up = Ack | Credit | Produce

_up = msgspec.json.Decoder(Up)


def _down(kind: str, body: bytes) -> bytes:
    """The JSON object `body`, with its type in front."""
    return b'{"type":"' + kind.encode() + (b'",' if len(body) > 2 else b'"') + body[1:]


def _told(kind: str, **fields: object) -> bytes:
    return _down(kind, msgspec.json.encode(fields))


class _Connection:
    def __init__(self, call: Call, asked: Asked, source: Source, socket: web.WebSocketResponse) -> None:
        self._call = call
        self._asked = asked
        self._source = source
        self._socket = socket
        self._left = asked.limit
        self._credits = call.query_number("credits", None, least=0, most=CREDITS_MAX)
        self._more = asyncio.Event()
        self._had: set[int] = set()
        self._done: dict[Name, tuple[int, str]] = {}
        self._acked = asyncio.Event()

    async def run(self) -> None:
        """Until either side ends it. What was acknowledged is committed then."""
        positions = self._source.positions
        self._had = set(positions)
        await self._send(_down("ready", msgspec.json.encode(self._standing())))
        parts: list[Callable[[], Coroutine[None, None, None]]] = [self._bring, self._take, self._commit]
        tasks = {asyncio.ensure_future(part()) for part in parts}
        stop = asyncio.ensure_future(self._call.front.stopping.wait())
        try:
            await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            stop.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(stop, *tasks, return_exceptions=True)
            await self._commit_now()
        code = WSCloseCode.GOING_AWAY if self._call.front.stopping.is_set() else WSCloseCode.OK
        await self._socket.close(code=code)

    def _standing(self) -> Standing:
        return Standing(self._asked.topic, {str(n): offset for n, offset in sorted(self._source.positions.items())})

    async def _send(self, message: bytes) -> None:
        """Raises ConnectionError when the client takes nothing for too long."""
        try:
            async with asyncio.timeout(self._call.options.send_timeout):
                await self._socket.send_frame(message, WSMsgType.TEXT)
        except TimeoutError:
            self._call.abort()
            raise ConnectionAbortedError("the client does not read") from None
        self._call.front.metrics.response_bytes += len(message)

    # --- down -------------------------------------------------------------------------------------------------

    async def _bring(self) -> None:
        while True:
            if self._left == 0:
                await asyncio.Event().wait()  # what was sent may still be acknowledged
            wanted = CHUNK_RECORDS if self._left is None else min(self._left, CHUNK_RECORDS)
            if self._credits is not None:
                if self._credits == 0:
                    self._more.clear()
                    await self._more.wait()
                    continue
                wanted = min(wanted, self._credits)
            try:
                taken = await self._source.next(LOOK_SECONDS, wanted)
            except Rejected as error:
                problem = problem_of(error)
                await self._send(_told("error", error_code=problem.code, message=problem.message))
                return
            except BrokerError:
                await asyncio.sleep(PAUSE_SECONDS)  # until the cluster answers again
                continue
            if self._source.positions.keys() != self._had:
                self._had = set(self._source.positions)
                await self._send(_down("assigned", msgspec.json.encode(self._standing())))
            await self._send_taken(taken)

    async def _send_taken(self, taken: list[Taken]) -> None:
        shown: list[bytes] = []
        others: list[bytes] = []
        for one in taken:
            if one.reason:
                gap = {"partition": one.partition, "first": one.offset, "next": one.next_offset, "reason": one.reason}
                others.append(_told("gap", **gap))
            show = Show(one.topic, one.partition, self._asked.format)
            for record in one.records:
                if not self._asked.filter.passes(record):
                    continue
                try:
                    shown.append(show.record(record))
                except NotShowable as error:
                    reason = f"the {error} is not {self._asked.format.value}"
                    others.append(_told("unshowable", partition=one.partition, offset=record.offset, reason=reason))
        count = len(shown)
        if self._credits is not None:
            self._credits -= min(self._credits, count)
        if self._left is not None:
            self._left -= min(self._left, count)
        self._call.front.metrics.records_out += count
        if shown:
            others.append(b'{"type":"records","records":[' + b",".join(shown) + b"]}")
        for message in others:
            await self._send(message)

    # --- up ---------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        while True:
            message = await self._socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                return
            data = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
            self._call.front.metrics.request_bytes += len(data)
            with self._call.front.limits.body_bytes.held(len(data)):
                await self._carry_out(data)

    async def _carry_out(self, data: bytes) -> None:
        identity: str | int | None = None
        try:
            up = decode(_up, data)
            if isinstance(up, Produce):
                identity = up.id
                await self._produce(up)
            elif isinstance(up, Credit):
                self._grant(up)
            else:
                self._acknowledge(up)
        except (Problem, BrokerError) as error:
            problem = error if isinstance(error, Problem) else problem_of(error)
            await self._send(_told("error", id=identity, error_code=problem.code, message=problem.message))

    async def _produce(self, up: Produce) -> None:
        call, body = self._call, b'{"records":' + bytes(up.records) + b"}"
        key = None if up.idempotency_key is None else Key(up.idempotency_key, fingerprint(body))
        drafts, wanted = READERS[self._asked.format](body)
        check_drafts(drafts, call.options.records_max)
        topic = await call.broker.find_topic(self._asked.topic, timeout=call.options.request_timeout)
        check_keys(topic, drafts)
        runs = plan(topic, drafts, choose_partitions(call, topic, drafts, wanted, key), len(body), key)
        await carry_out(call, topic.name, drafts, runs, call.options.wall())
        answer = answer_body(len(drafts), runs)
        await self._send(b'{"type":"produced","id":' + msgspec.json.encode(up.id) + b"," + answer[1:])

    def _grant(self, credit: Credit) -> None:
        if credit.records < 0:
            raise Problem(BAD_REQUEST, f"records is {credit.records}; credits are given, not taken back.")
        if self._credits is None:
            raise Problem(ILLEGAL_STATE, "This connection does not count credits: open it with ?credits=0.")
        self._credits = min(self._credits + credit.records, CREDITS_MAX)
        self._more.set()

    def _acknowledge(self, ack: Ack) -> None:
        if not isinstance(self._source, Shared):
            raise Problem(ILLEGAL_STATE, "Without a group nothing is committed: open the connection with ?group=.")
        position = self._source.positions.get(ack.partition)
        if position is None or not 0 <= ack.offset < position:
            raise Problem(
                ILLEGAL_STATE,
                f"Offset {ack.offset} of partition {ack.partition} is not one that this connection was sent, or the"
                " partition has gone to another member.",
            )
        name = (self._asked.topic, ack.partition)
        before = self._done.get(name, (0, ""))[0]
        self._done[name] = (max(before, ack.offset + 1), "")
        self._acked.set()

    async def _commit(self) -> None:
        while True:
            await self._acked.wait()
            await asyncio.sleep(COMMIT_SECONDS)
            self._acked.clear()
            done = dict(self._done)
            problem = await self._commit_now()
            if problem is not None:
                await self._send(_told("error", error_code=problem.code, message=problem.message))
            elif done:
                offsets = {str(number): offset for (_, number), (offset, _) in sorted(done.items())}
                await self._send(_told("committed", offsets=offsets))

    async def _commit_now(self) -> Problem | None:
        """What is acknowledged; what is wrong where it is not committed, and has to be acknowledged again."""
        done, self._done = self._done, {}
        if not done or not isinstance(self._source, Shared):
            return None
        try:
            await self._source.consumer.commit(done)
        except BrokerError as error:
            return problem_of(error)
        return None


async def websocket(call: Call) -> web.StreamResponse:
    check_origin(call)
    asked = asked_of(call)
    socket = web.WebSocketResponse(heartbeat=PING_SECONDS, max_msg_size=MESSAGE_BYTES_MAX, compress=False)
    if not socket.can_prepare(call.request):
        raise Problem(BAD_REQUEST, "This address speaks WebSocket only: connect to it as ws://.")
    if asked.group is None:
        source: Source = await open_alone(call, asked)
    else:
        source = await open_shared(call, asked, asked.group, acknowledged=True)
    try:
        await call.start(socket)
        with contextlib.suppress(ConnectionError):
            await _Connection(call, asked, source, socket).run()
    finally:
        await source.close()
    return socket


ROUTES = (
    Route(
        "GET",
        "/topics/{topic_name}/ws",
        websocket,
        "openWebSocket",
        "The topic over a WebSocket: records down; acknowledgements, credits and produce up.",
        "push",
        Answer(status=101, summary="The connection speaks WebSocket from now on; docs/push.md has its messages."),
        parameters=(
            *PARAMETERS,
            Parameter("credits", int, "Send so many records, and further ones as the client gives credit for them."),
            Parameter("Origin", str, "Where the page comes from that asks: must be allowed.", header=True),
        ),
        problems=(NO_TOPIC, NO_PARTITION, BAD_REQUEST, FORBIDDEN, ILLEGAL_STATE),
        work=Work.PUSH,
    ),
)
assert set(READERS) == set(Format)

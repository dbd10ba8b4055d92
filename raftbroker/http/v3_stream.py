"""A v3 produce request with a chunked body: records are read, appended and reported at the same time.

What arrives while a batch is on its way makes the next batch. A stream holds a bounded number of its client's bytes; a
client that does not read its reports is given up after a while. Batches depend on how the bytes arrived, so under
an Idempotency-Key each record makes a batch of its own, known by its position.
"""

import asyncio
from collections.abc import Sequence

import msgspec
from aiohttp import web

from raftbroker.broker.errors import BrokerError
from raftbroker.http.call import Call
from raftbroker.http.json_stream import Broken, JsonCutter
from raftbroker.http.media import JSON
from raftbroker.http.problems import BAD_JSON, TOO_LARGE, UNAVAILABLE, Problem, problem_of
from raftbroker.http.produce import IDEMPOTENCY_KEY, Key, fingerprint
from raftbroker.http.v3_append import Appender, Parsed, decode_record, encode_answer
from raftbroker.http.v3_record_forms import Report

_WINDOW_BYTES = 256 * 1024
"""What one stream may hold of its client's bytes beside one record that is larger."""


def end_of(cutter: JsonCutter) -> Problem | None:
    """What is wrong with the end of a stream, if anything."""
    if cutter.broken is Broken.TOO_LARGE:
        return Problem(TOO_LARGE, "A record is longer than a body may be; records after it were not read.")
    if cutter.broken is Broken.NOT_AN_OBJECT:
        return Problem(BAD_JSON, "A record must be a JSON object; what follows the last report was not read.")
    if cutter.unfinished:
        return Problem(BAD_JSON, "The body ends within a record; send that one again, whole.")
    return None


class _Feed:
    """The reading side of a stream: cuts what arrives into records; waits when too much of it is not produced yet."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._cutter = JsonCutter(call.options.body_bytes_max)
        self._objects: list[bytes] = []
        self._size = 0
        self._held = _WINDOW_BYTES
        self._changed = asyncio.Event()
        self._ended = False
        self.problem: Problem | None = None
        call.hold(_WINDOW_BYTES)

    async def run(self) -> None:
        content, patience = self._call.request.content, self._call.options.body_timeout
        try:
            while self._cutter.broken is None:
                while self._size >= _WINDOW_BYTES:
                    self._changed.clear()
                    await self._changed.wait()
                async with asyncio.timeout(patience):
                    piece = await content.readany()
                if not piece:
                    break
                self._take_in(piece)
            self.problem = end_of(self._cutter)
        except TimeoutError:
            self.problem = Problem(408, f"Nothing arrived for {patience:g} s; open a new stream for further records.")
        except Problem as problem:
            self.problem = problem
        finally:
            self._ended = True
            self._changed.set()

    def _take_in(self, piece: bytes) -> None:
        self._call.front.metrics.request_bytes += len(piece)
        objects = self._cutter.feed(piece)
        self._size += sum(map(len, objects))
        self._objects += objects
        needed = self._size + self._cutter.unfinished
        if needed > self._held:
            self._call.hold(needed - self._held)
            self._held = needed
        if objects:
            self._changed.set()

    async def take(self) -> list[bytes]:
        """All records that have arrived, at least one; none when the stream has ended."""
        while not self._objects and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        objects, self._objects, self._size = self._objects, [], 0
        self._changed.set()
        return objects


async def stream(call: Call, cluster: str) -> web.StreamResponse:
    text = call.header_text(IDEMPOTENCY_KEY)
    key = None if text is None else Key(text, 0)
    await call.broker.find_topic(call.path("topic_name"), timeout=call.options.request_timeout)
    feed = _Feed(call)
    request = Appender(call, cluster, key, each_alone=key is not None)
    response = web.StreamResponse(headers={"Content-Type": JSON, "X-Request-Id": call.request_id})
    await call.start(response)
    reading = asyncio.ensure_future(feed.run())
    try:
        while objects := await call.unless_stopping(feed.take()):
            try:
                answers = await request.produce(_decode_all(objects, key), sum(map(len, objects)))
            except BrokerError as error:
                answers = [problem_of(error)] * len(objects)
            await _send(call, answers)
        if call.front.stopping.is_set():
            feed.problem = Problem(UNAVAILABLE, "The node is stopping; send records without a report to another node.")
        if feed.problem is not None:
            await _send(call, [feed.problem])
        await response.write_eof()
    finally:
        reading.cancel()
    return response


def _decode_all(objects: list[bytes], key: Key | None) -> list[Parsed | Problem]:
    records = [decode_record(data) for data in objects]
    if key is None:
        return records
    return [
        msgspec.structs.replace(item, fingerprint=fingerprint(data)) if isinstance(item, Parsed) else item
        for item, data in zip(records, objects, strict=True)
    ]


async def _send(call: Call, answers: Sequence[Report | Problem]) -> None:
    await call.send(b"\r\n".join(map(encode_answer, answers)) + b"\r\n")

"""`GET /topics/{t}/partitions/{p}/records`: reads a partition from an offset or a time, without a consumer group.

The answer is a JSON list; its headers say where to go on, which an empty list could not. A record that cannot be shown
in the asked-for format ends the list before it; when it is the first, the request is refused and the message says how
to read or skip it, so that nothing is passed over in silence.
"""

import asyncio
from collections.abc import Iterable

import msgspec
from aiohttp import web

from raftbroker.broker.errors import BrokerError
from raftbroker.broker.views import Fetched
from raftbroker.http.call import Call
from raftbroker.http.media import EMBEDDED_TYPES, Format, embedded_answer
from raftbroker.http.problems import (
    BAD_REQUEST,
    BAD_SERIALIZATION,
    NO_PARTITION,
    NO_TOPIC,
    NOT_ACCEPTABLE,
    OUT_OF_RANGE,
    Problem,
)
from raftbroker.http.produce import TIMESTAMP_MAX
from raftbroker.http.route import Answer, Parameter, Route, Work
from raftbroker.http.show import NotShowable, Show
from raftbroker.http.v2_forms import ReadRecord
from raftbroker.state import isolation
from raftbroker.state.batch import Record, decode_batch, parse_header
from raftbroker.state.errors import BadBatch

NEXT_OFFSET = "X-Next-Offset"
HIGH_WATERMARK = "X-High-Watermark"
LOG_START = "X-Log-Start-Offset"
OFFSET_MAX = 2**63 - 1
READ_COMMITTED, READ_UNCOMMITTED = "read_committed", "read_uncommitted"

_TIMEOUT_MS_DEFAULT = 1000
_RECORD_BYTES = 1024
"""A guess, for reads of a few records."""


class _Page:
    """The answer while it is put together: records as JSON, bounded in number and bytes."""

    def __init__(self, topic: str, partition: int, offset: int, format_: Format, *, bytes_max: int, most: int) -> None:
        self._format = format_
        self._show = Show(topic, partition, format_)
        self._bytes_max = bytes_max
        self.most = most
        self._size = 2
        self.next_offset = offset
        self.parts: list[bytes] = []
        self.full = False

    def add_batch(self, batch: bytes) -> None:
        """Adds the batch's records from `next_offset` on, until the page is full. Raises Problem."""
        try:
            records = decode_batch(batch)
        except BadBatch as error:
            if self.parts:
                self.full = True
                return
            raise Problem(
                BAD_SERIALIZATION,
                f"The records at offset {self.next_offset} cannot be decompressed or read: {error}. Read them with a"
                " Kafka client, or go on from a later offset.",
            ) from None
        for record in records:
            if record.offset >= self.next_offset:
                self._add(record)
                if self.full:
                    return
        self.next_offset = max(self.next_offset, parse_header(batch).next_offset)

    def skip_batch(self, batch: bytes) -> None:
        self.next_offset = max(self.next_offset, parse_header(batch).next_offset)

    def _add(self, record: Record) -> None:
        try:
            shown = self._show.record(record)
        except NotShowable as error:
            if self.parts:
                self.full = True
                return
            raise Problem(
                BAD_SERIALIZATION,
                f"The {error} of the record at offset {record.offset} is not {self._format.value}; read it with"
                f" 'Accept: {Format.BINARY.media_type}', or go on from offset {record.offset + 1}.",
            ) from None
        if self.parts and self._size + len(shown) + 1 > self._bytes_max:
            self.full = True
            return
        self.parts.append(shown)
        self._size += len(shown) + 1
        self.next_offset = record.offset + 1
        self.full = self._size >= self._bytes_max or len(self.parts) >= self.most


def isolated(fetched: Fetched, *, committed: bool) -> Iterable[tuple[bytes, bool]]:
    """The batches, each with whether its records count for this reader."""
    if committed:
        return isolation.committed(fetched.batches, fetched.aborted)
    return ((batch, True) for batch in fetched.batches)


def _isolation(call: Call) -> str:
    level = call.query_text("isolation") or READ_COMMITTED
    if level not in (READ_COMMITTED, READ_UNCOMMITTED):
        raise Problem(BAD_REQUEST, f"isolation is {READ_COMMITTED} or {READ_UNCOMMITTED}, not {level!r}.")
    return level


async def _first_offset(call: Call, topic: str, partition: int, *, committed: bool) -> int:
    """Where to begin: `offset` as a number, earliest or latest, or `timestamp`. Raises Problem."""
    text = call.query_text("offset")
    timestamp = call.query_number("timestamp", None, least=0, most=TIMESTAMP_MAX)
    if (text is None) == (timestamp is None):
        raise Problem(BAD_REQUEST, "Give either offset (a number, earliest or latest) or timestamp (milliseconds).")
    if timestamp is not None:
        found = await call.broker.offset_for_timestamp(topic, partition, timestamp)
        return found.offset if found is not None else (await call.broker.offsets(topic, partition)).end
    if text == "latest" and committed:
        return (await call.broker.offsets(topic, partition)).stable
    if text in ("earliest", "latest"):
        offsets = await call.broker.offsets(topic, partition)
        return offsets.start if text == "earliest" else offsets.end
    number = call.query_number("offset", None, least=0, most=OFFSET_MAX)
    assert number is not None
    return number


async def read_records(call: Call) -> web.StreamResponse:
    format_ = embedded_answer(call.request.headers.get("Accept"))
    topic, partition, options = call.path("topic_name"), call.path_partition(), call.options
    timeout_ms = call.query_number("timeout", _TIMEOUT_MS_DEFAULT, least=0, most=options.poll_ms_max) or 0
    bytes_max = call.query_number("max_bytes", options.response_bytes_default, least=1, most=options.response_bytes_max)
    most = call.query_number("max_records", options.records_max, least=1, most=options.records_max)
    assert bytes_max is not None
    assert most is not None
    committed = _isolation(call) == READ_COMMITTED
    offset = await _first_offset(call, topic, partition, committed=committed)
    page = _Page(topic, partition, offset, format_, bytes_max=bytes_max, most=most)
    last = await _fill(call, topic, partition, page, wait=timeout_ms / 1000, bytes_max=bytes_max, committed=committed)
    call.front.metrics.records_out += len(page.parts)
    response = call.raw(b"[" + b",".join(page.parts) + b"]", format_.media_type)
    response.headers[NEXT_OFFSET] = str(page.next_offset)
    if last is not None:
        response.headers[HIGH_WATERMARK] = str(last.high_watermark)
        response.headers[LOG_START] = str(last.log_start)
    return response


async def _fill(
    call: Call, topic: str, partition: int, page: _Page, *, wait: float, bytes_max: int, committed: bool
) -> Fetched | None:
    """Fetches until there is a record, or `wait` seconds have passed, or the node stops. The last fetch, if any.

    For a few records only a few batches are read at first, and the rest if those were not enough."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    last: Fetched | None = None
    step = min(bytes_max, page.most * _RECORD_BYTES)
    while True:
        left = 0.0 if page.parts else max(0.0, deadline - loop.time())
        fetch = call.broker.fetch(
            topic,
            partition,
            page.next_offset,
            bytes_max=step,
            wait=left,
            committed=committed,
            timeout=left + call.options.request_timeout,
        )
        try:
            fetched = await (call.unless_stopping(fetch) if left else fetch)
        except BrokerError:
            if page.parts:  # what follows was lost or is out of reach by now; what is here stands
                return last
            raise
        if fetched is None:
            return last
        last = fetched
        for batch, counts in isolated(fetched, committed=committed):
            if counts:
                page.add_batch(batch)
            else:
                page.skip_batch(batch)
            if page.full:
                return last
            await asyncio.sleep(0)
        end = fetched.last_stable if committed else fetched.high_watermark
        if page.parts and (step == bytes_max or not fetched.batches or page.next_offset >= end):
            return last
        if not page.parts and (not fetched.batches or loop.time() >= deadline + call.options.request_timeout):
            return last  # where there are batches, but none that counts, it is looked on behind them
        step = bytes_max


_RECORD = ReadRecord(
    "orders", 0, 41, 1_700_000_000_000, msgspec.Raw(b'"customer-7"'), msgspec.Raw(b'{"item":"tea"}'), []
)

ROUTES = (
    Route(
        "GET",
        "/topics/{topic_name}/partitions/{partition_id}/records",
        read_records,
        "readRecords",
        "Reads records from an offset or a time on, waiting for the first one if there is none yet.",
        "reads",
        Answer(
            list[ReadRecord],
            [_RECORD],
            media=EMBEDDED_TYPES,
            summary=f"The records, perhaps none. {NEXT_OFFSET} says where to go on.",
        ),
        parameters=(
            Parameter("offset", str, "Where to begin: a number, or earliest, or latest.", example="0"),
            Parameter("timestamp", int, "Instead of offset: the first record at or after this time (ms since 1970)."),
            Parameter(
                "timeout", int, "How long to wait for a record, in milliseconds; 1000 unless given.", example=1000
            ),
            Parameter("max_bytes", int, "About how large the answer may become; one record is always given."),
            Parameter("max_records", int, "How many records at most."),
            Parameter(
                "isolation",
                str,
                "read_committed, unless given, or read_uncommitted: with records of transactions that are open, or were"
                " aborted.",
                example=READ_COMMITTED,
            ),
        ),
        problems=(NO_TOPIC, NO_PARTITION, NOT_ACCEPTABLE, OUT_OF_RANGE, BAD_SERIALIZATION),
        work=Work.POLL,
    ),
)

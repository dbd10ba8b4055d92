"""v3 produce: one record, or several JSON objects one behind the other, streamed both ways; and batches.

A body whose length is known is read whole: with one record in it, a failure is the answer's own status; with several,
each has a report. A chunked body is a stream: reports leave while records still arrive, in the order of the records,
and what arrives while a batch is on its way makes the next batch. A stream holds a bounded number of bytes.

Batches of a stream depend on how its bytes arrived, so under an Idempotency-Key each record of a stream makes a batch
of its own, known by its position.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from aiohttp import web

from raftbroker.broker.errors import BrokerError
from raftbroker.broker.views import TopicView
from raftbroker.http.call import Call, check_utf8
from raftbroker.http.json_stream import Broken, JsonCutter
from raftbroker.http.media import JSON, check_json_body
from raftbroker.http.problems import (
    BAD_JSON,
    BAD_PAYLOAD,
    BAD_REQUEST,
    TOO_LARGE,
    UNAVAILABLE,
    ErrorBody,
    Problem,
    malformed,
    problem_of,
)
from raftbroker.http.produce import (
    IDEMPOTENCY_KEY,
    TIMESTAMP_MAX,
    Chooser,
    Key,
    Run,
    Sequenced,
    carry_out,
    idempotency_key,
    plan,
)
from raftbroker.http.route import Answer, Route, json_body
from raftbroker.http.v2_produce import KEY_PARAMETER, PROBLEMS, json_key
from raftbroker.http.v3_clusters import BASE, CLUSTER, check_cluster
from raftbroker.http.v3_record_forms import (
    BatchAnswer,
    BatchBody,
    BatchEntry,
    Data,
    EntryId,
    Failure,
    HeaderV3,
    LooseBatch,
    RecordV3,
    Report,
    Shown,
    Success,
)
from raftbroker.state.batch import RecordDraft

_WINDOW_BYTES = 256 * 1024
"""What one stream may hold of its client's bytes beside one record that is larger."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEQUENCE_MAX = 2**31 - 1

_record = msgspec.json.Decoder(RecordV3)
_base64 = msgspec.json.Decoder(bytes)
_text = msgspec.json.Decoder(str)
_loose_batch = msgspec.json.Decoder(LooseBatch)
_entry_id = msgspec.json.Decoder(EntryId)
_entry = msgspec.json.Decoder(BatchEntry)


class Parsed(msgspec.Struct, frozen=True):
    """A record as it was asked for, checked as far as it can be without its topic."""

    draft: RecordDraft
    wanted: int | None
    sequenced: Sequenced | None
    key_type: Data | None
    value_type: Data | None
    fingerprint: int = 0


# --- from JSON to records ---------------------------------------------------------------------------------


def _bytes(data: Data | None, field: str, *, is_key: bool = False) -> bytes | None:
    if data is None:
        return None
    raw = bytes(data.data)
    if raw == b"null":
        return None
    try:
        if data.type == "BINARY":
            return _base64.decode(raw)
        if data.type == "STRING":
            return _text.decode(raw).encode()
    except msgspec.ValidationError:
        wanted = "base64 in a string" if data.type == "BINARY" else "a string"
        raise Problem(BAD_PAYLOAD, f"{field}.data must be {wanted}, as its type is {data.type}.") from None
    return json_key(raw) if is_key else raw


def _timestamp(record: RecordV3, field: str) -> int | None:
    given = record.timestamp
    if isinstance(given, datetime):
        given = (given - _EPOCH) // timedelta(milliseconds=1)
    if given is not None and not 0 <= given <= TIMESTAMP_MAX:
        raise Problem(BAD_PAYLOAD, f"{field}timestamp is out of range; give RFC 3339, or milliseconds since 1970.")
    return given


def _sequenced(record: RecordV3, field: str) -> Sequenced | None:
    numbers = (record.producer_id, record.producer_epoch, record.sequence)
    if all(number is None for number in numbers):
        return None
    producer_id, epoch, sequence = numbers
    if producer_id is None or epoch is None or sequence is None:
        raise Problem(BAD_PAYLOAD, f"{field}producer_id, producer_epoch and sequence go together; give all or none.")
    if not (0 <= producer_id < 2**63 and 0 <= epoch < 2**15 and 0 <= sequence <= _SEQUENCE_MAX):
        raise Problem(
            BAD_PAYLOAD, f"{field}producer_id must be 0 to 2^63-1, producer_epoch 0 to 32767, sequence 0 to 2^31-1."
        )
    return Sequenced(producer_id, epoch, sequence)


def _parse(record: RecordV3, field: str = "") -> Parsed:
    """Raises Problem, which names the field; `field` is the record's own path, with its dot."""
    headers = tuple((header.name, header.value) for header in record.headers)
    draft = RecordDraft(
        _bytes(record.key, f"{field}key", is_key=True),
        _bytes(record.value, f"{field}value"),
        headers,
        _timestamp(record, field),
    )
    return Parsed(draft, record.partition_id, _sequenced(record, field), record.key, record.value)


def _decode(data: bytes) -> Parsed | Problem:
    try:
        check_utf8(data)
        return _parse(_record.decode(data))
    except (msgspec.DecodeError, RecursionError) as error:
        return malformed(error)
    except Problem as problem:
        return problem


# --- producing --------------------------------------------------------------------------------------------


class _Request:
    """The records of one request, produced in one or more rounds; remembers the position in the request."""

    def __init__(self, call: Call, cluster: str, key: Key | None, *, each_alone: bool = False) -> None:
        self._call = call
        self._cluster = cluster
        self._key = key
        self._each_alone = each_alone
        self._position = 0

    async def produce(self, records: Sequence[Parsed | Problem], body_bytes: int) -> list[Report | Problem]:
        """Appends records that parsed; a report or a problem for each, in order."""
        call = self._call
        first, self._position = self._position, self._position + len(records)
        answers: list[Report | Problem | None] = [item if isinstance(item, Problem) else None for item in records]
        call.front.metrics.records_failed += len(answers) - answers.count(None)
        if None not in answers:
            return [answer for answer in answers if answer is not None]
        topic = await call.broker.find_topic(call.path("topic_name"), timeout=call.options.request_timeout)
        places = self._choose(topic, records, answers, first)
        good = [records[place] for place, _ in places]
        parsed = [item for item in good if isinstance(item, Parsed)]
        drafts = [item.draft for item in parsed]
        runs = self._plan(
            topic, parsed, [partition for _, partition in places], [p for p, _ in places], body_bytes, first
        )
        now = call.options.wall()
        await carry_out(call, topic.name, drafts, runs, now)
        for run in runs:
            for delta, index in enumerate(run.positions):
                answers[places[index][0]] = run.problem or self._report(topic.name, run, delta, parsed[index], now)
        return [answer for answer in answers if answer is not None]

    def _choose(
        self, topic: TopicView, records: Sequence[Parsed | Problem], answers: list[Report | Problem | None], first: int
    ) -> list[tuple[int, int]]:
        """(place in this round, partition) of each record that can be sent; the others get their problem."""
        chooser = Chooser(self._call, topic, None if self._key is None else self._key.text)
        places: list[tuple[int, int]] = []
        for place, item in enumerate(records):
            if isinstance(item, Parsed):
                try:
                    places.append((place, chooser.choose(first + place, item.draft.key, item.wanted)))
                except BrokerError as error:
                    answers[place] = problem_of(error)
        return places

    def _plan(
        self, topic: TopicView, parsed: list[Parsed], chosen: list[int], places: list[int], body_bytes: int, first: int
    ) -> list[Run]:
        drafts = [item.draft for item in parsed]
        if not self._each_alone and all(item.sequenced is None for item in parsed):
            return plan(topic, drafts, chosen, body_bytes, self._key)
        runs: list[Run] = []
        for index, (item, partition) in enumerate(zip(parsed, chosen, strict=True)):
            alone = None
            if self._key is not None and item.sequenced is None:
                fingerprint = item.fingerprint if self._each_alone else self._key.fingerprint
                alone = Key(self._key.text, fingerprint).of(partition, first + places[index])
            runs.append(Run(partition, (index,), alone, item.sequenced))
        return runs

    def _report(self, topic: str, run: Run, delta: int, parsed: Parsed, now: int) -> Report:
        assert run.produced is not None
        draft = parsed.draft
        timestamp = draft.timestamp if draft.timestamp is not None else now
        if run.produced.timestamp >= 0:
            timestamp = run.produced.timestamp
        return Report(
            error_code=200,
            cluster_id=self._cluster,
            topic_name=topic,
            partition_id=run.partition,
            offset=run.produced.base_offset + delta,
            timestamp=_EPOCH + timedelta(milliseconds=timestamp),
            key=_shown(parsed.key_type, draft.key),
            value=_shown(parsed.value_type, draft.value),
        )


def _shown(data: Data | None, stored: bytes | None) -> Shown | None:
    return None if data is None or stored is None else Shown(data.type, len(stored))


def _encode(answer: Report | Problem) -> bytes:
    if isinstance(answer, Problem):
        return msgspec.json.encode(ErrorBody(answer.code, answer.message))
    return msgspec.json.encode(answer)


# --- records ----------------------------------------------------------------------------------------------


async def produce_records(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    check_json_body(call.request.headers.get("Content-Type"))
    if call.request.body_exists and call.request.content_length is None:
        with call.front.limits.streams.held():
            return await _stream(call, cluster)
    body = await call.read_body()
    cutter = JsonCutter(call.options.body_bytes_max)
    objects = cutter.feed(body)
    if len(objects) > call.options.records_max:
        raise Problem(
            TOO_LARGE,
            f"The body has {len(objects)} records; send at most {call.options.records_max}, or a chunked body.",
        )
    records = [_decode(data) for data in objects]
    end = _end_of(cutter)
    if end is not None:
        records.append(end)
    if not records:
        raise Problem(BAD_PAYLOAD, "The body is empty; send at least one record.")
    request = _Request(call, cluster, idempotency_key(call, body, "v3"))
    answers = await request.produce(records, len(body))
    if len(answers) == 1:
        if isinstance(answers[0], Problem):
            raise answers[0]
        return call.reply(answers[0])
    return call.raw(b"\r\n".join(map(_encode, answers)) + b"\r\n", JSON)


def _end_of(cutter: JsonCutter) -> Problem | None:
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
            self.problem = _end_of(self._cutter)
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


async def _stream(call: Call, cluster: str) -> web.StreamResponse:
    text = call.header_text(IDEMPOTENCY_KEY)
    key = None if text is None else Key(text, 0)
    await call.broker.find_topic(call.path("topic_name"), timeout=call.options.request_timeout)
    feed = _Feed(call)
    request = _Request(call, cluster, key, each_alone=key is not None)
    response = web.StreamResponse(headers={"Content-Type": JSON, "X-Request-Id": call.request_id})
    await response.prepare(call.request)
    reading = asyncio.ensure_future(feed.run())
    try:
        while objects := await call.unless_stopping(feed.take()):
            try:
                answers = await request.produce(_decode_all(objects, key), sum(map(len, objects)))
            except BrokerError as error:
                answers = [problem_of(error)] * len(objects)
            await _send(call, response, answers)
        if call.front.stopping.is_set():
            feed.problem = Problem(UNAVAILABLE, "The node is stopping; send records without a report to another node.")
        if feed.problem is not None:
            await _send(call, response, [feed.problem])
        await response.write_eof()
    finally:
        reading.cancel()
    return response


def _decode_all(objects: list[bytes], key: Key | None) -> list[Parsed | Problem]:
    records = [_decode(data) for data in objects]
    if key is None:
        return records
    return [
        msgspec.structs.replace(item, fingerprint=_fingerprint(data)) if isinstance(item, Parsed) else item
        for item, data in zip(records, objects, strict=True)
    ]


def _fingerprint(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


async def _send(call: Call, response: web.StreamResponse, answers: Sequence[Report | Problem]) -> None:
    """Raises ConnectionError when the client takes nothing for too long: it has left, or waits for us to read."""
    body = b"\r\n".join(map(_encode, answers)) + b"\r\n"
    try:
        async with asyncio.timeout(call.options.send_timeout):
            await response.write(body)
    except TimeoutError:
        raise ConnectionAbortedError("the client does not read its reports") from None
    call.front.metrics.response_bytes += len(body)


# --- batches ----------------------------------------------------------------------------------------------


async def produce_batch(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    check_json_body(call.request.headers.get("Content-Type"))
    body = await call.read_body()
    ids, records = _entries(call, body)
    answers = await _Request(call, cluster, idempotency_key(call, body, "v3 batch")).produce(records, len(body))
    successes: list[Success] = []
    failures: list[Failure] = []
    for name, answer in zip(ids, answers, strict=True):
        if isinstance(answer, Problem):
            failures.append(Failure(name, answer.code, answer.message))
        else:
            successes.append(Success(id=name, **{field: getattr(answer, field) for field in Report.__struct_fields__}))
    return call.reply(BatchAnswer(successes, failures), status=207)


def _entries(call: Call, body: bytes) -> tuple[list[str], list[Parsed | Problem]]:
    """Ids and records of a batch, in order. Raises Problem where the batch as a whole cannot be answered."""
    check_utf8(body)
    try:
        entries = _loose_batch.decode(body).entries
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(error) from None
    if not 1 <= len(entries) <= call.options.records_max:
        raise Problem(BAD_REQUEST, f"entries has {len(entries)} records; send 1 to {call.options.records_max}.")
    ids: list[str] = []
    records: list[Parsed | Problem] = []
    for position, raw in enumerate(entries):
        try:
            ids.append(_entry_id.decode(raw).id)
        except msgspec.ValidationError as error:
            raise Problem(
                BAD_PAYLOAD, f"entries[{position}]: {error}; each entry needs an id of 1 to 80 characters."
            ) from None
        try:
            records.append(_parse(_entry.decode(raw), f"entries[{position}]."))
        except msgspec.ValidationError as error:
            records.append(Problem(BAD_PAYLOAD, f"entries[{position}]: {error}. See /openapi.json for the form."))
        except Problem as problem:
            records.append(problem)
    if len(set(ids)) != len(ids):
        raise Problem(BAD_REQUEST, "entries has the same id twice; give each entry its own.")
    return ids, records


_PATH = f"{BASE}/topics/{{topic_name}}/records"
_HEADERS = [HeaderV3("trace", b"\x01\x02")]
_VALUE = Data("JSON", msgspec.Raw(b'{"item":"tea","amount":2}'))
_RECORD = RecordV3(headers=_HEADERS, key=Data("STRING", msgspec.Raw(b'"customer-7"')), value=_VALUE)
_REPORT = Report(
    error_code=200,
    cluster_id=CLUSTER,
    topic_name="orders",
    partition_id=3,
    offset=41,
    timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    key=Shown("STRING", 10),
    value=Shown("JSON", 25),
)
_SUCCESS = Success(
    id="1",
    error_code=200,
    cluster_id=CLUSTER,
    topic_name="orders",
    partition_id=3,
    offset=42,
    timestamp=_REPORT.timestamp,
)

ROUTES = (
    Route(
        "POST",
        _PATH,
        produce_records,
        "produceRecord",
        "Appends one record; or several JSON objects one behind the other, each with its report. A chunked body is a"
        " stream: read the reports while you send.",
        "v3 records",
        Answer(Report, _REPORT, summary="A report per record; its own error_code is 200 when the record is appended."),
        json_body(_RECORD, repeated=True),
        (KEY_PARAMETER,),
        PROBLEMS,
    ),
    Route(
        "POST",
        f"{_PATH}:batch",
        produce_batch,
        "produceRecordsBatch",
        "Appends several records; those that fail do so alone.",
        "v3 records",
        Answer(
            BatchAnswer,
            BatchAnswer([_SUCCESS], [Failure("2", UNAVAILABLE, "partition 1 has no leader now")]),
            207,
            summary="Which records were appended and which were not, by id.",
        ),
        json_body(BatchBody([BatchEntry(id="1", value=_VALUE), BatchEntry(id="2", partition_id=1, value=_VALUE)])),
        (KEY_PARAMETER,),
        PROBLEMS,
    ),
)

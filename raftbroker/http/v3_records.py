"""v3 produce: one record, or several JSON objects one behind the other, streamed both ways; and batches.

A body whose length is known is read whole: with one record in it, a failure is the answer's own status; with several,
each has a report. A chunked body is a stream: reports leave while records still arrive, in the order of the records.
"""

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from raftbroker.http.call import Call, check_utf8
from raftbroker.http.json_stream import JsonCutter
from raftbroker.http.media import JSON, check_json_body
from raftbroker.http.problems import BAD_PAYLOAD, BAD_REQUEST, TOO_LARGE, UNAVAILABLE, Problem, malformed
from raftbroker.http.produce import idempotency_key
from raftbroker.http.route import Answer, Route, json_body
from raftbroker.http.v2_produce import KEY_PARAMETER, PROBLEMS
from raftbroker.http.v3_append import Appender, Parsed, decode_record, encode_answer, parse_record
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
from raftbroker.http.v3_stream import end_of, stream

_loose_batch = msgspec.json.Decoder(LooseBatch)
_entry_id = msgspec.json.Decoder(EntryId)
_entry = msgspec.json.Decoder(BatchEntry)


# --- records ----------------------------------------------------------------------------------------------


async def produce_records(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    check_json_body(call.request.headers.get("Content-Type"))
    if call.request.body_exists and call.request.content_length is None:
        with call.front.limits.streams.held():
            return await stream(call, cluster)
    body = await call.read_body()
    cutter = JsonCutter(call.options.body_bytes_max)
    objects = cutter.feed(body)
    if len(objects) > call.options.records_max:
        raise Problem(
            TOO_LARGE,
            f"The body has {len(objects)} records; send at most {call.options.records_max}, or a chunked body.",
        )
    records = [decode_record(data) for data in objects]
    end = end_of(cutter)
    if end is not None:
        records.append(end)
    if not records:
        raise Problem(BAD_PAYLOAD, "The body is empty; send at least one record.")
    request = Appender(call, cluster, idempotency_key(call, body, "v3"))
    answers = await request.produce(records, len(body))
    if len(answers) == 1:
        if isinstance(answers[0], Problem):
            raise answers[0]
        return call.reply(answers[0])
    return call.raw(b"\r\n".join(map(encode_answer, answers)) + b"\r\n", JSON)


# --- batches ----------------------------------------------------------------------------------------------


async def produce_batch(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    check_json_body(call.request.headers.get("Content-Type"))
    body = await call.read_body()
    ids, records = _entries(call, body)
    answers = await Appender(call, cluster, idempotency_key(call, body, "v3 batch")).produce(records, len(body))
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
            records.append(parse_record(_entry.decode(raw), f"entries[{position}]."))
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

"""`POST /topics/{t}` and `/topics/{t}/partitions/{p}`: v2 produce, the fast way in.

The body is decoded once into typed structs; JSON keys and values are passed on as the bytes that were sent (a key loses
insignificant whitespace, so that equal keys meet in one partition). The answer is joined from text.
"""

from collections.abc import Callable

import msgspec
from aiohttp import web

from raftbroker.http.call import Call, decode
from raftbroker.http.media import FORMATS, V2, Format, embedded_format, v2_answer
from raftbroker.http.problems import (
    BAD_PAYLOAD,
    KEY_REUSED,
    NO_PARTITION,
    NO_TOPIC,
    STORAGE_FULL,
    TOO_LARGE,
    TOO_MANY,
    UNAVAILABLE,
    UNKNOWN_OUTCOME,
    UNSUPPORTED_MEDIA,
    Problem,
)
from raftbroker.http.produce import (
    IDEMPOTENCY_KEY,
    TIMESTAMP_MAX,
    Run,
    carry_out,
    check_keys,
    choose_partitions,
    idempotency_key,
    no_partition,
    plan,
    raise_if_all_failed,
)
from raftbroker.http.route import Answer, Body, Parameter, Route
from raftbroker.http.v2_forms import (
    NULL,
    BinaryRecord,
    BinaryRecords,
    Header,
    JsonRecord,
    JsonRecords,
    ProduceAnswer,
    RecordOffset,
    StringRecord,
    StringRecords,
)
from raftbroker.state.batch import RecordDraft

_json_records = msgspec.json.Decoder(JsonRecords)
_binary_records = msgspec.json.Decoder(BinaryRecords)
_string_records = msgspec.json.Decoder(StringRecords)

Drafts = tuple[list[RecordDraft], list[int | None]]


def _headers(headers: list[Header]) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((header.name, header.value) for header in headers)


def json_key(raw: bytes) -> bytes | None:
    """A JSON key's bytes: as sent, but without whitespace around its parts; None for null."""
    if raw[0] in b"{[":
        return msgspec.json.format(raw, indent=-1)
    return None if raw == b"null" else raw


def _from_json(body: bytes) -> Drafts:
    records = decode(_json_records, body).records
    drafts = [
        RecordDraft(
            None if record.key is NULL else json_key(bytes(record.key)),
            None if (value := bytes(record.value)) == b"null" else value,
            _headers(record.headers) if record.headers else (),
            record.timestamp,
        )
        for record in records
    ]
    return drafts, [record.partition for record in records]


def _from_binary(body: bytes) -> Drafts:
    records = decode(_binary_records, body).records
    drafts = [
        RecordDraft(record.key, record.value, _headers(record.headers) if record.headers else (), record.timestamp)
        for record in records
    ]
    return drafts, [record.partition for record in records]


def _from_string(body: bytes) -> Drafts:
    records = decode(_string_records, body).records
    drafts = [
        RecordDraft(
            None if record.key is None else record.key.encode(),
            None if record.value is None else record.value.encode(),
            _headers(record.headers) if record.headers else (),
            record.timestamp,
        )
        for record in records
    ]
    return drafts, [record.partition for record in records]


READERS: dict[Format, Callable[[bytes], Drafts]] = {
    Format.JSON: _from_json,
    Format.BINARY: _from_binary,
    Format.STRING: _from_string,
}


def check_drafts(drafts: list[RecordDraft], records_max: int) -> None:
    """Bounds on what the records say. Raises Problem."""
    if not drafts:
        raise Problem(BAD_PAYLOAD, "records is empty; send at least one record.")
    if len(drafts) > records_max:
        raise Problem(TOO_LARGE, f"records has {len(drafts)} records; send at most {records_max} in each request.")
    for position, draft in enumerate(drafts):
        if draft.timestamp is not None and not 0 <= draft.timestamp <= TIMESTAMP_MAX:
            raise Problem(
                BAD_PAYLOAD, f"records[{position}].timestamp is {draft.timestamp}; give milliseconds since 1970."
            )


async def produce_to_topic(call: Call) -> web.StreamResponse:
    return await _produce(call, None)


async def produce_to_partition(call: Call) -> web.StreamResponse:
    return await _produce(call, call.path_partition())


async def _produce(call: Call, partition: int | None) -> web.StreamResponse:
    media = v2_answer(call.request.headers.get("Accept"))
    format_ = embedded_format(call.request.headers.get("Content-Type"))
    body = await call.read_body()
    key = idempotency_key(call, body, format_.value, str(partition))
    drafts, wanted = READERS[format_](body)
    check_drafts(drafts, call.options.records_max)
    topic = await call.broker.find_topic(call.path("topic_name"), timeout=call.options.request_timeout)
    check_keys(topic, drafts)
    if partition is None:
        chosen = choose_partitions(call, topic, drafts, wanted, key)
    else:
        if partition >= len(topic.partitions):
            raise no_partition(topic, partition, "partition")
        for position, number in enumerate(wanted):
            if number is not None and number != partition:
                raise Problem(
                    BAD_PAYLOAD,
                    f"records[{position}].partition is {number}, but the request is for partition {partition};"
                    " leave it out, or produce to the topic.",
                )
        chosen = partition
    runs = plan(topic, drafts, chosen, len(body), key)
    await carry_out(call, topic.name, drafts, runs, call.options.wall())
    raise_if_all_failed(runs)
    return call.raw(answer_body(len(drafts), runs), media)


_ANSWER_END = b'],"key_schema_id":null,"value_schema_id":null}'
_GOOD_END = ',"error_code":null,"error":null}'


def answer_body(count: int, runs: list[Run]) -> bytes:
    """A ProduceAnswer as JSON. Joined by hand: offsets follow each other, and there is nothing to escape."""
    parts: list[str] = [""] * count
    for run in runs:
        if run.produced is not None:
            start = f'{{"partition":{run.partition},"offset":'
            base = run.produced.base_offset
            offsets = range(base, base + len(run.positions))
            if len(offsets) == count:
                parts = [start + f"{_GOOD_END},{start}".join(map(str, offsets)) + _GOOD_END]
                continue
            for position, offset in zip(run.positions, offsets, strict=True):
                parts[position] = f"{start}{offset}{_GOOD_END}"
        else:
            assert run.problem is not None
            failed = RecordOffset(run.partition, None, run.problem.code, run.problem.message)
            text = msgspec.json.encode(failed).decode()
            for position in run.positions:
                parts[position] = text
    return b'{"offsets":[' + ",".join(parts).encode() + _ANSWER_END


_HEADERS = [Header("trace", b"\x01\x02")]
BODY = Body(
    {
        Format.JSON.media_type: (
            JsonRecords,
            JsonRecords(
                [
                    JsonRecord(
                        key=msgspec.Raw(b'"customer-7"'),
                        value=msgspec.Raw(b'{"item":"tea","amount":2}'),
                        headers=_HEADERS,
                    ),
                    JsonRecord(value=msgspec.Raw(b"[1,2,3]"), partition=0, timestamp=1_700_000_000_000),
                ]
            ),
        ),
        Format.BINARY.media_type: (BinaryRecords, BinaryRecords([BinaryRecord(key=b"\x00\x07", value=b"any bytes")])),
        Format.STRING.media_type: (StringRecords, StringRecords([StringRecord(key="customer-7", value="two teas")])),
    }
)
assert set(BODY.forms) == set(FORMATS)
_ANSWER = Answer(
    ProduceAnswer,
    ProduceAnswer([RecordOffset(0, 41), RecordOffset(1, None, UNAVAILABLE, "partition 1 has no leader now")]),
    media=(V2, "application/json"),
    summary="What became of each record, in order; an error_code that is not null means it failed.",
)
KEY_PARAMETER = Parameter(
    IDEMPOTENCY_KEY,
    str,
    "1 to 255 visible ASCII characters. The same request again with the same key, through any node, is appended only"
    " once and answered with the same offsets, as long as the topic keeps its number of partitions and the key is"
    " within the partition's window of recent keys.",
    header=True,
    example="order-4711-attempt",
)
PROBLEMS = (
    NO_TOPIC,
    NO_PARTITION,
    TOO_LARGE,
    UNSUPPORTED_MEDIA,
    BAD_PAYLOAD,
    KEY_REUSED,
    TOO_MANY,
    UNKNOWN_OUTCOME,
    UNAVAILABLE,
    STORAGE_FULL,
)

ROUTES = (
    Route(
        "POST",
        "/topics/{topic_name}",
        produce_to_topic,
        "produceToTopic",
        "Appends records; each goes to the partition it names, or to that of its key as Kafka hashes it.",
        "v2 produce",
        _ANSWER,
        BODY,
        (KEY_PARAMETER,),
        PROBLEMS,
    ),
    Route(
        "POST",
        "/topics/{topic_name}/partitions/{partition_id}",
        produce_to_partition,
        "produceToPartition",
        "Appends records to one partition.",
        "v2 produce",
        _ANSWER,
        BODY,
        (KEY_PARAMETER,),
        PROBLEMS,
    ),
)

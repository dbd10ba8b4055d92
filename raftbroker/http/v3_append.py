"""v3 records parsed, appended and reported: what single records, several in one body, streams and batches share."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from raftbroker.broker.errors import BrokerError
from raftbroker.http.call import Call, check_utf8
from raftbroker.http.problems import BAD_PAYLOAD, ErrorBody, Problem, malformed, problem_of
from raftbroker.http.produce import TIMESTAMP_MAX, Chooser, Key, Run, Sequenced, carry_out, is_compacted, no_key, plan
from raftbroker.http.v2_produce import json_key
from raftbroker.http.v3_record_forms import Data, RecordV3, Report, Shown
from raftbroker.state.batch import RecordDraft
from raftbroker.state.control_commands import TopicState

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEQUENCE_MAX = 2**31 - 1

_record = msgspec.json.Decoder(RecordV3)
_base64 = msgspec.json.Decoder(bytes)
_text = msgspec.json.Decoder(str)


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


def parse_record(record: RecordV3, field: str = "") -> Parsed:
    """Raises Problem, which names the field; `field` is the record's own path, with its dot."""
    headers = tuple((header.name, header.value) for header in record.headers)
    draft = RecordDraft(
        _bytes(record.key, f"{field}key", is_key=True),
        _bytes(record.value, f"{field}value"),
        headers,
        _timestamp(record, field),
    )
    return Parsed(draft, record.partition_id, _sequenced(record, field), record.key, record.value)


def decode_record(data: bytes) -> Parsed | Problem:
    try:
        check_utf8(data)
        return parse_record(_record.decode(data))
    except (msgspec.DecodeError, RecursionError) as error:
        return malformed(error)
    except Problem as problem:
        return problem


# --- producing --------------------------------------------------------------------------------------------


class Appender:
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
        self, topic: TopicState, records: Sequence[Parsed | Problem], answers: list[Report | Problem | None], first: int
    ) -> list[tuple[int, int]]:
        """(place in this round, partition) of each record that can be sent; the others get their problem."""
        keyed = is_compacted(topic)
        chooser = Chooser(self._call, topic, None if self._key is None else self._key.text)
        places: list[tuple[int, int]] = []
        for place, item in enumerate(records):
            if isinstance(item, Parsed):
                if keyed and item.draft.key is None:
                    answers[place] = no_key(topic, "key")
                    continue
                try:
                    places.append((place, chooser.choose(first + place, item.draft.key, item.wanted)))
                except BrokerError as error:
                    answers[place] = problem_of(error)
        return places

    def _plan(
        self, topic: TopicState, parsed: list[Parsed], chosen: list[int], places: list[int], body_bytes: int, first: int
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


def encode_answer(answer: Report | Problem) -> bytes:
    if isinstance(answer, Problem):
        return msgspec.json.encode(ErrorBody(answer.code, answer.message))
    return msgspec.json.encode(answer)

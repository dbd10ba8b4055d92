"""Records from a request become batches and go to the broker: what v2 and v3 produce have in common.

The plan of a request (which record goes to which partition, in which batch) depends only on the request, the topic's
number of partitions and the size at which its batches are cut, so that a request repeated with the same
Idempotency-Key makes the same batches and each is recognised by its own key. Batches for one partition go one after
the other, in the order of the request; partitions go at the same time. Nothing is awaited per record.
"""

import asyncio
import hashlib
from collections.abc import Sequence

import google_crc32c
import msgspec

from raftbroker.broker.errors import BrokerError, UnknownPartition
from raftbroker.broker.views import Idempotency, Produced
from raftbroker.http.call import Call
from raftbroker.http.problems import BAD_PAYLOAD, TOO_MANY, UNKNOWN_OUTCOME, Problem, problem_of
from raftbroker.state.batch import HEADER_BYTES, RecordDraft, encode_batch
from raftbroker.state.configs import compacted
from raftbroker.state.control_commands import TopicState

IDEMPOTENCY_KEY = "Idempotency-Key"
TIMESTAMP_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999: later ones are surely in another unit."""

_MESSAGE_BYTES_DEFAULT = 1_048_588
_BATCH_BYTES_MAX = 1 << 20
_RECORD_OVERHEAD = 40
"""More than a record's lengths, deltas and attributes take together."""


class Key(msgspec.Struct, frozen=True):
    """A client's Idempotency-Key, and the fingerprint of all that it asked for with it."""

    text: str
    fingerprint: int

    def of(self, partition: int, ordinal: int) -> Idempotency:
        """For the `ordinal`th batch of this request in this partition."""
        name = f"{self.text} {partition} {ordinal}".encode()
        return Idempotency(hashlib.blake2b(name, digest_size=16).digest(), self.fingerprint)


class Sequenced(msgspec.Struct, frozen=True):
    """The producer id fields of a record, where it has them: it then makes a batch of its own."""

    producer_id: int
    producer_epoch: int
    sequence: int


class Run(msgspec.Struct):
    """Records that make one batch, by their positions in the request, and what became of them."""

    partition: int
    positions: Sequence[int]
    idempotency: Idempotency | None = None
    sequenced: Sequenced | None = None
    produced: Produced | None = None
    problem: Problem | None = None


def idempotency_key(call: Call, body: bytes, *context: str) -> Key | None:
    """The request's Idempotency-Key, if it has one; `context` is what beside the body makes the request what it is."""
    text = call.header_text(IDEMPOTENCY_KEY)
    if text is None:
        return None
    return Key(text, fingerprint(body, "\0".join(context).encode()))


def fingerprint(content: bytes, context: bytes = b"") -> int:
    """Tells other content under the same key apart, to find mistakes: CRC-32C and length, for next to nothing."""
    crc = int(google_crc32c.extend(google_crc32c.value(context), content))
    return crc << 31 | len(content)


class Chooser:
    """Chooses the partitions of one request's records.

    Records with neither key nor partition go together to one partition, another with each request; with an
    Idempotency-Key to the partition that it and the record's position give."""

    def __init__(self, call: Call, topic: TopicState, header: str | None) -> None:
        self._broker = call.broker
        self._topic = topic
        self._header = header
        self._together: int | None = None

    def choose(self, position: int, record_key: bytes | None, wanted: int | None, field: str = "records") -> int:
        """Raises UnknownPartition, naming the record."""
        if wanted is not None:
            if not 0 <= wanted < len(self._topic.partitions):
                raise no_partition(self._topic, wanted, f"{field}[{position}].partition")
            return wanted
        if len(self._topic.partitions) == 1:
            return 0
        if record_key is not None or self._header is not None:
            return self._broker.partition_for(self._topic, record_key, idempotency_key=self._header, position=position)
        if self._together is None:
            self._together = self._broker.partition_for(self._topic, None)
        return self._together


def choose_partitions(
    call: Call, topic: TopicState, drafts: Sequence[RecordDraft], wanted: Sequence[int | None], key: Key | None
) -> int | list[int]:
    """Each record's partition; a single number when all go together. Raises UnknownPartition."""
    chooser = Chooser(call, topic, None if key is None else key.text)
    if not any(number is not None for number in wanted) and (
        len(topic.partitions) == 1 or (key is None and not any(draft.key is not None for draft in drafts))
    ):
        return chooser.choose(0, None, None)
    return [
        chooser.choose(position, draft.key, number)
        for position, (draft, number) in enumerate(zip(drafts, wanted, strict=True))
    ]


def is_compacted(topic: TopicState) -> bool:
    """Whether the topic wants a key of every record."""
    return compacted(topic.configs.get("cleanup.policy", ""))


def check_keys(topic: TopicState, drafts: Sequence[RecordDraft]) -> None:
    """Raises Problem, which names the record, where one lacks the key that a compacted topic wants."""
    if is_compacted(topic):
        for position, draft in enumerate(drafts):
            if draft.key is None:
                raise no_key(topic, f"records[{position}].key", "; nothing of this request was appended")


def no_key(topic: TopicState, field: str, done: str = "") -> Problem:
    return Problem(
        BAD_PAYLOAD,
        f"{field} is missing or null, but topic {topic.name!r} is compacted and keeps the newest record of each key: "
        f"give every record a key{done}.",
    )


def no_partition(topic: TopicState, number: int, field: str) -> UnknownPartition:
    return UnknownPartition(
        f"{field} is {number}, but topic {topic.name!r} has {len(topic.partitions)} partitions, numbered from 0; "
        "nothing of this request was appended",
        field=field,
    )


def plan(
    topic: TopicState, drafts: Sequence[RecordDraft], chosen: int | list[int], body_bytes: int, key: Key | None
) -> list[Run]:
    """The batches of a request. `body_bytes` is at least what keys, values and headers take together."""
    groups: dict[int, list[int]] = {}
    if not isinstance(chosen, int):
        for position, partition in enumerate(chosen):
            groups.setdefault(partition, []).append(position)
    most = min(_BATCH_BYTES_MAX, int(topic.configs.get("max.message.bytes", _MESSAGE_BYTES_DEFAULT)))
    small = body_bytes + HEADER_BYTES + _RECORD_OVERHEAD * len(drafts) <= most
    runs: list[Run] = []
    for partition, positions in groups.items() if not isinstance(chosen, int) else ((chosen, range(len(drafts))),):
        for ordinal, part in enumerate((positions,) if small else _cut(drafts, positions, most)):
            runs.append(Run(partition, part, None if key is None else key.of(partition, ordinal)))
    return runs


def _cut(drafts: Sequence[RecordDraft], positions: Sequence[int], most: int) -> list[list[int]]:
    parts: list[list[int]] = []
    size = most + 1
    for position in positions:
        draft = drafts[position]
        cost = _RECORD_OVERHEAD + len(draft.key or b"") + len(draft.value or b"")
        for name, value in draft.headers:
            cost += 4 * len(name) + len(value or b"") + 20
        if size + cost > most:
            parts.append([])
            size = HEADER_BYTES
        parts[-1].append(position)
        size += cost
    return parts


async def carry_out(call: Call, topic: str, drafts: Sequence[RecordDraft], runs: list[Run], now: int) -> None:
    """Produces every run and fills in what became of it. Never raises one of the broker's errors.

    `now` (epoch ms) is the time of records that bring none."""
    lanes: dict[int, list[Run]] = {}
    for run in runs:
        lanes.setdefault(run.partition, []).append(run)
    if len(lanes) == 1:
        await _carry_out_lane(call, topic, drafts, runs, now)
    else:
        await asyncio.gather(*(_carry_out_lane(call, topic, drafts, lane, now) for lane in lanes.values()))
    metrics = call.front.metrics
    for run in runs:
        if run.problem is None:
            metrics.records_in += len(run.positions)
        else:
            metrics.records_failed += len(run.positions)


async def _carry_out_lane(call: Call, topic: str, drafts: Sequence[RecordDraft], lane: list[Run], now: int) -> None:
    """One partition's batches, in order. Once one failed for a passing reason the rest are not sent: the client will
    send it again, and no later record shall have overtaken it."""
    passing: Problem | None = None
    for run in lane:
        if passing is not None:
            run.problem = passing
            continue
        try:
            run.produced = await call.broker.produce(
                topic,
                run.partition,
                _encode(drafts, run, now),
                timeout=call.options.request_timeout,
                idempotency=run.idempotency,
            )
        except BrokerError as error:
            run.problem = problem_of(error)
            if run.problem.status >= 500 or run.problem.status == TOO_MANY:
                passing = run.problem


def _encode(drafts: Sequence[RecordDraft], run: Run, now: int) -> bytes:
    positions = run.positions
    chosen = drafts if len(positions) == len(drafts) else [drafts[position] for position in positions]
    if run.sequenced is None:
        return encode_batch(chosen, base_timestamp=now)
    mine = run.sequenced
    return encode_batch(
        chosen,
        base_timestamp=now,
        producer_id=mine.producer_id,
        producer_epoch=mine.producer_epoch,
        base_sequence=mine.sequence,
    )


def raise_if_all_failed(runs: list[Run]) -> None:
    """When nothing of a request succeeded, the request itself failed: with "unknown" if any of it may have happened."""
    problems = [run.problem for run in runs if run.problem is not None]
    if problems and len(problems) == len(runs):
        raise next((problem for problem in problems if problem.code == UNKNOWN_OUTCOME), problems[0])

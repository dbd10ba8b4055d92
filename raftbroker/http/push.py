"""What pushed streams have in common: what is asked for, where it begins, where the records come from.

A stream without a group reads partitions on its own account and tells its client where it stands, so that the client
resumes with that (`0:42,1:17`: the next offset of each partition), on any node. A stream with a group shares the topic
with the group's other members, of whatever kind, and goes on from what the group has committed.
"""

import asyncio
import re
from collections.abc import Mapping

import msgspec

from raftbroker.broker.consumer import Consumer, ConsumerSettings
from raftbroker.broker.consumer_member import MemberSettings
from raftbroker.broker.consumer_reader import Reader, Reset, Taken
from raftbroker.broker.errors import UnknownTopic
from raftbroker.http.call import Call
from raftbroker.http.media import Format
from raftbroker.http.problems import BAD_REQUEST, NO_PARTITION, Problem
from raftbroker.http.produce import TIMESTAMP_MAX
from raftbroker.http.read import OFFSET_MAX, READ_COMMITTED, READ_UNCOMMITTED
from raftbroker.http.route import Parameter
from raftbroker.state.batch import Record

PARTITIONS_MAX = 256
"""Of a stream without a group: its position is told with every record."""
CHUNK_BYTES = 256 << 10
"""About how much a stream has in hand at once."""
CHUNK_RECORDS = 1_000
LOOK_SECONDS = 1.0
"""How often a stream that waits looks whether its client is still there."""
FILTERS_MAX = 100
CLIENT_ID = "raftbroker-push"

_POSITIONS = re.compile(r"\d{1,6}:\d{1,19}(,\d{1,6}:\d{1,19})*")


class Filter(msgspec.Struct, frozen=True):
    """Passes records of one of the keys, if there are any, that have all of the headers."""

    keys: frozenset[bytes] = frozenset()
    headers: tuple[tuple[str, bytes | None], ...] = ()
    """None for any value."""

    def passes(self, record: Record) -> bool:
        if self.keys and record.key not in self.keys:
            return False
        return all(
            any(name == wanted and (value is None or found == value) for name, found in record.headers)
            for wanted, value in self.headers
        )


class Asked(msgspec.Struct, frozen=True):
    """A stream's query, checked."""

    topic: str
    partitions: tuple[int, ...] | None
    offset: str
    """earliest, latest, or a number."""
    timestamp: int | None
    resume: Mapping[int, int]
    filter: Filter
    group: str | None
    format: Format
    committed: bool
    limit: int | None
    """So many records, and the stream ends."""


def asked_of(call: Call) -> Asked:
    """Raises Problem."""
    query = call.request.query
    group = query.get("group")
    numbers = _numbers(query.get("partitions"))
    timestamp = call.query_number("timestamp", None, least=0, most=TIMESTAMP_MAX)
    offset = query.get("offset", "latest")
    if not offset.isdigit() and offset not in (Reset.EARLIEST, Reset.LATEST):
        raise Problem(BAD_REQUEST, f"offset is {offset[:40]!r}; it must be a number, earliest or latest.")
    if offset.isdigit():
        call.query_number("offset", None, least=0, most=OFFSET_MAX)
        if numbers is None or len(numbers) != 1:
            raise Problem(BAD_REQUEST, "An offset that is a number needs partitions to name exactly one.")
    if group is not None and (numbers is not None or timestamp is not None or offset.isdigit()):
        raise Problem(
            BAD_REQUEST,
            "With group, partitions and positions are the group's: leave out partitions, timestamp and such an offset.",
        )
    resume = call.request.headers.get("Last-Event-ID") or query.get("last_event_id") or ""
    format_ = query.get("format", Format.JSON.value)
    if format_ not in [one.value for one in Format]:
        raise Problem(BAD_REQUEST, f"format is {format_[:40]!r}; it must be json, binary or string.")
    isolation = query.get("isolation", READ_COMMITTED)
    if isolation not in (READ_COMMITTED, READ_UNCOMMITTED):
        raise Problem(BAD_REQUEST, f"isolation is {READ_COMMITTED} or {READ_UNCOMMITTED}, not {isolation[:40]!r}.")
    return Asked(
        call.path("topic_name"),
        numbers,
        offset,
        timestamp,
        _resume(resume),
        _filter(query.getall("key", []), query.getall("header", [])),
        group,
        Format(format_),
        isolation == READ_COMMITTED,
        call.query_number("limit", None, least=1, most=OFFSET_MAX),
    )


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if re.fullmatch(r"\d{1,6}(,\d{1,6})*", text) is None:
        raise Problem(BAD_REQUEST, f"partitions is {text[:100]!r}; give numbers with commas between them.")
    return tuple(sorted({int(number) for number in text.split(",")}))


def _resume(text: str) -> dict[int, int]:
    if not text:
        return {}
    if _POSITIONS.fullmatch(text) is None:
        raise Problem(
            BAD_REQUEST, f"Last-Event-ID is {text[:100]!r}; give the id of an event as it came, for instance 0:42,1:17."
        )
    pairs = (one.split(":") for one in text.split(","))
    return {int(number): min(int(offset), OFFSET_MAX) for number, offset in pairs}


def _filter(keys: list[str], headers: list[str]) -> Filter:
    if len(keys) + len(headers) > FILTERS_MAX:
        raise Problem(BAD_REQUEST, f"key and header may be given {FILTERS_MAX} times together, not more.")
    split = (text.partition(":") for text in headers)
    return Filter(
        frozenset(key.encode() for key in keys),
        tuple((name, value.encode() if colon else None) for name, colon, value in split),
    )


def id_of(positions: Mapping[int, int]) -> bytes:
    """What a client resumes with."""
    return b",".join(b"%d:%d" % item for item in sorted(positions.items()))


# --- where records come from ------------------------------------------------------------------------------


class Source:
    """The records of one stream. `positions`: the next offset of each partition it has now."""

    @property
    def positions(self) -> dict[int, int]:
        raise NotImplementedError

    async def next(self, wait: float, records_max: int) -> list[Taken]:
        """The next records, none after `wait` seconds. What was given before has been sent. Raises BrokerError."""
        raise NotImplementedError

    async def close(self) -> None:
        pass


class Alone(Source):
    """Without a group."""

    def __init__(self, call: Call, asked: Asked, topic_id: str, reader: Reader) -> None:
        self._call = call
        self._asked = asked
        self._topic_id = topic_id
        self._reader = reader

    @property
    def positions(self) -> dict[int, int]:
        return {number: offset for (_, number), offset in self._reader.positions.items()}

    async def next(self, wait: float, records_max: int) -> list[Taken]:
        await self._take_in_new()
        deadline = asyncio.get_running_loop().time() + wait
        return await self._reader.read(CHUNK_BYTES, records_max, deadline)

    async def _take_in_new(self) -> None:
        """Partitions that the topic has been grown by are read from their beginning."""
        topic = await self._call.broker.find_topic(self._asked.topic)
        if topic.topic_id != self._topic_id:
            raise UnknownTopic("the topic has been deleted; another one has its name now", field="topic_name")
        count = len(topic.partitions)
        if self._asked.partitions is None and len(self._reader.positions) < min(count, PARTITIONS_MAX):
            new = {(self._asked.topic, number): 0 for number in range(count)}
            self._reader.assign({**new, **self._reader.positions})


class Shared(Source):
    """With a group."""

    def __init__(self, call: Call, consumer: Consumer) -> None:
        self._call = call
        self.consumer = consumer

    @property
    def positions(self) -> dict[int, int]:
        return {number: offset for (_, number), offset in self.consumer.positions.items()}

    async def next(self, wait: float, records_max: int) -> list[Taken]:
        return await self.consumer.poll(CHUNK_BYTES, wait, records_max=records_max)

    async def close(self) -> None:
        await self._call.broker.consumers.release(self.consumer, "its stream has ended")


async def open_alone(call: Call, asked: Asked) -> Alone:
    """Raises UnknownTopic and Problem."""
    topic = await call.broker.find_topic(asked.topic, timeout=call.options.request_timeout)
    numbers = asked.partitions or tuple(range(len(topic.partitions)))
    for number in (*numbers, *asked.resume):
        if number >= len(topic.partitions):
            raise Problem(
                NO_PARTITION, f"Topic {asked.topic!r} has partitions 0 to {len(topic.partitions) - 1}, not {number}."
            )
    if len(numbers) > PARTITIONS_MAX:
        raise Problem(
            BAD_REQUEST,
            f"A stream reads at most {PARTITIONS_MAX} partitions: name them in partitions, or give a group.",
        )
    begin = await asyncio.gather(*(_begin(call, asked, number) for number in numbers))
    reader = call.broker.consumers.reader(committed=asked.committed, reset=Reset.EARLIEST)
    reader.assign({(asked.topic, number): offset for number, offset in zip(numbers, begin, strict=True)})
    return Alone(call, asked, topic.topic_id, reader)


async def _begin(call: Call, asked: Asked, number: int) -> int:
    if number in asked.resume:
        return asked.resume[number]
    if asked.offset.isdigit() and asked.timestamp is None:
        return int(asked.offset)
    timeout = call.options.request_timeout
    if asked.timestamp is not None:
        found = await call.broker.offset_for_timestamp(asked.topic, number, asked.timestamp, timeout=timeout)
        if found is not None:
            return found.offset
    ends = await call.broker.offsets(asked.topic, number, timeout=timeout)
    if asked.offset == Reset.EARLIEST and asked.timestamp is None:
        return ends.start
    return ends.stable if asked.committed else ends.end


async def open_shared(call: Call, asked: Asked, group: str, *, acknowledged: bool) -> Shared:
    """`acknowledged`: its client says itself what is done. Raises UnknownTopic, and what the engine refuses."""
    await call.broker.find_topic(asked.topic, timeout=call.options.request_timeout)
    settings = ConsumerSettings(
        member=MemberSettings(client_id=CLIENT_ID, client_host=f"/{call.request.remote or ''}"),
        format=asked.format.value,
        reset=Reset(asked.offset),
        auto_commit=not acknowledged,
        commit_behind=not acknowledged,
        tells_gaps=True,
        committed=asked.committed,
    )
    begin = {(asked.topic, number): offset for number, offset in asked.resume.items()}
    consumer = call.broker.consumers.open(group, settings, begin)
    try:
        consumer.subscribe([asked.topic])
    except BaseException:
        await call.broker.consumers.release(consumer, "it could not subscribe")
        raise
    return Shared(call, consumer)


PARAMETERS = (
    Parameter("partitions", str, "Which partitions, with commas between them; all unless given."),
    Parameter(
        "offset",
        str,
        "Where to begin: earliest, latest (unless given), or a number with one partition. With group: where the group"
        " has committed nothing.",
        example="earliest",
    ),
    Parameter("timestamp", int, "Begin with the first records at or after this time (ms since 1970)."),
    Parameter("last_event_id", str, "Go on where another stream stood: as the header Last-Event-ID."),
    Parameter("key", str, "Only records with this key; may be given several times, for any of them."),
    Parameter("header", str, "Only records with this header, as name or name:value; several: all of them."),
    Parameter("group", str, "Shares the topic with the other members of this consumer group."),
    Parameter("format", str, "How keys and values are written: json (unless given), binary or string."),
    Parameter("isolation", str, "read_committed, unless given, or read_uncommitted."),
    Parameter("limit", int, "Send so many records, and no more.", example=1),
)

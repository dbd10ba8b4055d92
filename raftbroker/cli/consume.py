"""`raftbroker consume`: records of a topic on standard output, without a consumer group.

One thread per partition reads ahead into a bounded queue; the main thread writes. Records of one partition come in
order; partitions are interleaved as they arrive. Without --follow the command ends at the offsets that were next when
it began.
"""

import base64
import datetime
import os
import queue
import re
import sys
import threading
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from raftbroker.cli.api import Api, ApiError, ReadRecord
from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import DEFAULT_URL, TopicArgument, UrlOption, make_api, note

READ_BYTES_MAX = 4 << 20
POLL_MS = 10_000
QUEUE_PIECES_MAX = 64
OUT_OF_RANGE = 416
_FIELDS = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")
_PLACEHOLDER = re.compile(rb"\{(" + "|".join(_FIELDS).encode() + rb")\}")
_AGO = re.compile(r"(\d+)([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Consumed(msgspec.Struct, frozen=True):
    """A record with its bytes."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Position(msgspec.Struct, frozen=True):
    """Where to read one partition from, and where to stop (None: never)."""

    partition: int
    start: int
    end: int | None


def consume(
    topic: TopicArgument,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start at the oldest record.")] = False,
    offset: Annotated[
        int | None, typer.Option(help="Start at this offset; negative: that many before the end.")
    ] = None,
    from_time: Annotated[
        str | None,
        typer.Option(
            help="Start at the first record of this time or later: 2026-11-22T10:00, epoch milliseconds, or 15m, 2h, 1d"
            " ago."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new records until Ctrl-C.")] = False,
    partition: Annotated[int | None, typer.Option("--partition", "-p", help="Only this partition.", min=0)] = None,
    max_records: Annotated[int | None, typer.Option("--max", "-n", help="Stop after this many records.", min=1)] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="One record's line: {topic} {partition} {offset} {timestamp} {key} {value} {headers}, \\t, \\n.",
        ),
    ] = "{value}",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Read a topic's records.

    Starts at the oldest record, or with --follow at the end, unless told otherwise. With --json, keys and values that
    are not UTF-8 are given in base64 as key_base64 and value_base64."""
    if sum((from_beginning, offset is not None, from_time is not None)) > 1:
        raise CommandError("--from-beginning, --offset and --from-time exclude each other; give one")
    api = make_api(url)
    time_ms = parse_time(from_time, datetime.datetime.now().astimezone()) if from_time is not None else None
    positions = find_positions(
        api, topic, partition, offset, time_ms, from_end=follow and not from_beginning, follow=follow
    )
    template = _parse_format(format_)
    count = 0
    try:
        for piece in Reader(api, topic, positions):
            if max_records is not None:
                piece = piece[: max_records - count]
            render = _as_json if json else template.fill
            sys.stdout.buffer.write(b"".join([render(record) for record in piece]))
            sys.stdout.buffer.flush()
            count += len(piece)
            if count == max_records:
                break
    except BrokenPipeError:
        # The reader of our output has seen enough. Standard output goes nowhere from now on, so that the
        # interpreter's last flush does not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        if not follow:
            raise
    if sys.stderr.isatty() and count == 0 and not follow:
        note(f"no records in {topic} there")


def parse_time(text: str, now: datetime.datetime, option: str = "--from-time") -> int:
    """Epoch milliseconds. Raises CommandError."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return int((now.timestamp() - int(ago[1]) * _UNIT_SECONDS[ago[2]]) * 1000)
    if text.isascii() and text.isdigit() and len(text) > 8:
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} {text}: must be a time such as 2026-11-22T10:00 (local, or with +02:00), epoch milliseconds,"
            " or how long ago: 30s, 15m, 2h, 1d"
        ) from None
    return int(moment.timestamp() * 1000)


def find_positions(
    api: Api,
    topic: str,
    only: int | None,
    offset: int | None,
    time_ms: int | None,
    *,
    from_end: bool,
    follow: bool,
) -> list[Position]:
    """Where each partition is read from and to."""
    numbers = [found.partition for found in api.partitions(topic)]
    if only is not None:
        if only not in numbers:
            raise CommandError(f"{topic} has no partition {only}; it has 0 to {len(numbers) - 1}")
        numbers = [only]
    positions = []
    for number in numbers:
        bounds = api.offsets(topic, number)
        if offset is not None:
            start = offset if offset >= 0 else bounds.end_offset + offset
            start = max(bounds.beginning_offset, start)
        elif time_ms is not None:
            start = api.offset_for_time(topic, number, time_ms)
        else:
            start = bounds.end_offset if from_end else bounds.beginning_offset
        positions.append(Position(number, start, None if follow else bounds.end_offset))
    return positions


class Reader:
    """Reads several partitions at once; iterating gives pieces of consecutive records of one partition."""

    def __init__(self, api: Api, topic: str, positions: list[Position]) -> None:
        self._api = api
        self._topic = topic
        self._positions = [found for found in positions if found.end is None or found.start < found.end]
        self._pieces: queue.Queue[list[Consumed] | CommandError | None] = queue.Queue(QUEUE_PIECES_MAX)

    def __iter__(self) -> Iterator[list[Consumed]]:
        for position in self._positions:
            threading.Thread(
                target=self._read, args=(position,), name=f"partition-{position.partition}", daemon=True
            ).start()
        running = len(self._positions)
        while running:
            piece = self._pieces.get()
            if piece is None:
                running -= 1
            elif isinstance(piece, CommandError):
                raise piece
            else:
                yield piece

    def _read(self, position: Position) -> None:
        try:
            for piece in self._pieces_of(position):
                self._pieces.put(piece)
            self._pieces.put(None)
        except CommandError as error:
            self._pieces.put(error)

    def _pieces_of(self, position: Position) -> Iterator[list[Consumed]]:
        at = position.start
        while position.end is None or at < position.end:
            wait_ms = POLL_MS if position.end is None else 1000
            try:
                records = self._api.read(self._topic, position.partition, at, wait_ms=wait_ms, bytes_max=READ_BYTES_MAX)
            except ApiError as error:
                if error.code != OUT_OF_RANGE or (moved := self._first_left(position.partition, at)) is None:
                    raise
                note(
                    f"{self._topic}/{position.partition}: offsets {at} to {moved - 1} are gone by retention or deletion"
                )
                at = moved
                continue
            if records:
                at = records[-1].offset + 1
                piece = [self._decode(record) for record in records]
                yield [record for record in piece if position.end is None or record.offset < position.end]

    def _first_left(self, partition: int, at: int) -> int | None:
        """The log's start where `at` lies below it: records were deleted while we read."""
        start = self._api.offsets(self._topic, partition).beginning_offset
        return start if start > at else None

    def _decode(self, record: ReadRecord) -> Consumed:
        return Consumed(
            self._topic,
            record.partition,
            record.offset,
            record.timestamp,
            _decode_base64(record.key),
            _decode_base64(record.value),
            [(header.name, _decode_base64(header.value)) for header in record.headers],
        )


def _decode_base64(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


class Template(msgspec.Struct, frozen=True):
    """A parsed --format: literal bytes and field names in turn, a literal first."""

    parts: list[bytes]

    def fill(self, record: Consumed) -> bytes:
        pieces = [part if index % 2 == 0 else _field(record, part.decode()) for index, part in enumerate(self.parts)]
        return b"".join(pieces) + b"\n"


def _parse_format(text: str) -> Template:
    plain = text.replace("\\t", "\t").replace("\\n", "\n").encode()
    return Template(_PLACEHOLDER.split(plain))


def _field(record: Consumed, name: str) -> bytes:
    match name:
        case "key":
            return record.key or b""
        case "value":
            return record.value or b""
        case "headers":
            return b",".join(name.encode() + b"=" + (value or b"") for name, value in record.headers)
        case _:
            return str(getattr(record, name)).encode()


class JsonRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The line that --json writes; absent means null."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    key: str | msgspec.UnsetType | None = msgspec.UNSET
    value: str | msgspec.UnsetType | None = msgspec.UNSET
    key_base64: str | msgspec.UnsetType = msgspec.UNSET
    value_base64: str | msgspec.UnsetType = msgspec.UNSET
    headers: list[tuple[str, str | None]] = []


def _as_json(record: Consumed) -> bytes:
    key, key_base64 = _text_or_base64(record.key)
    value, value_base64 = _text_or_base64(record.value)
    headers = [(name, None if data is None else data.decode(errors="replace")) for name, data in record.headers]
    line = JsonRecord(
        record.topic, record.partition, record.offset, record.timestamp, key, value, key_base64, value_base64, headers
    )
    return msgspec.json.encode(line) + b"\n"


def _text_or_base64(data: bytes | None) -> tuple[str | msgspec.UnsetType | None, str | msgspec.UnsetType]:
    if data is None:
        return None, msgspec.UNSET
    try:
        return data.decode(), msgspec.UNSET
    except UnicodeDecodeError:
        return msgspec.UNSET, base64.b64encode(data).decode()

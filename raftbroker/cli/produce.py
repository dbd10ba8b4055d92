"""`raftbroker produce`: records from the command line, a file or standard input, each exactly once.

Lines are read as bytes and sent as they are. One request is under way at a time, so records of one partition keep
their order; a request that fails is repeated with the same Idempotency-Key until it is answered or patience ends.
"""

import base64
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer

from raftbroker.cli.api import Api, ApiError, ProduceReport
from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import DEFAULT_URL, JsonOption, TopicArgument, UrlOption, counted, make_api, say, write_json

BATCH_BYTES_MAX = 4 << 20
"""Keys and values of one request, before base64; well inside a node's default bound on bodies."""


class HeaderToSend(msgspec.Struct, frozen=True):
    name: str
    value: str


class RecordToSend(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record in the embedded binary format: base64 text."""

    value: str
    key: str | None = None
    headers: list[HeaderToSend] = []


class ProduceBody(msgspec.Struct, frozen=True):
    records: list[RecordToSend]


class PartitionSummary(msgspec.Struct):
    partition: int
    records: int
    first_offset: int
    last_offset: int


class Line(msgspec.Struct, frozen=True):
    """A record's key and value, and how many bytes of the input it took."""

    key: bytes | None
    value: bytes
    consumed: int


def produce(
    topic: TopicArgument,
    record: Annotated[
        list[str] | None, typer.Argument(help="Records; without any, see --file.", metavar="[RECORD]...")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="The key of every record.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Read records from this file, one a line; - is standard input.", allow_dash=True
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", help="Records in one request.", min=1, max=10_000)] = 500,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header of every record.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", help="The partition of every record.", min=0)
    ] = None,
    key_separator: Annotated[
        str | None, typer.Option("--key-separator", help="Lines are KEY, this, VALUE.", metavar="TEXT")
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds to keep trying each request.", min=1)] = 60.0,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Produce records to a topic, each exactly once.

    Records come from the arguments, from --file, or from standard input, one a line. A record with a key goes to the
    partition that any Kafka client would choose for it."""
    sender = Sender(make_api(url), topic, partition, [_parse_header(item) for item in header or []], patience)
    started = time.monotonic()
    if record:
        if file is not None:
            raise CommandError("records are given both as arguments and with --file; choose one")
        lines = (_parse_line(text.encode(), key, key_separator) for text in record)
        sender.send_all(lines, batch)
    elif file is not None and str(file) != "-":
        try:
            with file.open("rb") as source:
                _send_stream(sender, source, file.stat().st_size, str(file), batch, key, key_separator)
        except OSError as error:
            raise CommandError(f"cannot read {file}: {error.strerror}") from error
    else:
        if file is None and sys.stdin.isatty():
            raise CommandError("no records; give them as arguments, with --file, or through standard input (--file -)")
        _send_stream(sender, sys.stdin.buffer, None, "standard input", batch, key, key_separator)
    if json:
        write_json(sender.summaries)
        return
    where = "; ".join(f"partition {s.partition}: {_offsets(s)}" for s in sender.summaries[:8])
    more = f"; and {len(sender.summaries) - 8} partitions more" if len(sender.summaries) > 8 else ""
    took = time.monotonic() - started
    say(f"produced {counted(sender.acknowledged, 'record')} to {topic} in {took:.1f} s ({where or 'nothing'}{more})")


def _offsets(summary: PartitionSummary) -> str:
    if summary.records == 1:
        return f"offset {summary.first_offset}"
    return f"offsets {summary.first_offset} to {summary.last_offset}"


def _parse_header(item: str) -> HeaderToSend:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise CommandError(f"--header {item}: must be NAME=VALUE, for instance --header source=import")
    return HeaderToSend(name, base64.b64encode(value.encode()).decode())


def _parse_line(line: bytes, key: str | None, separator: str | None) -> Line:
    """Raises CommandError for a line without the separator."""
    own_key = key.encode() if key is not None else None
    if separator is None:
        return Line(own_key, line, len(line))
    before, found, after = line.partition(separator.encode())
    if not found:
        text = line[:60].decode(errors="replace")
        raise CommandError(f"a record has no key separator {separator!r}: {text!r}; nothing after it was sent")
    return Line(before, after, len(line))


def _send_stream(
    sender: "Sender",
    source: BinaryIO,
    size: int | None,
    name: str,
    batch: int,
    key: str | None,
    separator: str | None,
) -> None:
    from rich.console import Console  # loaded only where it is used: other commands start faster
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=size, records=0)

        def sent(consumed: int) -> None:
            progress.update(task, advance=consumed, records=sender.acknowledged)

        lines = (_parse_line(line.rstrip(b"\r\n"), key, separator) for line in source)
        sender.send_all(lines, batch, sent)


class Sender:
    """Sends batches one after the other and keeps count of what is acknowledged."""

    def __init__(
        self, api: Api, topic: str, partition: int | None, headers: list[HeaderToSend], patience: float
    ) -> None:
        self.acknowledged = 0
        self._api = api
        self._topic = topic
        self._partition = partition
        self._headers = headers
        self._patience = patience
        self._run = uuid.uuid4().hex
        self._requests = 0
        self._by_partition: dict[int, PartitionSummary] = {}

    @property
    def summaries(self) -> list[PartitionSummary]:
        return sorted(self._by_partition.values(), key=lambda summary: summary.partition)

    def send_all(self, lines: Iterable[Line], batch: int, sent: Callable[[int], None] | None = None) -> None:
        """Raises CommandError at the first batch that is not acknowledged; says how many records were before it."""
        for group in grouped(lines, batch, BATCH_BYTES_MAX):
            try:
                self._send(group)
            except ApiError as error:
                raise ApiError(error.code, self._failure(error, len(group))) from error
            except CommandError as error:
                raise CommandError(self._failure(error, len(group))) from error
            if sent is not None:
                sent(sum(line.consumed + 1 for line in group))

    def _failure(self, error: CommandError, size: int) -> str:
        before = (
            f"{self.acknowledged:,} records before are acknowledged"
            if self.acknowledged
            else "none was acknowledged before"
        )
        return f"{counted(size, 'record')} could not be produced to {self._topic} ({before}): {error}"

    def _send(self, group: list[Line]) -> None:
        records = [
            RecordToSend(
                base64.b64encode(line.value).decode(),
                None if line.key is None else base64.b64encode(line.key).decode(),
                self._headers,
            )
            for line in group
        ]
        body = msgspec.json.encode(ProduceBody(records))
        self._requests += 1
        idempotency_key = f"{self._run}-{self._requests}"
        deadline = time.monotonic() + self._patience
        pause = 0.05
        while True:
            left = max(1.0, deadline - time.monotonic())
            report = self._api.produce(self._topic, self._partition, body, idempotency_key, patience=left)
            failed = [found for found in report.offsets if found.error_code]
            if not failed:
                break
            code, reason = failed[0].error_code or 0, failed[0].error
            retriable = code // 100 in (429, 500, 503, 507) or code in (429, 503, 507)
            if not retriable or time.monotonic() + pause > deadline:
                raise ApiError(code, f"{reason} (error {code}, {counted(len(failed), 'record')} of {len(group)})")
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        self._count(report, len(group))

    def _count(self, report: ProduceReport, size: int) -> None:
        if len(report.offsets) != size:
            raise CommandError(f"the node answered for {len(report.offsets)} records instead of {size}")
        for found in report.offsets:
            if found.partition is None or found.offset is None:
                raise CommandError("the node answered without an offset and without an error")
            summary = self._by_partition.get(found.partition)
            if summary is None:
                self._by_partition[found.partition] = PartitionSummary(found.partition, 1, found.offset, found.offset)
            else:
                summary.records += 1
                summary.last_offset = max(summary.last_offset, found.offset)
        self.acknowledged += size


def grouped(lines: Iterable[Line], count_max: int, bytes_max: int) -> Iterator[list[Line]]:
    """Lines in order, in groups of at most `count_max` lines and, but for a single longer line, `bytes_max` bytes."""
    group: list[Line] = []
    size = 0
    for line in lines:
        length = len(line.value) + len(line.key or b"") + 64
        if group and (len(group) == count_max or size + length > bytes_max):
            yield group
            group, size = [], 0
        group.append(line)
        size += length
    if group:
        yield group

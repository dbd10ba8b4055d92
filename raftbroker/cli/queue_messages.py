"""`raftbroker queue send` and `queue receive`.

A request to send that is not answered is repeated under its Idempotency-Key, so each message is sent once. A message
that is received is acknowledged after it was written out: when this ends in between, it comes again.
"""

import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer

from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import DEFAULT_URL, JsonOption, UrlOption, counted, make_api, note, say, write_json
from raftbroker.cli.produce import BATCH_BYTES_MAX, Line, grouped
from raftbroker.cli.queue_api import Message, MessageToSend, Queues, Receipt, ReceiveBody

POLL_MS = 20_000
_encode_line = msgspec.json.Encoder().encode

QueueArgument = Annotated[str, typer.Argument(help="The queue's name.")]


class SentSummary(msgspec.Struct, frozen=True):
    sent: int
    duplicates: int
    first_id: str | None
    last_id: str | None


class _Template(msgspec.Struct, frozen=True):
    """What all messages of one command have in common."""

    is_json: bool
    key: str | None
    headers: dict[str, str]
    delay_ms: int
    ttl_ms: int | None
    priority: int | None
    receipt: Receipt | None

    def message(self, body: bytes) -> MessageToSend:
        if self.is_json:
            try:
                msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                shown = body[:60].decode(errors="replace")
                raise CommandError(f"{shown!r} is not JSON: {error}; leave --format json away to send text") from error
        return MessageToSend(
            body=msgspec.Raw(body) if self.is_json else msgspec.UNSET,
            body_base64=None if self.is_json else body,
            key=self.key,
            headers=self.headers,
            delay_ms=self.delay_ms,
            ttl_ms=self.ttl_ms,
            priority=self.priority,
            receipt=self.receipt,
        )


class _Sender:
    def __init__(self, queues: Queues, queue: str, template: _Template, patience: float) -> None:
        self.sent = 0
        self.duplicates = 0
        self.first_id: str | None = None
        self.last_id: str | None = None
        self._queues = queues
        self._queue = queue
        self._template = template
        self._patience = patience
        self._run = uuid.uuid4().hex
        self._requests = 0

    def send_all(self, lines: Iterable[Line], batch: int, told: Callable[[int], None] | None = None) -> None:
        """Raises CommandError at the first request that is not acknowledged; says how many messages were before."""
        for group in grouped(lines, batch, BATCH_BYTES_MAX):
            self._requests += 1
            messages = [self._template.message(line.value) for line in group]
            try:
                sent = self._queues.send(
                    self._queue, messages, f"{self._run}-{self._requests}", patience=self._patience
                )
            except CommandError as error:
                before = f"{self.sent:,} messages before are sent" if self.sent else "none was sent before"
                raise CommandError(f"{counted(len(group), 'message')} could not be sent ({before}): {error}") from error
            self.sent += len(sent)
            self.duplicates += sum(message.duplicate for message in sent)
            self.first_id = self.first_id or sent[0].id
            self.last_id = sent[-1].id
            if told is not None:
                told(sum(line.consumed + 1 for line in group))


def _parse_headers(items: list[str] | None) -> dict[str, str]:
    headers = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise CommandError(f"--header {item}: must be NAME=VALUE, for instance --header source=import")
        headers[name] = value
    return headers


def _receipt(text: str | None) -> Receipt | None:
    if text is None:
        return None
    return Receipt(url=text) if "://" in text else Receipt(queue=text)


def send(
    queue: QueueArgument,
    message: Annotated[
        list[str] | None, typer.Argument(help="Messages; without any, see --file.", metavar="[MESSAGE]...")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Read messages from this file, one a line; - is standard input.", allow_dash=True
        ),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="What the bodies are: text, or json.")] = "text",
    batch: Annotated[int, typer.Option("--batch", "-b", help="Messages in one request.", min=1, max=1000)] = 500,
    key: Annotated[str | None, typer.Option("--key", "-k", help="The key of every message.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header of every message.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 9; higher goes first.", min=0, max=9)] = None,
    delay: Annotated[int, typer.Option(help="Deliver them after so many ms.", min=0, metavar="MS")] = 0,
    ttl: Annotated[int | None, typer.Option(help="Drop them after so many ms.", min=1, metavar="MS")] = None,
    receipt: Annotated[
        str | None, typer.Option(help="Where their fate is told: a queue, or a URL.", metavar="QUEUE|URL")
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds to keep trying each request.", min=1)] = 60.0,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Send messages to a queue, each exactly once.

    They come from the arguments, from --file, or from standard input, one a line."""
    if format_ not in ("text", "json"):
        raise CommandError(f"--format {format_}: must be text or json")
    template = _Template(format_ == "json", key, _parse_headers(header), delay, ttl, priority, _receipt(receipt))
    sender = _Sender(Queues(make_api(url)), queue, template, patience)
    started = time.monotonic()
    if message:
        if file is not None:
            raise CommandError("messages are given both as arguments and with --file; choose one")
        sender.send_all((Line(None, text.encode(), len(text)) for text in message), batch)
    elif file is not None and str(file) != "-":
        try:
            with file.open("rb") as source:
                _send_stream(sender, source, file.stat().st_size, str(file), batch)
        except OSError as error:
            raise CommandError(f"cannot read {file}: {error.strerror}") from error
    else:
        if file is None and sys.stdin.isatty():
            raise CommandError("no messages; give them as arguments, with --file, or through standard input (--file -)")
        _send_stream(sender, sys.stdin.buffer, None, "standard input", batch)
    if json:
        write_json(SentSummary(sender.sent, sender.duplicates, sender.first_id, sender.last_id))
        return
    ids = f": {sender.first_id}" + (f" to {sender.last_id}" if sender.sent > 1 else "") if sender.sent else ""
    say(f"sent {counted(sender.sent, 'message')} to {queue} in {time.monotonic() - started:.1f} s{ids}")


def _send_stream(sender: _Sender, source: BinaryIO, size: int | None, name: str, batch: int) -> None:
    from rich.console import Console  # loaded only where it is used: other commands start faster
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[messages]:,} messages"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=size, messages=0)

        def told(consumed: int) -> None:
            progress.update(task, advance=consumed, messages=sender.sent)

        stripped = (line.rstrip(b"\r\n") for line in source)
        sender.send_all((Line(None, line, len(line)) for line in stripped), batch, told)


def receive(
    queue: QueueArgument,
    most: Annotated[int, typer.Option("--max", "-n", help="How many messages at most.", min=1)] = 1,
    follow: Annotated[bool, typer.Option("--follow", "-F", help="Go on until Ctrl-C.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the first message.", min=0, max=60)] = 5.0,
    lock: Annotated[
        int | None, typer.Option(help="Hold them for so many ms; as the queue's lock.ms unless given.", min=1)
    ] = None,
    consumer: Annotated[str | None, typer.Option(help="The name to receive under.")] = None,
    no_ack: Annotated[
        bool, typer.Option("--no-ack", help="Do not acknowledge: they come again when the lock runs out.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Receive messages, write their bodies one a line, and acknowledge what was written.

    With --json each line is a whole message, with its lock's token."""
    queues = Queues(make_api(url))
    left = most
    received = 0
    while follow or left > 0:
        count = min(1000, most if follow else left)
        asked = ReceiveBody(count, POLL_MS if follow else int(wait * 1000), lock, consumer)
        found = queues.receive(queue, asked)
        if not found and not follow:
            break
        for message in found:
            _write(message, json)
        sys.stdout.buffer.flush()
        received += len(found)
        left -= len(found)
        if found and not no_ack:
            _acknowledge(queues, queue, found)
    if not received and not json:
        note(f"{queue} has no message to receive")


def _write(message: Message, json: bool) -> None:
    sys.stdout.buffer.write((_encode_line(message) if json else message.content) + b"\n")


def _acknowledge(queues: Queues, queue: str, found: list[Message]) -> None:
    """Raises CommandError where a lock had run out: the message was written, and will come again."""
    lost = queues.ack(queue, [message.lock_token for message in found])
    if lost:
        raise CommandError(
            f"{counted(len(lost), 'message')} written but not acknowledged, they will come again: {lost[0].message}"
        )

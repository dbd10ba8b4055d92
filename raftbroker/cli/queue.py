"""`raftbroker queue ...`: make queues and change them, look into them, bring dead messages back, empty and delete them.

`queue send` and `queue receive` are in `queue_messages`.
"""

import datetime
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import (
    DEFAULT_URL,
    JsonOption,
    UrlOption,
    counted,
    make_api,
    note,
    say,
    show_table,
    write_json,
)
from raftbroker.cli.queue_api import Message, Queue, Queues, Redrive
from raftbroker.cli.queue_messages import QueueArgument, receive, send

app = typer.Typer(no_args_is_help=True, help="Make, fill, drain, look into and delete queues.")

ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        "-c",
        metavar="NAME=VALUE",
        help="lock.ms, max.deliveries, dead.letter.queue, retention.ms, dedup.window.ms or ordered.by.key; an empty "
        "value for its default.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_SHOWN_BYTES_MAX = 120


def _parse_configs(items: list[str] | None) -> dict[str, int | str | bool | None]:
    """Numbers and truth values as such; nothing behind the = is null."""
    parsed: dict[str, int | str | bool | None] = {}
    for item in items or []:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not equals:
            raise CommandError(f"--config {item}: must be NAME=VALUE, for instance --config lock.ms=60000")
        if text in ("true", "false"):
            parsed[name] = text == "true"
        elif name == "dead.letter.queue" or not text.removeprefix("-").isdigit():
            parsed[name] = text or None
        else:
            parsed[name] = int(text)
    return parsed


@app.command(
    epilog="Examples:\n\n  raftbroker queue create orders\n\n"
    "  raftbroker queue create orders --config dead.letter.queue=orders-dead --config max.deliveries=5\n\n"
    "  raftbroker queue create payments -c ordered.by.key=true -c lock.ms=60000"
)
def create(
    queue: QueueArgument, config: ConfigOption = None, url: UrlOption = DEFAULT_URL, json: JsonOption = False
) -> None:
    """Make a queue, or change the configs of one that is there; those not named stay as they are."""
    made = Queues(make_api(url)).put(queue, _parse_configs(config))
    if json:
        write_json(made)
        return
    _show_configs(made)


def _show_configs(queue: Queue) -> None:
    rows = [(name, "" if value is None else _text(value)) for name, value in queue.configs.items()]
    show_table(f"queue {queue.name}", ["config", "value"], rows)


def _text(value: int | str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@app.command(
    "list",
    epilog="Examples:\n\n  raftbroker queue list\n\n  raftbroker queue list orders\n\n  raftbroker queue list --json",
)
def list_queues(
    queue: Annotated[list[str] | None, typer.Argument(help="Only these, with configs and totals.")] = None,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Show all queues, or some in detail: how many messages in which state, their age, rates."""
    queues = Queues(make_api(url))
    found = [queues.get(name) for name in queue] if queue else queues.all()
    if json:
        write_json(found)
        return
    columns = ["queue", "depth", "available", "delayed", "blocked", "locked", "dead", "oldest", "sent/s", "acked/s"]
    rows = [
        (
            one.name,
            *(one.depth, one.available, one.delayed, one.blocked, one.locked, one.dead + one.moving),
            _age(one.oldest_age_ms) if one.depth else "",
            f"{one.rates.sent:.1f}",
            f"{one.rates.acknowledged:.1f}",
        )
        for one in found
    ]
    show_table("", columns, rows, right=columns[1:])
    for one in found if queue else ():
        _show_configs(one)
        totals = [(name.replace("_", " "), getattr(one.totals, name)) for name in one.totals.__struct_fields__]
        show_table(f"queue {one.name}", ["messages since it was made", "count"], totals, right=["count"])


def _age(ms: int) -> str:
    return str(datetime.timedelta(seconds=ms // 1000))


app.command(
    epilog="Examples:\n\n  raftbroker queue send orders 'one message' 'and another'\n\n"
    '  raftbroker queue send orders --format json \'{"item": "tea"}\' --priority 9 --delay 5000\n\n'
    "  raftbroker queue send orders --file orders.txt --key customer-7"
)(send)
app.command(
    epilog="Examples:\n\n  raftbroker queue receive orders\n\n  raftbroker queue receive orders --max 100 --follow\n\n"
    "  raftbroker queue receive orders --no-ack --json | jq ."
)(receive)


@app.command(
    epilog="Examples:\n\n  raftbroker queue peek orders --max 3\n\n  raftbroker queue peek orders --dead\n\n"
    "  raftbroker queue peek orders-dead"
)
def peek(
    queue: QueueArgument,
    most: Annotated[int, typer.Option("--max", "-n", help="How many messages at most.", min=1, max=1000)] = 10,
    dead: Annotated[bool, typer.Option("--dead", help="Those kept aside as dead.")] = False,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Look at the messages that would be received next, without taking them."""
    queues = Queues(make_api(url))
    found = queues.peek(queue, most, dead=dead)
    if json:
        write_json(found)
    elif dead and not found and (elsewhere := queues.get(queue).configs.get("dead.letter.queue")):
        note(f"dead messages of {queue} go to {elsewhere}: raftbroker queue peek {elsewhere}")
    else:
        show_table("", ["id", "sent", "deliveries", "key", "body", "died"], _rows(found), right=["deliveries"])


def _rows(messages: Sequence[Message]) -> list[tuple[object, ...]]:
    return [
        (
            one.id,
            datetime.datetime.fromtimestamp(one.timestamp / 1000).astimezone().isoformat(timespec="milliseconds"),
            one.delivery_count,
            one.key or "",
            _shorten(one.content),
            f"in {one.dead_letter.queue}: {one.dead_letter.reason}" if one.dead_letter is not None else "",
        )
        for one in messages
    ]


def _shorten(content: bytes) -> str:
    text = content[:_SHOWN_BYTES_MAX].decode(errors="replace")
    return text + ("..." if len(content) > _SHOWN_BYTES_MAX else "")


@app.command(
    epilog="Examples:\n\n  raftbroker queue redrive orders\n\n  raftbroker queue redrive orders --max 100\n\n"
    "  raftbroker queue redrive orders --from old-dead-letters"
)
def redrive(
    queue: QueueArgument,
    most: Annotated[int | None, typer.Option("--max", "-n", help="How many messages at most.", min=1)] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Bring them back from this queue, not from its dead-letter queue.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Bring a queue's dead messages back into it."""
    count = Queues(make_api(url)).redrive(queue, Redrive(most, source))
    say(f"{counted(count, 'message')} brought back to {queue}")


@app.command(epilog="Example:\n\n  raftbroker queue purge orders --yes")
def purge(queue: QueueArgument, yes: YesOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Drop all messages of a queue, for good; those that are locked, delayed or dead as well."""
    _confirm(f"purging {queue}", f"Drop all messages of {queue}?", yes)
    say(f"dropped {counted(Queues(make_api(url)).purge(queue), 'message')} of {queue}")


@app.command(epilog="Example:\n\n  raftbroker queue delete orders --yes")
def delete(queue: QueueArgument, yes: YesOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Delete a queue and all its messages, for good."""
    _confirm(f"deleting {queue}", f"Delete {queue} and all its messages?", yes)
    Queues(make_api(url)).delete(queue)
    say(f"deleted {queue}")


def _confirm(what: str, question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{what} cannot be undone; say --yes to do it without being asked")
    typer.confirm(question, abort=True)

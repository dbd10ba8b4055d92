"""`raftbroker webhook ...`: make webhooks and change them, see how they fare, pause, resume, delete them."""

import datetime
import os
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from raftbroker.cli.api import Api, decode
from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import DEFAULT_URL, JsonOption, UrlOption, make_api, say, show_table, write_json

app = typer.Typer(no_args_is_help=True, help="Push topics and queues to URLs.")

SECRET_VARIABLE = "RAFTBROKER_WEBHOOK_SECRET"  # noqa: S105 - a name
WebhookArgument = Annotated[str, typer.Argument(help="The webhook's name.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Delivery(msgspec.Struct, frozen=True):
    partition: int | None
    node: int | None
    committed: int | None
    lag: int | None
    delivered: int
    dead: int
    skipped: int
    failures: int
    last_error: str | None
    last_error_at: int | None
    last_success_at: int | None


class Webhook(msgspec.Struct, frozen=True):
    name: str
    topic: str | None
    queue: str | None
    url: str
    batch_size: int
    concurrency: int
    timeout_ms: int
    backoff_ms: int
    backoff_ms_max: int
    attempts: int
    dead_letter_queue: str | None
    paused: bool
    created_at: int
    consumer_group: str | None
    state: str
    lag: int | None
    last_error: str | None
    last_error_at: int | None
    deliveries: list[Delivery]

    @property
    def source(self) -> str:
        return f"topic {self.topic}" if self.topic is not None else f"queue {self.queue}"


class WebhookList(msgspec.Struct, frozen=True):
    webhooks: list[Webhook]


class Put(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is left out stays as it is."""

    topic: str | None = None
    queue: str | None = None
    start: str | None = None
    url: str | None = None
    secret: str | None = None
    batch_size: int | None = None
    concurrency: int | None = None
    timeout_ms: int | None = None
    backoff_ms: int | None = None
    backoff_ms_max: int | None = None
    attempts: int | None = None
    dead_letter_queue: str | None = None


def _path(name: str, *parts: str) -> str:
    return "/".join(("/v1/webhooks", quote(name, safe=""), *parts))


def _get(api: Api, name: str) -> Webhook:
    return api.get(_path(name), Webhook)


def _read_secret(file: str | None) -> str | None:
    """Never from the command line, which other users of the machine can see."""
    if file is None:
        return os.environ.get(SECRET_VARIABLE)
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--secret-file {file}: cannot be read: {error}") from error


@app.command(
    epilog="Examples:\n\n  openssl rand -hex 32 > secret\n\n"
    "  raftbroker webhook create billing --topic orders --to https://billing.example/hook --secret-file secret\n\n"
    "  raftbroker webhook create billing --batch-size 500 --dead-letter-queue orders-dead"
)
def create(
    webhook: WebhookArgument,
    topic: Annotated[str | None, typer.Option(help="The topic whose records are sent.")] = None,
    queue: Annotated[str | None, typer.Option(help="Or the queue whose messages are.")] = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Where they are posted to.")] = None,
    secret_file: Annotated[
        str | None,
        typer.Option(
            help=f"A file with the secret that signs requests, - for standard input; else ${SECRET_VARIABLE}."
        ),
    ] = None,
    latest: Annotated[bool, typer.Option("--latest", help="Begin with what comes from now on.")] = False,
    batch_size: Annotated[int | None, typer.Option(help="Records in one request at most.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at once for a partition, or the queue.")] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="The receiver must have answered by then.")] = None,
    backoff_ms: Annotated[int | None, typer.Option(help="The pause after the first failure.")] = None,
    backoff_ms_max: Annotated[int | None, typer.Option(help="The longest pause.")] = None,
    attempts: Annotated[int | None, typer.Option(help="After so many failures, to the dead-letter queue.")] = None,
    dead_letter_queue: Annotated[str | None, typer.Option(help="Where a topic's failing batches go.")] = None,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Make a webhook, or change one that is there; what is not named stays."""
    asked = Put(
        topic=topic,
        queue=queue,
        start="latest" if latest else None,
        url=to,
        secret=_read_secret(secret_file),
        batch_size=batch_size,
        concurrency=concurrency,
        timeout_ms=timeout_ms,
        backoff_ms=backoff_ms,
        backoff_ms_max=backoff_ms_max,
        attempts=attempts,
        dead_letter_queue=dead_letter_queue,
    )
    made = decode(make_api(url).send("PUT", _path(webhook), asked, repeatable=True), Webhook)
    if json:
        write_json(made)
    else:
        _show(made)


@app.command("list", epilog="Examples:\n\n  raftbroker webhook list\n\n  raftbroker webhook list --json")
def list_webhooks(url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """Show all webhooks: their state, lag and last error."""
    found = make_api(url).get("/v1/webhooks", WebhookList).webhooks
    if json:
        write_json(found)
        return
    rows = [(one.name, one.source, one.url, one.state, _number(one.lag), one.last_error or "") for one in found]
    show_table("", ["webhook", "source", "url", "state", "lag", "last error"], rows, right=["lag"])


@app.command(epilog="Example:\n\n  raftbroker webhook describe billing")
def describe(webhook: WebhookArgument, url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """Show one webhook: what was set, and how each of its deliveries fares."""
    found = _get(make_api(url), webhook)
    if json:
        write_json(found)
    else:
        _show(found)


def _show(webhook: Webhook) -> None:
    fields = ("url", "batch_size", "concurrency", "timeout_ms", "backoff_ms", "backoff_ms_max", "attempts")
    rows = [("source", webhook.source), *((name, getattr(webhook, name)) for name in fields)]
    rows += [("dead_letter_queue", webhook.dead_letter_queue or ""), ("state", webhook.state)]
    show_table(f"webhook {webhook.name}", ["field", "value"], rows)
    columns = ["partition", "node", "committed", "lag", "delivered", "dead", "skipped", "failures", "last error", "at"]
    shown = [
        (
            *map(_number, (one.partition, one.node, one.committed, one.lag)),
            *(one.delivered, one.dead, one.skipped, one.failures, one.last_error or "", _time(one.last_error_at)),
        )
        for one in webhook.deliveries
    ]
    show_table("deliveries", columns, shown, right=columns[:8])


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _time(ms: int | None) -> str:
    if ms is None:
        return ""
    return datetime.datetime.fromtimestamp(ms / 1000).astimezone().isoformat(timespec="seconds")


@app.command(epilog="Example:\n\n  raftbroker webhook pause billing")
def pause(webhook: WebhookArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Stop deliveries; the position stays."""
    decode(make_api(url).send("POST", _path(webhook, "pause"), repeatable=True), Webhook)
    say(f"paused {webhook}")


@app.command(epilog="Example:\n\n  raftbroker webhook resume billing")
def resume(webhook: WebhookArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Go on from where it was paused."""
    decode(make_api(url).send("POST", _path(webhook, "resume"), repeatable=True), Webhook)
    say(f"resumed {webhook}")


@app.command(epilog="Example:\n\n  raftbroker webhook delete billing --yes")
def delete(webhook: WebhookArgument, yes: YesOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Delete a webhook and forget its position."""
    if not yes:
        if not sys.stdin.isatty():
            raise CommandError(f"deleting {webhook} cannot be undone; say --yes to do it without being asked")
        typer.confirm(f"Delete {webhook} and forget its position?", abort=True)
    make_api(url).send("DELETE", _path(webhook))
    say(f"deleted {webhook}")

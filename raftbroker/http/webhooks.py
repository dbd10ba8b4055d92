"""`/v1/webhooks`: webhooks made, changed, paused, resumed, deleted, and shown with their lag and last error."""

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from raftbroker.broker.group_positions import PartitionLag
from raftbroker.broker.webhook_runs import QUEUE, RunStatus
from raftbroker.broker.webhooks import WebhookInfo
from raftbroker.http.call import Call
from raftbroker.http.problems import BAD_REQUEST, NO_QUEUE, NO_TOPIC, NO_WEBHOOK, UNAVAILABLE, Problem
from raftbroker.http.route import Answer, Route, json_body
from raftbroker.state.webhooks import Change

EARLIEST, LATEST = "earliest", "latest"

Text = str | UnsetType
Number = int | UnsetType | None


class PutWebhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to set; null puts a field back to its default, one that is left out stays as it is. A webhook that is made
    needs `topic` or `queue`, `url` and `secret`; `start` counts for it alone."""

    topic: Text = UNSET
    queue: Text = UNSET
    start: str = EARLIEST
    """Where to begin in a topic: earliest or latest."""
    url: Text = UNSET
    secret: Text = UNSET
    """16 to 256 characters; never shown again."""
    batch_size: Number = UNSET
    """Records in one request at most, 1 to 1000; 100."""
    concurrency: Number = UNSET
    """Requests at once for each partition, or for the queue, 1 to 16; 1. With more, the order is kept by key only."""
    timeout_ms: Number = UNSET
    """The receiver must have answered by then, 100 to 60000; 10000."""
    backoff_ms: Number = UNSET
    """The pause after the first failure, 10 to 60000; 500. It doubles with each."""
    backoff_ms_max: Number = UNSET
    """The longest pause, up to 3600000; 60000."""
    attempts: Number = UNSET
    """After so many failures a batch goes to the dead-letter queue, 1 to 1000; 10."""
    dead_letter_queue: str | UnsetType | None = UNSET
    """Without one, a topic's batch is tried until it is taken."""
    paused: bool | UnsetType | None = UNSET

    def changes(self) -> dict[str, Change]:
        given = {field.name: getattr(self, field.name) for field in msgspec.structs.fields(self)}
        return {name: value for name, value in given.items() if value is not UNSET and name != "start"}


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """Of one partition, or of the queue (`partition` null): where it stands, and how it fares on the node that runs it,
    since that took it over. Times are ms since 1970."""

    partition: int | None
    node: int | None
    """None while nobody runs it."""
    committed: int | None
    lag: int | None
    delivered: int
    dead: int
    skipped: int
    """Offsets that retention deleted before they were delivered."""
    failures: int
    """In a row."""
    last_error: str | None
    last_error_at: int | None
    last_success_at: int | None


class WebhookForm(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook. `state` is running, failing, waiting (for a node to run it) or paused."""

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
    """Its offsets are committed under this name; None for a queue."""
    state: str
    lag: int | None
    """Records or messages that are still to be delivered; null while not known."""
    last_error: str | None
    last_error_at: int | None
    deliveries: list[Delivery]


class WebhookList(msgspec.Struct, frozen=True):
    webhooks: list[WebhookForm]


def _delivery(partition: int, run: RunStatus | None, lag: PartitionLag | None, depth: int | None) -> Delivery:
    fares = run or RunStatus("", partition, 0)
    return Delivery(
        partition=None if partition == QUEUE else partition,
        node=None if run is None else run.node,
        committed=None if lag is None else lag.committed,
        lag=depth if lag is None else lag.lag,
        delivered=fares.delivered,
        dead=fares.dead,
        skipped=fares.skipped,
        failures=fares.failures,
        last_error=fares.last_error or None,
        last_error_at=fares.last_error_ms or None,
        last_success_at=fares.last_success_ms or None,
    )


def webhook_form(info: WebhookInfo) -> WebhookForm:
    webhook, last = info.webhook, info.last
    runs = {run.partition: run for run in info.runs}
    lags = {lag.partition: lag for lag in info.lags or ()}
    return WebhookForm(
        name=webhook.name,
        topic=webhook.topic or None,
        queue=webhook.queue or None,
        url=webhook.url,
        batch_size=webhook.batch_size,
        concurrency=webhook.concurrency,
        timeout_ms=webhook.timeout_ms,
        backoff_ms=webhook.backoff_ms,
        backoff_ms_max=webhook.backoff_ms_max,
        attempts=webhook.attempts,
        dead_letter_queue=webhook.dead_letter_queue or None,
        paused=webhook.paused,
        created_at=webhook.created_ms,
        consumer_group=webhook.group if webhook.topic else None,
        state=info.state,
        lag=info.lag,
        last_error=last.last_error if last is not None else None,
        last_error_at=last.last_error_ms if last is not None else None,
        deliveries=[
            _delivery(number, runs.get(number), lags.get(number), info.depth)
            for number in sorted(runs.keys() | lags.keys())
        ],
    )


_put = msgspec.json.Decoder(PutWebhook)


async def list_webhooks(call: Call) -> web.StreamResponse:
    return call.reply(WebhookList([webhook_form(info) for info in await call.broker.webhooks.list_webhooks()]))


async def put_webhook(call: Call) -> web.StreamResponse:
    asked = await call.json(_put)
    if asked.start not in (EARLIEST, LATEST):
        raise Problem(BAD_REQUEST, f"start is {asked.start[:40]!r}; it must be {EARLIEST} or {LATEST}.")
    info, made = await call.broker.webhooks.put(
        call.path("webhook"), asked.changes(), latest=asked.start == LATEST, timeout=call.options.request_timeout
    )
    return call.reply(webhook_form(info), status=201 if made else 200)


async def get_webhook(call: Call) -> web.StreamResponse:
    return call.reply(webhook_form(await call.broker.webhooks.get(call.path("webhook"))))


async def delete_webhook(call: Call) -> web.StreamResponse:
    await call.broker.webhooks.delete(call.path("webhook"), timeout=call.options.request_timeout)
    return call.nothing()


async def pause_webhook(call: Call) -> web.StreamResponse:
    return call.reply(webhook_form(await call.broker.webhooks.pause(call.path("webhook"), True)))


async def resume_webhook(call: Call) -> web.StreamResponse:
    return call.reply(webhook_form(await call.broker.webhooks.pause(call.path("webhook"), False)))


_DELIVERY = Delivery(
    partition=0,
    node=2,
    committed=40,
    lag=2,
    delivered=40,
    dead=0,
    skipped=0,
    failures=1,
    last_error="the receiver answered 503",
    last_error_at=1_700_000_000_000,
    last_success_at=1_699_999_999_000,
)
_WEBHOOK = WebhookForm(
    name="billing",
    topic="orders",
    queue=None,
    url="https://billing.example/orders",
    batch_size=100,
    concurrency=1,
    timeout_ms=10_000,
    backoff_ms=500,
    backoff_ms_max=60_000,
    attempts=10,
    dead_letter_queue=None,
    paused=False,
    created_at=1_700_000_000_000,
    consumer_group="webhook.billing",
    state="failing",
    lag=2,
    last_error=_DELIVERY.last_error,
    last_error_at=_DELIVERY.last_error_at,
    deliveries=[_DELIVERY],
)
_PUT = PutWebhook(topic="orders", url="https://billing.example/orders", secret="3f6c1d0b9a8e4f27b5d1c0a9")  # noqa: S106 - an example
_ONE = "/v1/webhooks/{webhook}"

ROUTES = (
    Route(
        "GET",
        "/v1/webhooks",
        list_webhooks,
        "listWebhooks",
        "All webhooks, with their lag and last error.",
        "webhooks",
        Answer(WebhookList, WebhookList([_WEBHOOK])),
    ),
    Route(
        "PUT",
        _ONE,
        put_webhook,
        "putWebhook",
        "Makes a webhook (201), or changes it (200); fields left out stay as they are.",
        "webhooks",
        Answer(WebhookForm, _WEBHOOK, status=201, also=(200,)),
        json_body(_PUT),
        problems=(BAD_REQUEST, NO_TOPIC, NO_QUEUE, UNAVAILABLE),
    ),
    Route(
        "GET",
        _ONE,
        get_webhook,
        "getWebhook",
        "One webhook: what was set, but for its secret, and how each of its deliveries fares.",
        "webhooks",
        Answer(WebhookForm, _WEBHOOK),
        problems=(NO_WEBHOOK,),
    ),
    Route(
        "DELETE",
        _ONE,
        delete_webhook,
        "deleteWebhook",
        "Deletes a webhook and forgets its position.",
        "webhooks",
        Answer(status=204),
        problems=(NO_WEBHOOK,),
    ),
    Route(
        "POST",
        f"{_ONE}/pause",
        pause_webhook,
        "pauseWebhook",
        "Stops deliveries; the position stays.",
        "webhooks",
        Answer(WebhookForm, _WEBHOOK),
        problems=(NO_WEBHOOK,),
    ),
    Route(
        "POST",
        f"{_ONE}/resume",
        resume_webhook,
        "resumeWebhook",
        "Goes on from where it was paused.",
        "webhooks",
        Answer(WebhookForm, _WEBHOOK),
        problems=(NO_WEBHOOK,),
    ),
)

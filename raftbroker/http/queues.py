"""`/queues`: queues made, changed, shown, purged and deleted; dead messages brought back."""

import msgspec
from aiohttp import web

from raftbroker.http.call import Call, decode
from raftbroker.http.media import JSON, check_json_body
from raftbroker.http.problems import BAD_CONFIG, BAD_REQUEST, ILLEGAL_STATE, NO_QUEUE
from raftbroker.http.queue_forms import (
    Count,
    PutQueue,
    QueueForm,
    QueueList,
    Rates,
    RedriveBody,
    Totals,
    queue_form,
)
from raftbroker.http.route import Answer, Body, Route

_put_queue = msgspec.json.Decoder(PutQueue)
_redrive = msgspec.json.Decoder(RedriveBody)


async def _optional(call: Call) -> bytes:
    """The body; an empty one says nothing, as {} does."""
    check_json_body(call.request.headers.get("Content-Type"))
    return await call.read_body() or b"{}"


async def list_queues(call: Call) -> web.StreamResponse:
    queues = await call.broker.queues.list_queues(timeout=call.options.request_timeout)
    return call.reply(QueueList([queue_form(info) for info in queues]))


async def put_queue(call: Call) -> web.StreamResponse:
    asked = decode(_put_queue, await _optional(call)) if call.request.can_read_body else PutQueue()
    info, made = await call.broker.queues.put(call.path("queue"), asked.changes(), timeout=call.options.request_timeout)
    return call.reply(queue_form(info), status=201 if made else 200)


async def get_queue(call: Call) -> web.StreamResponse:
    return call.reply(queue_form(await call.broker.queues.get(call.path("queue"))))


async def delete_queue(call: Call) -> web.StreamResponse:
    await call.broker.queues.delete(call.path("queue"), timeout=call.options.request_timeout)
    return call.nothing()


async def purge_queue(call: Call) -> web.StreamResponse:
    return call.reply(Count(await call.broker.queues.purge(call.path("queue"), timeout=call.options.request_timeout)))


async def redrive_queue(call: Call) -> web.StreamResponse:
    asked = decode(_redrive, await _optional(call)) if call.request.can_read_body else RedriveBody()
    count = await call.broker.queues.redrive(
        call.path("queue"), count=asked.max_messages, source=asked.source, timeout=call.options.request_timeout
    )
    return call.reply(Count(count))


_QUEUE = QueueForm(
    name="orders",
    configs={
        "lock.ms": 30_000,
        "max.deliveries": 5,
        "dead.letter.queue": "orders-dead",
        "retention.ms": 604_800_000,
        "dedup.window.ms": 300_000,
        "ordered.by.key": False,
    },
    created_at=1_700_000_000_000,
    depth=12,
    available=8,
    delayed=1,
    blocked=0,
    locked=3,
    dead=0,
    moving=0,
    pending_receipts=0,
    size_bytes=4096,
    oldest_age_ms=1500,
    totals=Totals(100, 91, 88, 0, 0, 0, 0, 0),
    rates=Rates(10.0, 9.5, 9.4),
)
_PUT = PutQueue(lock_ms=30_000, max_deliveries=5, dead_letter_queue="orders-dead")
_ONE = "/queues/{queue}"


def _optional_body(example: msgspec.Struct) -> Body:
    return Body({JSON: (type(example), example)}, required=False)


ROUTES = (
    Route("GET", "/queues", list_queues, "listQueues", "All queues.", "queues", Answer(QueueList, QueueList([_QUEUE]))),
    Route(
        "PUT",
        _ONE,
        put_queue,
        "putQueue",
        "Makes a queue (201), or changes its configs (200); those left out stay as they are.",
        "queues",
        Answer(QueueForm, _QUEUE, status=201, also=(200,)),
        _optional_body(_PUT),
        problems=(BAD_CONFIG, BAD_REQUEST, ILLEGAL_STATE),
    ),
    Route(
        "GET",
        _ONE,
        get_queue,
        "getQueue",
        "One queue: its configs, how many messages it has in which state, and its rates.",
        "queues",
        Answer(QueueForm, _QUEUE),
        problems=(NO_QUEUE, BAD_REQUEST),
    ),
    Route(
        "DELETE",
        _ONE,
        delete_queue,
        "deleteQueue",
        "Deletes a queue with all its messages.",
        "queues",
        Answer(status=204),
        problems=(NO_QUEUE, BAD_REQUEST),
    ),
    Route(
        "POST",
        f"{_ONE}/purge",
        purge_queue,
        "purgeQueue",
        "Drops all messages, those that are locked, delayed or dead as well.",
        "queues",
        Answer(Count, Count(12)),
        problems=(NO_QUEUE, BAD_REQUEST),
    ),
    Route(
        "POST",
        f"{_ONE}/redrive",
        redrive_queue,
        "redriveQueue",
        "Brings the queue's dead messages back from its dead-letter queue, or from where they were kept aside.",
        "queues",
        Answer(Count, Count(3)),
        _optional_body(RedriveBody(max_messages=100)),
        problems=(NO_QUEUE, BAD_REQUEST),
    ),
)

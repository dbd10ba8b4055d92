"""`/queues/{q}/messages` and `/receive`: messages sent, received under a lock, looked at, and their fate."""

import msgspec
from aiohttp import web
from msgspec import UNSET

from raftbroker.broker.queue_views import MessageDraft, MessageFate, PastDelivery, ReceivedMessage
from raftbroker.http.call import Call
from raftbroker.http.problems import (
    BAD_REQUEST,
    KEY_REUSED,
    NO_MESSAGE,
    NO_QUEUE,
    TOO_LARGE,
    UNKNOWN_OUTCOME,
    Problem,
)
from raftbroker.http.produce import IDEMPOTENCY_KEY
from raftbroker.http.queue_forms import (
    LOCK_EXAMPLE,
    Delivered,
    DeliveredList,
    NewMessage,
    ReceiptForm,
    ReceiveBody,
    SendBody,
    SentForm,
    SentList,
    delivered,
)
from raftbroker.http.route import Answer, Parameter, Route, Work, json_body
from raftbroker.state.queues.messages import CONSUMER_CHARACTERS_MAX

_STATES = ("waiting", "delayed", "locked", "dead")
_RELEASE_SECONDS = 5.0

_send = msgspec.json.Decoder(SendBody)
_receive = msgspec.json.Decoder(ReceiveBody)


# --- send -------------------------------------------------------------------------------------------------


def _draft(position: int, message: NewMessage) -> MessageDraft:
    """Raises Problem, which names the message."""
    body, data = message.body, message.body_base64
    if (body is UNSET) == (data is None):
        raise Problem(BAD_REQUEST, f"messages[{position}] must have either body (any JSON) or body_base64 (any bytes).")
    return MessageDraft(
        body=(data or b"") if body is UNSET else bytes(body),
        is_json=body is not UNSET,
        key=message.key,
        headers=tuple(message.headers.items()),
        delay_ms=message.delay_ms,
        ttl_ms=_ttl(position, message.ttl_ms),
        dedup_id=message.dedup_id,
        priority=message.priority,
        receipt=_receipt(position, message.receipt),
    )


def _ttl(position: int, ttl_ms: int | None) -> int:
    if ttl_ms is not None and ttl_ms < 1:
        raise Problem(BAD_REQUEST, f"messages[{position}].ttl_ms is {ttl_ms}; it must be at least 1, or left out.")
    return ttl_ms or 0


def _receipt(position: int, receipt: ReceiptForm | None) -> str:
    if receipt is None:
        return ""
    if (receipt.queue is None) == (receipt.url is None):
        raise Problem(BAD_REQUEST, f"messages[{position}].receipt must name either a queue or a url.")
    return f"queue:{receipt.queue}" if receipt.queue is not None else receipt.url or "-"


async def send(call: Call) -> web.StreamResponse:
    asked = await call.json(_send)
    drafts = [_draft(position, message) for position, message in enumerate(asked.messages)]
    sent = await call.broker.queues.send(
        call.path("queue"),
        drafts,
        idempotency_key=call.header_text(IDEMPOTENCY_KEY),
        timeout=call.options.request_timeout,
    )
    return call.reply(SentList([SentForm(message.id, message.duplicate) for message in sent]))


# --- receive ----------------------------------------------------------------------------------------------


def _within(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise Problem(BAD_REQUEST, f"{name} is {value}; it must be a whole number from {least} to {most}.")
    return value


async def receive(call: Call) -> web.StreamResponse:
    asked, options = await call.json(_receive), call.options
    wait_ms = _within("wait_ms", asked.wait_ms, 0, options.poll_ms_max)
    bytes_max = asked.max_bytes if asked.max_bytes is not None else options.response_bytes_default
    queue = call.path("queue")
    work = call.broker.queues.receive(
        queue,
        consumer=asked.consumer if asked.consumer is not None else _address(call),
        count=asked.max_messages,
        wait=wait_ms / 1000,
        lock_ms=_lock(asked.lock_ms),
        bytes_max=_within("max_bytes", bytes_max, 1, options.response_bytes_max),
        timeout=options.request_timeout,
    )
    found = await (call.unless_stopping(work) if wait_ms else work) or []
    if found and _has_left(call):
        await _give_back(call, queue, found)
    return call.reply(DeliveredList([delivered(message) for message in found]))


def _address(call: Call) -> str:
    return (call.request.remote or "unknown")[:CONSUMER_CHARACTERS_MAX]


def _lock(lock_ms: int | None) -> int:
    if lock_ms is not None and lock_ms < 1:
        raise Problem(BAD_REQUEST, f"lock_ms is {lock_ms}; it must be at least 1, or left out.")
    return lock_ms or 0


def _has_left(call: Call) -> bool:
    transport = call.request.transport
    return transport is None or transport.is_closing()


async def _give_back(call: Call, queue: str, found: list[ReceivedMessage]) -> None:
    """The client left while it waited: nobody else should have to wait until the locks run out."""
    tokens = [message.lock_token for message in found]
    await call.broker.queues.release(queue, tokens, timeout=_RELEASE_SECONDS)


# --- look -------------------------------------------------------------------------------------------------


async def peek(call: Call) -> web.StreamResponse:
    state = call.query_text("state") or "waiting"
    if state not in ("waiting", "dead"):
        raise Problem(BAD_REQUEST, f"state is {state[:40]!r}; waiting and dead messages can be looked at.")
    count = call.query_number("max_messages", 10, least=1, most=1000)
    assert count is not None
    found = await call.broker.queues.peek(call.path("queue"), count, dead=state == "dead")
    return call.reply(DeliveredList([delivered(message) for message in found]))


async def get_fate(call: Call) -> web.StreamResponse:
    wait_ms = call.query_number("wait_ms", 0, least=0, most=call.options.poll_ms_max)
    known = call.query_text("state") or ""
    if known and known not in _STATES:
        raise Problem(BAD_REQUEST, f"state is {known[:40]!r}; it must be one of {', '.join(_STATES)}.")
    assert wait_ms is not None
    queues, queue, message = call.broker.queues, call.path("queue"), call.path("message_id")
    work = queues.fate(queue, message, wait=wait_ms / 1000, known=known)
    found = await (call.unless_stopping(work) if wait_ms else work)
    return call.reply(found if found is not None else await queues.fate(queue, message))


# --- examples and routes ----------------------------------------------------------------------------------

_MESSAGES = "/queues/{queue}/messages"
_NEW = NewMessage(
    body=msgspec.Raw(b'{"item":"tea"}'),
    key="customer-7",
    headers={"source": "web"},
    priority=7,
    ttl_ms=3_600_000,
    dedup_id="order-17",
    receipt=ReceiptForm(queue="receipts"),
)
_DELIVERED = Delivered(
    id="4711",
    body=msgspec.Raw(b'{"item":"tea"}'),
    key="customer-7",
    headers={"source": "web"},
    timestamp=1_700_000_000_000,
    delivery_count=1,
    lock_token=LOCK_EXAMPLE,
    locked_until=1_700_000_030_000,
)
_FATE = MessageFate(
    queue="orders",
    id="4711",
    state="consumed",
    delivery_count=2,
    at=1_700_000_005_000,
    consumer="worker-3",
    history=(PastDelivery("worker-1", 1_700_000_001_000, 1_700_000_004_000, "released"),),
)

ROUTES = (
    Route(
        "POST",
        _MESSAGES,
        send,
        "sendMessages",
        "Sends messages, all or none; answers their ids once a majority has them on disk.",
        "queues",
        Answer(SentList, SentList([SentForm("4711", False)])),
        json_body(SendBody([_NEW])),
        parameters=(
            Parameter(
                IDEMPOTENCY_KEY,
                str,
                "The same key again, within the queue's dedup.window.ms, gives the same ids.",
                header=True,
                example="import-17-batch-3",
            ),
        ),
        problems=(NO_QUEUE, BAD_REQUEST, TOO_LARGE, KEY_REUSED, UNKNOWN_OUTCOME),
    ),
    Route(
        "POST",
        "/queues/{queue}/receive",
        receive,
        "receiveMessages",
        "Gives messages to this client alone, each under a lock, waiting for the first one if there is none yet.",
        "queues",
        Answer(DeliveredList, DeliveredList([_DELIVERED]), summary="The messages, perhaps none."),
        json_body(ReceiveBody(max_messages=10, wait_ms=100, lock_ms=60_000, consumer="worker-3")),
        problems=(NO_QUEUE, BAD_REQUEST),
        work=Work.POLL,
    ),
    Route(
        "GET",
        _MESSAGES,
        peek,
        "peekMessages",
        "The messages that would be received next, without taking them; or those kept aside as dead.",
        "queues",
        Answer(DeliveredList, DeliveredList([_DELIVERED]), summary="The messages, perhaps none."),
        parameters=(
            Parameter("max_messages", int, "How many at most; 10 unless given.", example=10),
            Parameter("state", str, "waiting, which is the default, or dead.", example="waiting"),
        ),
        problems=(NO_QUEUE, BAD_REQUEST),
    ),
    Route(
        "GET",
        f"{_MESSAGES}/{{message_id}}",
        get_fate,
        "getMessageFate",
        "What has become of a message, for whoever sent it; waits for a change.",
        "queues",
        Answer(MessageFate, _FATE),
        parameters=(
            Parameter("wait_ms", int, "How long to wait for another state.", example=100),
            Parameter("state", str, "The state you know of; the one it is in now unless given.", example="waiting"),
        ),
        problems=(NO_QUEUE, NO_MESSAGE, BAD_REQUEST),
        work=Work.POLL,
    ),
)

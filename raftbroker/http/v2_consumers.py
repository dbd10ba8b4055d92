"""`/consumers/{group}`: instances of the v2 consumer API, what they subscribe to or are assigned, and their end.

An instance lives on the node that made it. Any node takes its requests and passes them on.
"""

from typing import TypeVar
from urllib.parse import quote

import msgspec
from aiohttp import web

from raftbroker.broker.consumer import ConsumerSettings
from raftbroker.broker.consumer_member import MemberSettings
from raftbroker.broker.consumer_reader import Reset
from raftbroker.broker.wire_consumers import AnyOp, Assign, Close, Look, Shown, Subscribe, Unsubscribe
from raftbroker.http.call import Call, decode
from raftbroker.http.media import JSON, V2, Format, check_v2_body
from raftbroker.http.problems import (
    BAD_CONSUMER,
    BAD_REQUEST,
    ILLEGAL_STATE,
    NO_INSTANCE,
    NO_PARTITION,
    NO_TOPIC,
    TOPIC_EXISTS,
    Problem,
)
from raftbroker.http.route import Answer, Body, Route
from raftbroker.http.v2_consumer_forms import (
    MadeConsumer,
    NewConsumer,
    PartitionList,
    PartitionOf,
    SubscriptionBody,
    SubscriptionForm,
)

T = TypeVar("T")

READ_COMMITTED, READ_UNCOMMITTED = "read_committed", "read_uncommitted"
NAME_CHARS_MAX = 255
CLIENT_ID = "raftbroker-http"

_new = msgspec.json.Decoder(NewConsumer)
_subscription = msgspec.json.Decoder(SubscriptionBody)
_partitions = msgspec.json.Decoder(PartitionList)


async def body_of(call: Call, decoder: "msgspec.json.Decoder[T]") -> T:
    """The body as JSON of the decoder's type. Raises Problem."""
    check_v2_body(call.request.headers.get("Content-Type"))
    return decode(decoder, await call.read_body())


async def ask(call: Call, op: AnyOp, more_seconds: float = 0.0) -> Shown:
    """The instance of the path does what it is asked. Raises UnknownInstance, and what the engine refuses."""
    return await call.broker.consumers.ask(
        call.path("consumer_group_id"), call.path("instance"), op, call.options.request_timeout + more_seconds
    )


# --- making and closing -----------------------------------------------------------------------------------


def _number(field: str, value: int | str, least: int, most: int) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise Problem(BAD_CONSUMER, f"{field} is {text[:40]!r}; it must be a whole number from {least} to {most}.")
    return int(text)


def _one_of(field: str, value: str, names: tuple[str, ...]) -> str:
    if value not in names:
        raise Problem(BAD_CONSUMER, f"{field} is {value[:40]!r}; it must be one of {', '.join(names)}.")
    return value


def _switch(field: str, value: bool | str) -> bool:
    return value if isinstance(value, bool) else _one_of(field, value.lower(), ("true", "false")) == "true"


def _settings(call: Call, new: NewConsumer, name: str) -> ConsumerSettings:
    member = MemberSettings(
        client_id=CLIENT_ID, client_host=f"/{call.request.remote or ''}", instance_id=name if new.name else None
    )
    return ConsumerSettings(
        member=member,
        format=_one_of("format", new.format.lower(), tuple(format_.value for format_ in Format)),
        reset=Reset(_one_of("auto.offset.reset", new.auto_offset_reset.lower(), tuple(Reset))),
        auto_commit=_switch("auto.commit.enable", new.auto_commit_enable),
        commit_every_ms=_number("auto.commit.interval.ms", new.auto_commit_interval_ms, 1, 3_600_000),
        bytes_min=_number("fetch.min.bytes", new.fetch_min_bytes, 0, call.options.response_bytes_max),
        poll_ms=_number("consumer.request.timeout.ms", new.consumer_request_timeout_ms, 0, call.options.poll_ms_max),
        committed=_one_of("isolation.level", new.isolation_level, (READ_COMMITTED, READ_UNCOMMITTED)) == READ_COMMITTED,
        idle_ms=call.options.consumer_idle_ms,
    )


async def create(call: Call) -> web.StreamResponse:
    new = await body_of(call, _new)
    group = call.path("consumer_group_id")
    drawn = f"http-{call.broker.node_id}-{call.options.random.getrandbits(64):016x}"
    name = drawn if new.name is None else new.name
    if not name or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise Problem(BAD_CONSUMER, f"name must be 1 to {NAME_CHARS_MAX} printable characters.")
    await call.broker.consumers.create(group, name, _settings(call, new, name))
    here = call.link("consumers", quote(group, safe=""), "instances", quote(name, safe=""))
    return call.reply_v2(MadeConsumer(name, here))


async def delete(call: Call) -> web.StreamResponse:
    await ask(call, Close())
    return call.nothing()


# --- what it reads ----------------------------------------------------------------------------------------


async def subscribe(call: Call) -> web.StreamResponse:
    asked = await body_of(call, _subscription)
    await ask(call, Subscribe(tuple(asked.topics or ()), asked.topic_pattern))
    return call.nothing()


async def get_subscription(call: Call) -> web.StreamResponse:
    shown = await ask(call, Look())
    return call.reply_v2(SubscriptionForm(list(shown.topics), shown.pattern))


async def unsubscribe(call: Call) -> web.StreamResponse:
    await ask(call, Unsubscribe())
    return call.nothing()


async def assign(call: Call) -> web.StreamResponse:
    asked = await body_of(call, _partitions)
    await ask(call, Assign(tuple((one.topic, one.partition) for one in asked.partitions)))
    return call.nothing()


async def get_assignments(call: Call) -> web.StreamResponse:
    shown = await ask(call, Look())
    return call.reply_v2(PartitionList([PartitionOf(*name) for name in shown.partitions]))


# --- routes -----------------------------------------------------------------------------------------------

TAG = "v2 consumers"
GROUP = "/consumers/{consumer_group_id}"
INSTANCE = f"{GROUP}/instances/{{instance}}"
NOTHING = Answer(status=204)
V2_TYPES = (V2, JSON)


def v2_body(example: msgspec.Struct, *, required: bool = True) -> Body:
    return Body({V2: (type(example), example), JSON: (type(example), example)}, required=required)


PARTITIONS = PartitionList([PartitionOf("orders", 0)])

ROUTES = (
    Route(
        "POST",
        GROUP,
        create,
        "createConsumer",
        "Makes a consumer instance of a group, on this node; any node takes its requests.",
        TAG,
        Answer(
            MadeConsumer,
            MadeConsumer("mine", "http://127.0.0.1:8082/consumers/billing/instances/mine"),
            media=V2_TYPES,
            summary="The instance; it reads nothing before it subscribes or is assigned partitions.",
        ),
        v2_body(NewConsumer(name="mine", format="json", auto_offset_reset="earliest", auto_commit_enable=False)),
        problems=(BAD_REQUEST, TOPIC_EXISTS, BAD_CONSUMER),
    ),
    Route(
        "DELETE",
        INSTANCE,
        delete,
        "deleteConsumer",
        "Closes an instance; with automatic commits, what it was given counts as done.",
        TAG,
        NOTHING,
        problems=(NO_INSTANCE,),
    ),
    Route(
        "POST",
        f"{INSTANCE}/subscription",
        subscribe,
        "subscribe",
        "Shares topics, named or by pattern, with the other members of the group; replaces the subscription.",
        TAG,
        NOTHING,
        v2_body(SubscriptionBody(topics=["orders"])),
        problems=(BAD_REQUEST, NO_INSTANCE, ILLEGAL_STATE),
    ),
    Route(
        "GET",
        f"{INSTANCE}/subscription",
        get_subscription,
        "getSubscription",
        "What an instance subscribes to.",
        TAG,
        Answer(SubscriptionForm, SubscriptionForm(["orders"]), media=V2_TYPES),
        problems=(NO_INSTANCE,),
    ),
    Route(
        "DELETE",
        f"{INSTANCE}/subscription",
        unsubscribe,
        "unsubscribe",
        "Leaves the group; the instance stays, and reads nothing.",
        TAG,
        NOTHING,
        problems=(NO_INSTANCE,),
    ),
    Route(
        "POST",
        f"{INSTANCE}/assignments",
        assign,
        "assignPartitions",
        "Reads these partitions, whatever other consumers do, from where the group has committed.",
        TAG,
        NOTHING,
        v2_body(PARTITIONS),
        problems=(BAD_REQUEST, NO_TOPIC, NO_PARTITION, NO_INSTANCE, ILLEGAL_STATE),
    ),
    Route(
        "GET",
        f"{INSTANCE}/assignments",
        get_assignments,
        "getAssignments",
        "The partitions that an instance reads now.",
        TAG,
        Answer(PartitionList, PARTITIONS, media=V2_TYPES),
        problems=(NO_INSTANCE,),
    ),
)

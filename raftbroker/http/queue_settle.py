"""`/queues/{q}/ack`, `/release`, `/reject`, `/extend`: what holders of locks do, many at once, answered one by one."""

from collections.abc import Iterable

import msgspec
from aiohttp import web

from raftbroker.broker.queue_views import SettledToken
from raftbroker.http.call import Call
from raftbroker.http.problems import BAD_REQUEST, LOCK_LOST, NO_QUEUE, Problem
from raftbroker.http.queue_forms import LOCK_EXAMPLE, AckBody, ExtendBody, RejectBody, ReleaseBody, Result, Results
from raftbroker.http.route import Answer, Handler, Route, json_body

_ack = msgspec.json.Decoder(AckBody)
_release = msgspec.json.Decoder(ReleaseBody)
_reject = msgspec.json.Decoder(RejectBody)
_extend = msgspec.json.Decoder(ExtendBody)


def _results(call: Call, settled: Iterable[SettledToken]) -> web.StreamResponse:
    return call.reply(
        Results(
            [
                Result(one.lock_token, LOCK_LOST, f"lock_lost: {one.lost}.")
                if one.lost
                else Result(one.lock_token, locked_until=one.locked_until or None)
                for one in settled
            ]
        )
    )


async def ack(call: Call) -> web.StreamResponse:
    asked = await call.json(_ack)
    timeout = call.options.request_timeout
    return _results(call, await call.broker.queues.acknowledge(call.path("queue"), asked.lock_tokens, timeout=timeout))


async def release(call: Call) -> web.StreamResponse:
    asked = await call.json(_release)
    settled = await call.broker.queues.release(
        call.path("queue"), asked.lock_tokens, delay_ms=asked.delay_ms, timeout=call.options.request_timeout
    )
    return _results(call, settled)


async def reject(call: Call) -> web.StreamResponse:
    asked = await call.json(_reject)
    settled = await call.broker.queues.reject(
        call.path("queue"), asked.lock_tokens, reason=asked.reason, timeout=call.options.request_timeout
    )
    return _results(call, settled)


async def extend(call: Call) -> web.StreamResponse:
    asked = await call.json(_extend)
    if asked.lock_ms is not None and asked.lock_ms < 1:
        raise Problem(BAD_REQUEST, f"lock_ms is {asked.lock_ms}; it must be at least 1, or left out.")
    settled = await call.broker.queues.extend(
        call.path("queue"), asked.lock_tokens, lock_ms=asked.lock_ms or 0, timeout=call.options.request_timeout
    )
    return _results(call, settled)


_TOKENS = [LOCK_EXAMPLE]
_EXAMPLE = Results([Result(_TOKENS[0]), Result("1-1-0000000000000000", LOCK_LOST, "lock_lost: ...")])


def _route(verb: str, handler: Handler, summary: str, body: msgspec.Struct) -> Route:
    return Route(
        "POST",
        f"/queues/{{queue}}/{verb}",
        handler,
        f"{verb}Messages",
        summary,
        "queues",
        Answer(Results, _EXAMPLE, summary="One result for each token, in order."),
        json_body(body),
        problems=(NO_QUEUE, BAD_REQUEST),
    )


ROUTES = (
    _route("ack", ack, "The messages are consumed: they are deleted and never delivered again.", AckBody(_TOKENS)),
    _route(
        "release",
        release,
        "Gives messages back, to be delivered again at once or after a delay.",
        ReleaseBody(_TOKENS, 5000),
    ),
    _route(
        "reject",
        reject,
        "The messages are dead: they go to the dead-letter queue, with the reason.",
        RejectBody(_TOKENS, "no such customer"),
    ),
    _route("extend", extend, "Holds messages for longer.", ExtendBody(_TOKENS, 60_000)),
)

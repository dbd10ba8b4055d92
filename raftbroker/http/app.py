"""The application: the table of routes, what is around every handler, and the runner's settings.

Each request gets its id, its place within the bounds and its line in the metrics; every error becomes an answer by the
table in `problems`, and what nobody foresaw is logged, once, with its cause.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import ClientConnectionError, ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from raftbroker.broker.broker import Broker
from raftbroker.broker.errors import BrokerError, Internal
from raftbroker.http import (
    events,
    probes,
    queue_messages,
    queue_settle,
    queues,
    read,
    v1_cluster,
    v1_groups,
    v2_consumer_reads,
    v2_consumers,
    v2_produce,
    v2_topics,
    v3_clusters,
    v3_configs,
    v3_groups,
    v3_records,
    v3_topics,
    webhooks,
    websocket,
)
from raftbroker.http.call import Call, Front
from raftbroker.http.limits import Limit, Limits
from raftbroker.http.metrics import HttpMetrics
from raftbroker.http.openapi import document
from raftbroker.http.options import HttpOptions
from raftbroker.http.problems import (
    BAD_REQUEST,
    BROKER_FAULT,
    NOT_IMPLEMENTED,
    Problem,
    problem_of,
    problem_response,
)
from raftbroker.http.route import Handler, Route, Work

log = logging.getLogger(__name__)

ROUTES: tuple[Route, ...] = (
    *v3_clusters.ROUTES,
    *v3_topics.ROUTES,
    *v3_configs.ROUTES,
    *v3_records.ROUTES,
    *v3_groups.ROUTES,
    *v2_topics.ROUTES,
    *v2_produce.ROUTES,
    *read.ROUTES,
    *events.ROUTES,
    *websocket.ROUTES,
    *v2_consumers.ROUTES,
    *v2_consumer_reads.ROUTES,
    *queues.ROUTES,
    *queue_messages.ROUTES,
    *queue_settle.ROUTES,
    *v1_cluster.ROUTES,
    *v1_groups.ROUTES,
    *webhooks.ROUTES,
    *probes.ROUTES,
)

_NOT_YET = ("/v3/clusters/{cluster_id}/acls",)
"""Parts of the public interfaces that this version does not have; they say so instead of 404."""

FRONT: web.AppKey[Front] = web.AppKey("front", Front)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_LARGE_ANSWER_BYTES = 64 * 1024
_ANYTHING = "/{anything}"
"""How aiohttp names the resource that takes what no other does."""
_CLIENT_LEFT = 499
"""Not sent to anyone: how requests count whose client left before the answer."""


def make_app(broker: Broker, options: HttpOptions) -> web.Application:
    """The front door over this broker. Run it with `make_runner`."""
    limits = Limits(
        requests=options.requests_max,
        body_bytes=max(options.body_bytes_in_flight_max, options.body_bytes_max),
        long_polls=options.long_polls_max,
        streams=options.streams_max,
        pushes=options.pushes_max,
    )
    front = Front(broker, options, limits, HttpMetrics(), openapi=document(ROUTES, options.version))
    app = web.Application(client_max_size=options.body_bytes_max)
    app[FRONT] = front
    for route in sorted(ROUTES, key=lambda route: route.path):  # equal paths side by side share one look-up
        handler = _served(front, route.path, route.work, route.handler)
        app.router.add_route(route.method, route.path, handler, expect_handler=_expect)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, handler, expect_handler=_expect)
    for path in _NOT_YET:
        handler = _served(front, path, Work.REQUEST, _not_yet)
        app.router.add_route("*", path + "{rest:(/.*)?}", handler, expect_handler=_expect)
    app.router.add_route("*", "/{anything:.*}", _served(front, "", Work.PROBE, _unrouted), expect_handler=_expect)
    app.on_shutdown.append(_begin_to_stop)
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """aiohttp's runner with this front door's bounds; whoever composes the node gives it its sockets."""
    options = app[FRONT].options
    return web.AppRunner(
        app,
        handle_signals=False,
        access_log=logging.getLogger("raftbroker.http.access") if options.access_log else None,
        keepalive_timeout=options.keepalive_timeout,
        shutdown_timeout=options.shutdown_timeout,
        max_line_size=options.header_bytes_max,
        max_field_size=options.header_bytes_max,
        read_bufsize=256 * 1024,
        lingering_time=2.0,
    )


async def _begin_to_stop(app: web.Application) -> None:
    """Ends what waits: long polls answer with what they have, streams say where to go on."""
    app[FRONT].stopping.set()


async def _not_yet(call: Call) -> web.StreamResponse:
    raise Problem(NOT_IMPLEMENTED, "This version does not have this part of the interface yet; see /openapi.json.")


def _served(front: Front, path: str, work: Work, handler: Handler) -> _Handler:
    """A route's handler with all that is around it: see the module's text."""
    limits, metrics = front.limits, front.metrics
    places: dict[Work, Limit | None] = {
        Work.REQUEST: limits.requests,
        Work.POLL: limits.long_polls,
        Work.PUSH: limits.pushes,
        Work.PROBE: None,
    }
    place = places[work]

    async def held(call: Call) -> web.StreamResponse:
        if place is not None:
            place.take()
        try:
            response = await handler(call)
            return await _send_large(call, response)
        finally:
            call.close()
            if place is not None:
                place.give()

    async def serve(request: web.Request) -> web.StreamResponse:
        clock = asyncio.get_running_loop().time
        began = clock()
        call = Call(front, request, _request_id(front, request))
        status = _CLIENT_LEFT
        try:
            response = await held(call)
            status = response.status
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                metrics.response_bytes += len(response.body)
            return response
        except Exception as error:  # noqa: BLE001 - _problem logs what it does not know
            if isinstance(error, (ConnectionError, ClientConnectionError)) and _has_left(request):
                return call.started or web.Response(status=status)
            problem = _problem(error, call)
            status = problem.status
            if call.started is None:
                return problem_response(problem, call.request_id)
            call.abort()
            return call.started
        finally:
            metrics.done(request.method if path else "(any)", path or "(none)", status, clock() - began)

    return serve


async def _unrouted(call: Call) -> web.StreamResponse:
    """No route takes this request: its address is unknown, or not with this method."""
    request = call.request
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != _ANYTHING:
            allowed |= (await resource.resolve(request))[1]
    if not allowed:
        raise Problem(404, f"There is nothing at {request.path[:200]!r}; GET /openapi.json lists every address.")
    shown = ", ".join(sorted(allowed))
    raise Problem(405, f"{request.method[:20]} is not possible here; this address takes {shown}.", allow=shown)


async def _send_large(call: Call, response: web.StreamResponse) -> web.StreamResponse:
    """Sends a large answer in pieces while its place is still held, and gives a client that does not read it up."""
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    body = response.body
    if len(body) < _LARGE_ANSWER_BYTES or call.request.method == "HEAD":
        return response
    sent = web.StreamResponse(status=response.status, headers=response.headers)
    sent.content_length = len(body)
    await call.start(sent)
    whole = memoryview(body)
    for at in range(0, len(body), _LARGE_ANSWER_BYTES):
        await call.send(whole[at : at + _LARGE_ANSWER_BYTES])
    await sent.write_eof()
    return sent


async def _expect(request: web.Request) -> None:
    """RFC 9110, section 10.1.1: 100-continue is answered before the body comes; other expectations are passed over."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _request_id(front: Front, request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    if 0 < len(given) <= 128 and given.isascii() and given.isprintable() and " " not in given:
        return given
    return f"{front.options.random.getrandbits(64):016x}"


def _problem(error: Exception, call: Call) -> Problem:
    """The answer to any error; logs those that are faults of ours."""
    request, request_id = call.request, call.request_id
    if isinstance(error, Problem):
        return error
    if isinstance(error, BrokerError):
        if isinstance(error, Internal):
            log.error("request %s %s %s: %s", request_id, request.method, request.path, error)
        return problem_of(error)
    if isinstance(error, web.HTTPException):
        return Problem(error.status, f"{error.reason}.")
    if isinstance(error, (HttpProcessingError, ClientPayloadError, web.RequestPayloadError)):
        return Problem(BAD_REQUEST, f"The body cannot be read as it is encoded: {_first_line(error)}.")
    log.error("request %s %s %s failed", request_id, request.method, request.path, exc_info=error)
    return Problem(BROKER_FAULT, f"The broker failed; its log has the cause under request {request_id}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]

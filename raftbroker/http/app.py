"""The application: the table of routes, the one middleware around every handler, and the runner's settings.

The middleware gives each request its id and its line in the metrics; it turns every error into an answer by the table
in `problems`, and logs what nobody foresaw, once, with its cause.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import ClientConnectionError, ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from raftbroker.broker.broker import Broker
from raftbroker.broker.errors import BrokerError, Internal
from raftbroker.http import (
    probes,
    read,
    v1_cluster,
    v2_produce,
    v2_topics,
    v3_clusters,
    v3_configs,
    v3_records,
    v3_topics,
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
from raftbroker.http.route import Route, Work

log = logging.getLogger(__name__)

ROUTES: tuple[Route, ...] = (
    *v3_clusters.ROUTES,
    *v3_topics.ROUTES,
    *v3_configs.ROUTES,
    *v3_records.ROUTES,
    *v2_topics.ROUTES,
    *v2_produce.ROUTES,
    *read.ROUTES,
    *v1_cluster.ROUTES,
    *probes.ROUTES,
)

_NOT_YET = ("/v3/clusters/{cluster_id}/consumer-groups", "/v3/clusters/{cluster_id}/acls", "/consumers")
"""Parts of the public interfaces that this version does not have; they say so instead of 404."""

FRONT: web.AppKey[Front] = web.AppKey("front", Front)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_LARGE_ANSWER_BYTES = 64 * 1024
_UNROUTED = "(none)"
_CLIENT_LEFT = 499
"""Not sent to anyone: how requests count whose client left before the answer."""


def make_app(broker: Broker, options: HttpOptions) -> web.Application:
    """The front door over this broker. Run it with `make_runner`."""
    limits = Limits(
        requests=options.requests_max,
        body_bytes=max(options.body_bytes_in_flight_max, options.body_bytes_max),
        long_polls=options.long_polls_max,
        streams=options.streams_max,
    )
    front = Front(broker, options, limits, HttpMetrics(), openapi=document(ROUTES, options.version))
    app = web.Application(middlewares=[_around], client_max_size=options.body_bytes_max)
    app[FRONT] = front
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _served(front, route))
    for path in _NOT_YET:
        app.router.add_route("*", path + "{rest:(/.*)?}", _not_yet)
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


async def _not_yet(request: web.Request) -> web.StreamResponse:
    raise Problem(NOT_IMPLEMENTED, "This version does not have this part of the interface yet; see /openapi.json.")


def _served(front: Front, route: Route) -> _Handler:
    """The route's handler with its place within the bounds, its metrics, and an end to the bytes it held."""
    limits, metrics = front.limits, front.metrics
    places: dict[Work, Limit | None] = {
        Work.REQUEST: limits.requests,
        Work.POLL: limits.long_polls,
        Work.PROBE: None,
    }
    place = places[route.work]

    async def serve(request: web.Request) -> web.StreamResponse:
        if place is not None:
            place.take()
        call = Call(front, request, request["id"])
        request["route"] = route.path
        try:
            response = await route.handler(call)
            await _send_large(front, request, response)
        finally:
            call.close()
            if place is not None:
                place.give()
        if isinstance(response, web.Response) and isinstance(response.body, bytes):
            metrics.response_bytes += len(response.body)
        return response

    return serve


async def _send_large(front: Front, request: web.Request, response: web.StreamResponse) -> None:
    """Sends a large answer while its place is still held, and gives a client that does not read it up."""
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return
    if len(response.body) < _LARGE_ANSWER_BYTES:
        return
    try:
        async with asyncio.timeout(front.options.send_timeout):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError("the client does not read its answer") from None


def _request_id(front: Front, request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    if 0 < len(given) <= 128 and given.isascii() and given.isprintable() and " " not in given:
        return given
    return f"{front.options.random.getrandbits(64):016x}"


@web.middleware
async def _around(request: web.Request, handler: _Handler) -> web.StreamResponse:
    front = request.app[FRONT]
    clock = asyncio.get_running_loop().time
    began = clock()
    request_id = request["id"] = _request_id(front, request)
    request["route"] = _UNROUTED
    status = _CLIENT_LEFT
    try:
        response = await handler(request)
        status = response.status
        return response
    except (ConnectionError, ClientConnectionError):
        raise
    except Exception as error:  # noqa: BLE001 - _problem logs what it does not know
        problem = _problem(error, request, request_id)
        status = problem.status
        return problem_response(problem, request_id)
    finally:
        method = request.method if request["route"] != _UNROUTED else "(any)"
        front.metrics.done(method, request["route"], status, clock() - began)


def _problem(error: Exception, request: web.Request, request_id: str) -> Problem:
    """The answer to any error; logs those that are faults of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BrokerError):
        if isinstance(error, Internal):
            log.error("request %s %s %s: %s", request_id, request.method, request.path, error)
        return problem_of(error)
    if isinstance(error, web.HTTPException):
        return _problem_of_http(error, request)
    if isinstance(error, (HttpProcessingError, ClientPayloadError, web.RequestPayloadError)):
        return Problem(BAD_REQUEST, f"The body cannot be read as it is encoded: {_first_line(error)}.")
    log.error("request %s %s %s failed", request_id, request.method, request.path, exc_info=error)
    return Problem(BROKER_FAULT, f"The broker failed; its log has the cause under request {request_id}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]


def _problem_of_http(error: web.HTTPException, request: web.Request) -> Problem:
    """aiohttp's own refusals (no such route, wrong method, ...) in our form."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(405, f"{request.method[:20]} is not possible here; this address takes {allowed}.", allow=allowed)
    if error.status == 404:
        return Problem(404, f"There is nothing at {request.path[:200]!r}; GET /openapi.json lists every address.")
    return Problem(error.status, f"{error.reason}.")

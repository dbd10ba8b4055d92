"""Calls between nodes over any `Transport`: a method's name and bytes there, bytes or an error back.

A call has one of four ends: the answer; `RemoteError`, the handler raised; `Unreachable`, it certainly never left; or
`CallUnknown`, it left and no answer came in time. Nothing is repeated here: only the caller knows whether that is safe.

Handlers run as tasks, bounded in number per peer, and are cancelled when their caller has stopped waiting. An answer
goes only to the start of the peer that asked: call ids count from 1 in every process, so a restarted peer must not be
given what its former self asked for. A node may call itself; that takes the same path but for the wire.

The owner passes on what its inbox receives: `receive` for requests and responses, `peer_disconnected`.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

import msgspec

from consensus.errors import ConsensusError, Refused, Unknown
from consensus.messages import Request, Response
from consensus.transport import Peer, Transport

log = logging.getLogger(__name__)

Handler = Callable[[Peer, bytes], Awaitable[bytes]]

_DEADLINE_MS_MAX = 3_600_000
_MESSAGE_CHARACTERS_MAX = 2_000
_FAULT_INTERVAL_S = 60.0


class Unreachable(Refused):
    """The call was certainly not delivered: there is no connection, or it takes no more right now."""


class CallUnknown(Unknown):
    """The call left and no answer came: it may have been carried out, or may still be."""


class RemoteError(ConsensusError):
    """The handler at the called node raised: `kind` is the class name of what it raised, `message` its text."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind, self.message = kind, message
        super().__init__(f"{kind}: {message}")


class _Call(msgspec.Struct, eq=False):
    """A call of ours that has no answer yet."""

    peer: Peer
    method: str
    answer: asyncio.Future[bytes]


class _Method(msgspec.Struct, frozen=True):
    handler: Handler
    expected: tuple[type[Exception], ...]


class Rpc:
    """See the module's text."""

    def __init__(self, transport: Transport, me: Peer, *, in_flight_max: int = 1024) -> None:
        """`me` stands for the caller when this node calls itself; `in_flight_max` bounds the handlers run per peer."""
        self._transport = transport
        self._me = me
        self._in_flight_max = in_flight_max
        self._methods: dict[str, _Method] = {}
        self._ids = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._running: dict[Peer, set[asyncio.Task[None]]] = {}
        self._faults: dict[tuple[str, str], float] = {}
        self._stopped = False

    def register(self, method: str, handler: Handler, *, expected: tuple[type[Exception], ...] = ()) -> None:
        """From now on `method` is answered by `handler(caller, body)`, which may raise.

        `ConsensusError` and the classes in `expected` are the caller's business; any other is logged here too."""
        if method in self._methods:
            raise ValueError(f"the method {method!r} is registered already")
        self._methods[method] = _Method(handler, (ConsensusError, *expected))

    async def call(self, node: int, method: str, body: bytes, timeout: float) -> bytes:
        """The answer of `method` at `node` within `timeout` seconds. Raises Unreachable, CallUnknown, RemoteError."""
        if self._stopped:
            raise Unreachable(f"{method} was not sent to node {node}: this node is stopping")
        loop = asyncio.get_running_loop()
        identity = next(self._ids)
        request = Request(identity, method, body, max(0, int(timeout * 1000)))
        peer = self._me if node == self._me.node else self._transport.connected(node)
        if peer is None:
            raise Unreachable(f"{method} was not sent to node {node}: there is no connection with it")
        call = _Call(peer, method, loop.create_future())
        self._calls[identity] = call
        expiry = loop.call_later(timeout, self._expire, identity, timeout)
        try:
            if peer is self._me:
                self._serve(peer, request)
            elif not self._transport.send(node, request):
                text = f"its {len(body)} bytes are too many, or too much waits to be sent already"
                raise Unreachable(f"{method} was not sent to node {node}: {text}")
            return await call.answer
        finally:
            expiry.cancel()
            self._calls.pop(identity, None)

    def receive(self, peer: Peer, message: Request | Response) -> None:
        """Takes what a peer sent. Answers to calls that have ended are ignored."""
        if isinstance(message, Request):
            self._serve(peer, message)
        else:
            self._answered(peer, message)

    def peer_disconnected(self, peer: Peer) -> None:
        """The connection with `peer` has ended: what was asked of it over that will not be answered."""
        for call in [call for call in self._calls.values() if call.peer == peer]:
            if not call.answer.done():
                text = f"the connection with node {peer.node} was lost before it answered {call.method}"
                call.answer.set_exception(CallUnknown(text))

    async def stop(self) -> None:
        """Cancels the handlers and ends the calls; later requests are refused, later calls raise."""
        self._stopped = True
        tasks = [task for running in self._running.values() for task in running]
        for task in tasks:
            task.cancel()
        for call in self._calls.values():
            if not call.answer.done():
                text = f"this node stopped before node {call.peer.node} answered {call.method}"
                call.answer.set_exception(CallUnknown(text))
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- calling ----------------------------------------------------------------------------------------

    def _answered(self, peer: Peer, response: Response) -> None:
        call = self._calls.get(response.id)
        if call is None or call.peer != peer or call.answer.done():
            return
        if response.error:
            message = response.body.decode(errors="replace")
            call.answer.set_exception(RemoteError(response.error, message))
        else:
            call.answer.set_result(response.body)

    def _expire(self, identity: int, timeout: float) -> None:
        call = self._calls.get(identity)
        if call is not None and not call.answer.done():
            text = f"node {call.peer.node} did not answer {call.method} within {timeout:g} s"
            call.answer.set_exception(CallUnknown(text))

    # --- serving ----------------------------------------------------------------------------------------

    def _serve(self, peer: Peer, request: Request) -> None:
        method = self._methods.get(request.method)
        running = self._running.get(peer)
        if method is None:
            self._refuse(peer, request, "UnknownMethod", f"this node does not know the method {request.method[:100]!r}")
            return
        if self._stopped or (running is not None and len(running) >= self._in_flight_max):
            self._refuse(peer, request, "Busy", "the node is stopping or answers too many calls of this peer already")
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._handle(peer, request, method))
        if running is None:
            running = self._running[peer] = set()
        running.add(task)
        timeout = min(max(request.deadline_ms, 0), _DEADLINE_MS_MAX) / 1000
        expiry = loop.call_later(timeout, task.cancel)

        def done(task: asyncio.Task[None]) -> None:
            expiry.cancel()
            running.discard(task)
            if not running:
                self._running.pop(peer, None)

        task.add_done_callback(done)

    async def _handle(self, peer: Peer, request: Request, method: _Method) -> None:
        try:
            body = await method.handler(peer, request.body)
        except method.expected as error:
            self._refuse(peer, request, type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its caller's to know
            self._report(request.method, error)
            self._refuse(peer, request, type(error).__name__, str(error))
        else:
            if not self._respond(peer, Response(request.id, "", body)):
                text = f"the answer's {len(body)} bytes are too many, or too much waits already"
                self._refuse(peer, request, "Busy", text)

    def _refuse(self, peer: Peer, request: Request, kind: str, message: str) -> None:
        self._respond(peer, Response(request.id, kind, message[:_MESSAGE_CHARACTERS_MAX].encode(errors="replace")))

    def _respond(self, peer: Peer, response: Response) -> bool:
        """Whether the answer left, or needs not: the start of the peer that asked may be gone."""
        if peer is self._me:
            asyncio.get_running_loop().call_soon(self._answered, peer, response)
            return True
        if self._transport.connected(peer.node) != peer:
            return True
        return self._transport.send(peer.node, response)

    def _report(self, method: str, error: Exception) -> None:
        """Logs an unexpected error with its cause; the same kind again only after a minute."""
        kind = (method, type(error).__name__)
        now = asyncio.get_running_loop().time()
        if now - self._faults.get(kind, -_FAULT_INTERVAL_S) >= _FAULT_INTERVAL_S:
            self._faults[kind] = now
            log.error("the handler of %s failed unexpectedly", method, exc_info=error)

"""`Rpc` over real transports: each of a call's four ends, and the bounds on what a peer can make this node do."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from consensus.errors import Busy, NotLeader, Refused, Unknown
from consensus.messages import Message, Request, Response
from consensus.rpc import CallUnknown, RemoteError, Rpc, Unreachable
from consensus.transport import Peer
from tests.unit.consensus.tcp_world import FAST, LOOPS, Node, Proxy, RawPeer, meet, run, running, stranger, until

pytestmark = pytest.mark.parametrize("loop", LOOPS)


class Caller(Node):
    """A node whose inbox passes everything on to its `Rpc`."""

    def __init__(self, node: int, *, in_flight_max: int = 1024, **options: object) -> None:
        super().__init__(node, **options)  # type: ignore[arg-type]
        self.rpc = Rpc(self.transport, self.me, in_flight_max=in_flight_max)
        inbox, rpc = self.inbox, self.rpc
        disconnected = inbox.peer_disconnected

        def peer_messages(peer: Peer, messages: list[Message]) -> None:
            for message in messages:
                assert isinstance(message, Request | Response)
                rpc.receive(peer, message)

        def peer_disconnected(peer: Peer) -> None:
            disconnected(peer)
            rpc.peer_disconnected(peer)

        inbox.peer_messages = peer_messages  # type: ignore[method-assign]
        inbox.peer_disconnected = peer_disconnected  # type: ignore[method-assign]


@contextlib.asynccontextmanager
async def callers(**options: object) -> AsyncIterator[tuple[Caller, Caller]]:
    one, two = Caller(1), Caller(2, **options)  # type: ignore[arg-type]
    async with running(one, two):
        await meet(one, two)
        yield one, two
        await one.rpc.stop()
        await two.rpc.stop()


async def echo(peer: Peer, body: bytes) -> bytes:
    return b"%d:" % peer.node + body


async def forever(peer: Peer, body: bytes) -> bytes:
    await asyncio.sleep(3600)
    raise AssertionError


def test_calls_are_answered_by_the_node_called(loop: str) -> None:
    async def work() -> None:
        async with callers() as (one, two):
            for caller in (one, two):
                caller.rpc.register("echo", echo)
            assert await one.rpc.call(2, "echo", b"x", 1) == b"1:x"
            assert await two.rpc.call(1, "echo", b"y", 1) == b"2:y"
            assert await one.rpc.call(1, "echo", b"z", 1) == b"1:z"
            big = b"b" * (10 << 20)
            assert await one.rpc.call(2, "echo", big, 5) == b"1:" + big
            answers = await asyncio.gather(*(one.rpc.call(2, "echo", b"%d" % n, 5) for n in range(500)))
            assert answers == [b"1:%d" % n for n in range(500)]
            assert not one.rpc._calls
            assert not two.rpc._running

    run(loop, work())


@pytest.mark.parametrize("callee", [1, 2])
def test_what_a_handler_raises_reaches_the_caller(loop: str, callee: int, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(peer: Peer, body: bytes) -> bytes:
        raise NotLeader(7, 3)

    async def expected(peer: Peer, body: bytes) -> bytes:
        raise KeyError("known")

    async def fault(peer: Peer, body: bytes) -> bytes:
        raise ZeroDivisionError("\N{SNOWMAN}" * 5000)

    async def work() -> None:
        async with callers() as (one, two):
            served = one if callee == 1 else two
            served.rpc.register("refuse", refuse)
            served.rpc.register("expected", expected, expected=(LookupError,))
            served.rpc.register("fault", fault)
            with pytest.raises(RemoteError) as caught:
                await one.rpc.call(callee, "refuse", b"", 1)
            assert caught.value.kind == "NotLeader"
            assert caught.value.message == "group 7 is not led by this node: node 3 leads it"
            with pytest.raises(RemoteError, match="KeyError: 'known'"):
                await one.rpc.call(callee, "expected", b"", 1)
            assert not caplog.records
            for _ in range(3):
                with pytest.raises(RemoteError) as caught:
                    await one.rpc.call(callee, "fault", b"", 1)
                assert caught.value.kind == "ZeroDivisionError"
                assert caught.value.message == "\N{SNOWMAN}" * 2000
            with pytest.raises(RemoteError, match="UnknownMethod: this node does not know the method 'nothing'"):
                await one.rpc.call(callee, "nothing", b"", 1)
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.getMessage() == "the handler of fault failed unexpectedly"
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError

    run(loop, work())


def test_a_node_without_a_connection_is_unreachable(loop: str) -> None:
    async def work() -> None:
        async with callers() as (one, two):
            with pytest.raises(Unreachable, match="echo was not sent to node 3: there is no connection with it") as far:
                await one.rpc.call(3, "echo", b"", 1)
            assert isinstance(far.value, Refused)
            await two.transport.stop()
            await until(lambda: one.transport.connected(2) is None)
            with pytest.raises(Unreachable):
                await one.rpc.call(2, "echo", b"", 1)
            assert not one.rpc._calls

    run(loop, work())


def test_what_does_not_fit_into_a_frame_is_unreachable_and_an_answer_too_large_is_busy(loop: str) -> None:
    async def huge(peer: Peer, body: bytes) -> bytes:
        return bytes(2 << 20)

    async def work() -> None:
        options = msgspec.structs.replace(FAST, frame_bytes_max=1 << 20)
        async with callers(options=options) as (one, two):
            two.rpc.register("huge", huge)
            one.rpc.register("echo", echo)
            with pytest.raises(Unreachable, match="its 2097152 bytes are too many"):
                await two.rpc.call(1, "echo", bytes(2 << 20), 1)
            with pytest.raises(RemoteError, match="Busy: the answer's 2097152 bytes are too many"):
                await one.rpc.call(2, "huge", b"", 1)

    run(loop, work())


@pytest.mark.parametrize("callee", [1, 2])
def test_no_answer_in_time_is_unknown_and_the_handler_is_cancelled(loop: str, callee: int) -> None:
    async def work() -> None:
        cancelled = asyncio.Event()

        async def slow(peer: Peer, body: bytes) -> bytes:
            try:
                return await forever(peer, body)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with callers() as (one, two):
            (one if callee == 1 else two).rpc.register("slow", slow)
            started = asyncio.get_running_loop().time()
            with pytest.raises(CallUnknown, match=rf"node {callee} did not answer slow within 0\.1 s") as caught:
                await one.rpc.call(callee, "slow", b"", 0.1)
            assert isinstance(caught.value, Unknown)
            assert 0.09 <= asyncio.get_running_loop().time() - started < 0.3
            await asyncio.wait_for(cancelled.wait(), 1)
            await until(lambda: not two.rpc._running and not one.rpc._running)
            assert not one.rpc._calls

    run(loop, work())


def test_a_late_answer_and_a_stranger_s_answer_are_ignored(loop: str) -> None:
    async def work() -> None:
        one, two = Caller(1), Caller(2)
        two.rpc.register("slow", forever)
        async with running(one, two):
            await meet(one, two)
            other = await RawPeer(stranger()).join(one.port)
            call = asyncio.ensure_future(one.rpc.call(2, "slow", b"", 0.3))
            await until(lambda: two.rpc._running)
            forged = msgspec.msgpack.encode([Response(number, "", b"forged") for number in range(10)])
            other.writer.write((len(forged) + 1).to_bytes(4, "big") + b"\x01" + forged)
            with pytest.raises(CallUnknown):
                await call
            assert two.transport.send(1, Response(1, "", b"late"))
            two.rpc.register("echo", echo)
            assert await one.rpc.call(2, "echo", b"x", 1) == b"1:x"
            await other.close()

    run(loop, work())


def test_a_lost_connection_ends_the_calls_over_it(loop: str) -> None:
    async def work() -> None:
        one, two = Caller(1), Caller(2)
        two.rpc.register("slow", forever)
        one.rpc.register("slow", forever)
        async with Proxy(two.port) as proxy:
            one.transport.set_addresses({2: proxy.address})
            async with running(one, two, introduce=False):
                await meet(one, two)
                calls = [asyncio.ensure_future(one.rpc.call(2, "slow", b"", 5)) for _ in range(10)]
                to_itself = asyncio.ensure_future(one.rpc.call(1, "slow", b"", 5))
                await until(lambda: len(next(iter(two.rpc._running.values()), ())) == 10)
                proxy.cut()
                ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 1)
                assert [type(end) for end in ends] == [CallUnknown] * 10
                assert "the connection with node 2 was lost before it answered slow" in str(ends[0])
                assert not to_itself.done()
                to_itself.cancel()
                await asyncio.gather(to_itself, return_exceptions=True)
                assert not one.rpc._calls
                await two.rpc.stop()
                await one.rpc.stop()

    run(loop, work())


def test_an_answer_for_a_former_start_does_not_reach_the_next(loop: str) -> None:
    """Both starts of node 9 number their calls from 1."""

    async def work() -> None:
        go = asyncio.Event()

        async def gated(peer: Peer, body: bytes) -> bytes:
            await go.wait()
            return body

        one = Caller(1)
        one.rpc.register("gated", gated)
        one.rpc.register("echo", echo)
        async with running(one):
            former = await RawPeer(stranger()).join(one.port)
            asked = msgspec.msgpack.encode([Request(1, "gated", b"of the former start", 5000)])
            former.writer.write((len(asked) + 1).to_bytes(4, "big") + b"\x01" + asked)
            await until(lambda: one.rpc._running)
            reborn = await RawPeer(msgspec.structs.replace(former.me, boot=2, nonce="second")).join(one.port)
            await until(lambda: one.kinds == ["up", "down", "up"])
            go.set()
            await until(lambda: not one.rpc._running)
            asked = msgspec.msgpack.encode([Request(1, "echo", b"of this one", 5000)])
            reborn.writer.write((len(asked) + 1).to_bytes(4, "big") + b"\x01" + asked)
            answer = msgspec.msgpack.decode((await reborn.frame())[1:])
            assert answer == [[31, 1, "", b"9:of this one"]]
            await former.close()
            await reborn.close()

    run(loop, work())


def test_handlers_are_bounded_per_peer(loop: str) -> None:
    async def work() -> None:
        async with callers(in_flight_max=10) as (one, two):
            two.rpc.register("slow", forever)
            two.rpc.register("echo", echo)
            calls = [asyncio.ensure_future(one.rpc.call(2, "slow", b"", 0.5)) for _ in range(12)]
            await until(lambda: sum(call.done() for call in calls) == 2)
            for call in calls[10:]:
                with pytest.raises(RemoteError, match="Busy"):
                    await call
            assert await two.rpc.call(2, "echo", b"x", 1) == b"2:x", "the node's own calls are counted apart"
            ends = await asyncio.gather(*calls[:10], return_exceptions=True)
            assert [type(end) for end in ends] == [CallUnknown] * 10
            await until(lambda: not two.rpc._running)
            assert await one.rpc.call(2, "echo", b"x", 1) == b"1:x"

    run(loop, work())


def test_a_cancelled_caller_leaves_nothing_behind(loop: str) -> None:
    async def work() -> None:
        async with callers() as (one, two):
            two.rpc.register("slow", forever)
            call = asyncio.ensure_future(one.rpc.call(2, "slow", b"", 5))
            await until(lambda: two.rpc._running)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert not one.rpc._calls

    run(loop, work())


def test_stopping_ends_calls_and_handlers(loop: str) -> None:
    async def work() -> None:
        async with callers() as (one, two):
            two.rpc.register("slow", forever)
            one.rpc.register("slow", forever)
            call = asyncio.ensure_future(one.rpc.call(2, "slow", b"", 5))
            back = asyncio.ensure_future(two.rpc.call(1, "slow", b"", 5))
            await until(lambda: two.rpc._running and one.rpc._running)
            await one.rpc.stop()
            with pytest.raises(CallUnknown, match="this node stopped before node 2 answered slow"):
                await call
            assert not one.rpc._running
            with pytest.raises(Unreachable, match="this node is stopping"):
                await one.rpc.call(2, "slow", b"", 1)
            with pytest.raises(RemoteError, match="Busy"):
                await two.rpc.call(1, "slow", b"", 1)
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    run(loop, work())


def test_absurd_deadlines_are_bounded(loop: str) -> None:
    async def work() -> None:
        one = Caller(1)
        one.rpc.register("slow", forever)
        one.rpc.register("echo", echo)
        async with running(one):
            peer = await RawPeer(stranger()).join(one.port)
            deadlines = [-(1 << 40), 0, 1 << 62]
            asked = msgspec.msgpack.encode([Request(n, "slow", b"", d) for n, d in enumerate(deadlines)])
            peer.writer.write((len(asked) + 1).to_bytes(4, "big") + b"\x01" + asked)
            await until(lambda: [len(tasks) for tasks in one.rpc._running.values()] == [1])
            assert one.kinds == ["up"]
            await peer.close()
            await one.rpc.stop()

    run(loop, work())


def test_a_method_has_one_handler(loop: str) -> None:
    rpc = Caller(1).rpc
    rpc.register("echo", echo)
    with pytest.raises(ValueError, match="the method 'echo' is registered already"):
        rpc.register("echo", echo)
    assert issubclass(Busy, Refused)

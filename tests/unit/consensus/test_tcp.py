"""`TcpTransport` over real sockets: what is sent arrives, within bounds; what is configured holds."""

import asyncio
import errno
import random
import secrets
import socket

import msgspec
import psutil
import pytest

from consensus.connection import split_address
from consensus.messages import Heartbeat, Message, Request, encode_messages
from consensus.tcp import TcpTransport
from consensus.transport import Peer
from tests.unit.consensus.tcp_world import (
    FAST,
    LOOPS,
    SECRET,
    Node,
    RawPeer,
    beat,
    frame_of,
    large,
    meet,
    run,
    running,
    stranger,
    until,
)

pytestmark = pytest.mark.parametrize("loop", LOOPS)


# --- delivery -------------------------------------------------------------------------------------------


def test_messages_arrive_whole_and_in_order_both_ways(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            sizes = random.Random(7)
            sent = {1: 0, 2: 0}
            for number in range(3000):
                for node, other in ((one, 2), (two, 1)):
                    size = sizes.choice((8, 80, 800, 8_000, 200_000 if number % 20 == 0 else 8))
                    assert node.transport.send(other, large(size, number))
                    sent[other] += size
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: len(one.inbox.messages) == len(two.inbox.messages) == 3000, what="all arrived")
            for node in (one, two):
                requests = [m for m in node.inbox.messages if isinstance(m, Request)]
                assert [m.id for m in requests] == list(range(3000))
                assert all(m.body == m.id.to_bytes(8, "big") * (len(m.body) // 8) for m in requests)
                assert sum(len(m.body) for m in requests) == sent[node.me.node]

    run(loop, work())


def test_what_is_sent_in_one_turn_leaves_as_one_frame(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            for number in range(100):
                assert one.transport.send(2, beat(number))
            await until(lambda: len(two.inbox.messages) == 100)
            assert [len(messages) for _, messages in two.inbox.frames] == [100]
            assert two.inbox.messages == [beat(number) for number in range(100)]

    run(loop, work())


def test_small_messages_keep_their_place_around_large_ones(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            sent = [beat(1), large(3 << 20), beat(2), beat(3), large(1 << 16), large(900_000), beat(4)]
            for message in sent:
                assert one.transport.send(2, message)
            await until(lambda: len(two.inbox.messages) == len(sent))
            assert two.inbox.messages == sent

    run(loop, work())


def test_a_message_up_to_the_bound_passes_and_a_larger_one_is_refused(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        options = msgspec.structs.replace(FAST, frame_bytes_max=1 << 20)
        one, two = Node(1, options=options), Node(2, options=options)
        async with running(one, two):
            await meet(one, two)
            overhead = len(msgspec.msgpack.encode(Request(1, "large", b"x" * 70_000, 1000))) - 70_000 + 2
            fits = Request(1, "large", b"x" * ((1 << 20) - overhead), 1000)
            over = Request(1, "large", b"x" * ((1 << 20) - overhead + 1), 1000)
            assert not one.transport.send(2, over)
            assert "a Request of 1048575 bytes for node 2 is too large for a frame" in caplog.text
            assert one.transport.send(2, fits)
            assert one.transport.send(2, beat(1))
            await until(lambda: len(two.inbox.messages) == 2)
            assert two.inbox.messages == [fits, beat(1)]
            assert one.kinds == two.kinds == ["up"]

    run(loop, work())


def test_no_delay_is_set_at_both_ends(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            for node in (one, two):
                (connection,) = node.transport._links.values()
                assert connection._transport is not None
                sock = connection._transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(loop, work())


def test_send_without_a_connection_says_so(loop: str) -> None:
    async def work() -> None:
        one = Node(1)
        assert not one.transport.send(2, beat(1))
        async with running(one):
            assert not one.transport.send(2, beat(1))
            assert one.transport.connected(2) is None

    run(loop, work())


def test_stop_lets_go_of_what_was_sent_before(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            for number in range(1000):
                one.transport.send(2, large(800, number))
            await one.transport.stop()
            assert one.kinds == ["up", "down"]
            assert not one.transport.send(2, beat(1))
            await until(lambda: two.kinds == ["up", "down"])
            assert len(two.inbox.messages) == 1000
        with socket.create_server(("127.0.0.1", one.port)):
            pass

    run(loop, work())


def test_stopping_at_any_moment_ends_soon_and_leaves_no_socket(loop: str) -> None:
    async def work() -> None:
        moments = random.Random(3)
        process = psutil.Process()
        before = process.num_fds()
        for _ in range(60):
            one, two = Node(1), Node(5)
            one.transport.set_addresses({5: two.address})
            one.transport.seek([two.address, f"localhost:{two.port}"])
            async with asyncio.timeout(2), running(two, one, introduce=False):
                for _ in range(moments.randint(0, 14)):
                    await asyncio.sleep(0)
                await asyncio.sleep(moments.choice((0, 0.001, 0.004)))
        await asyncio.sleep(0.05)
        assert process.num_fds() <= before + 2

    run(loop, work())


# --- bounds ---------------------------------------------------------------------------------------------


def test_unsent_bytes_are_bounded_and_a_slow_reader_gets_all_that_was_taken(loop: str) -> None:
    async def work() -> None:
        options = msgspec.structs.replace(FAST, unsent_bytes_max=4 << 20, silence_s=60.0)
        one = Node(1, options=options)
        async with running(one):
            slow = await RawPeer(stranger()).join(one.port)
            await until(lambda: one.transport.connected(9))
            taken = 0
            refused_in_a_row = 0
            while refused_in_a_row < 20:
                if one.transport.send(9, large(64_000, taken)):
                    taken, refused_in_a_row = taken + 1, 0
                else:
                    refused_in_a_row += 1
                    await asyncio.sleep(0.01)
                assert one.transport._links[9].unsent_bytes <= (4 << 20)
                assert taken < 2000, "no bound"
            received: list[Request | Heartbeat] = []
            while len(received) < taken:
                received += msgspec.msgpack.decode((await slow.frame())[1:], type=list[Request | Heartbeat])
            assert [m.id for m in received if isinstance(m, Request)] == list(range(taken))
            assert one.transport.send(9, beat(1)), "the reader has caught up"
            await slow.close()

    run(loop, work())


def test_a_message_above_the_unsent_bound_goes_when_nothing_waits(loop: str) -> None:
    async def work() -> None:
        options = msgspec.structs.replace(FAST, unsent_bytes_max=100_000)
        one, two = Node(1, options=options), Node(2)
        async with running(one, two):
            await meet(one, two)
            assert one.transport.send(2, large(1_000_000))
            assert not one.transport.send(2, beat(1))
            await until(lambda: len(two.inbox.messages) == 1)

    run(loop, work())


def test_a_flood_from_one_peer_leaves_turns_to_the_others(loop: str) -> None:
    async def work() -> None:
        options = msgspec.structs.replace(FAST, turn_bytes_max=1 << 20)
        one, flooder, other = Node(1, options=options), Node(2), Node(3)
        async with running(one, flooder, other):
            await meet(one, flooder, other)
            for number in range(60):
                assert flooder.transport.send(1, large(1 << 20, number))
            await until(lambda: len(one.inbox.messages) >= 2)
            assert other.transport.send(1, beat(1))
            await until(lambda: beat(1) in one.inbox.messages and len(one.inbox.messages) == 61)
            assert one.inbox.messages.index(beat(1)) < 60

    run(loop, work())


def test_a_connection_that_keeps_its_buffer_full_yields(loop: str) -> None:
    async def work() -> None:
        one = Node(1, options=msgspec.structs.replace(FAST, turn_bytes_max=128 << 10))
        async with running(one):
            peer = await RawPeer(stranger()).join(one.port)
            await until(lambda: one.transport.connected(9))
            turns: list[int] = []
            running_loop = asyncio.get_running_loop()

            def count(_: Peer, messages: list[Message]) -> None:
                if not turns or turns[-1] < 0:
                    turns.append(0)
                    running_loop.call_soon(turns.append, -1)
                turns[-1] += len(messages)

            one.inbox.peer_messages = count  # type: ignore[method-assign]
            peer.writer.write(frame_of(encode_messages([large(1000)])) * 8000)
            await until(lambda: sum(turn for turn in turns if turn > 0) == 8000)
            assert max(turns) * 1000 <= (128 + 64) << 10
            await peer.close()

    run(loop, work())


def test_an_idle_connection_gives_its_large_buffer_back(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            assert one.transport.send(2, large(20 << 20))
            await until(lambda: len(two.inbox.messages) == 1)
            reader = two.transport._links[1]._reader
            await until(lambda: len(reader._view) == 64 << 10, what="shrunk")
            assert one.transport.send(2, beat(1))
            await until(lambda: len(two.inbox.messages) == 2)

    run(loop, work())


# --- configuration --------------------------------------------------------------------------------------


def test_later_handshakes_tell_the_new_cluster(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1, cluster=""), Node(2, cluster="")
        async with running(one, two):
            await meet(one, two)
            two.transport.update_identity("formed")
            assert one.transport.connected(2) == two.me
            two.transport._links[1].close()
            formed = msgspec.structs.replace(two.me, cluster="formed")
            await until(lambda: one.transport.connected(2) == formed)

    run(loop, work())


def test_a_taken_port_is_named(loop: str) -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            one = Node(1, port=taken.getsockname()[1])
            with pytest.raises(OSError, match=f"cannot listen for peers on {one.address}") as caught:
                await one.start()
            assert caught.value.errno == errno.EADDRINUSE
            await one.transport.stop()

    run(loop, work())


def test_a_node_may_listen_on_ipv6_and_on_any_free_port(loop: str) -> None:
    async def work() -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 loopback here")
        me = msgspec.structs.replace(stranger(1), address="[::1]:1")
        one = TcpTransport(
            me, "[::1]:0", secret=SECRET, random=random.Random(1), random_bytes=secrets.token_bytes, options=FAST
        )
        two = Node(2)
        await one.start(Node(1).inbox)
        host, port = one.listening[0]
        two.transport.set_addresses({1: f"[{host}]:{port}"})
        async with running(two, introduce=False):
            await until(lambda: two.transport.connected(1) == me)
        await one.stop()

    run(loop, work())


def test_bad_addresses_are_refused_at_once(loop: str) -> None:
    for address in ("host", "host:", ":x", "::1:7", "host:70000", "host:-1"):
        with pytest.raises(ValueError, match="is not host:port"):
            split_address(address)
    assert split_address("[::1]:7") == ("::1", 7)
    assert split_address("a.example:65535") == ("a.example", 65535)

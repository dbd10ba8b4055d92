"""`TcpTransport` over real sockets: delivery, bounds, reconnecting, one connection per pair."""

import asyncio
import errno
import logging
import random
import re
import secrets
import signal
import socket
import subprocess
import sys

import msgspec
import pytest

from consensus.messages import Heartbeat, Message, Request, encode_messages
from consensus.tcp import TcpTransport, split_address
from consensus.transport import Peer
from tests.unit.consensus.tcp_world import (
    FAST,
    LOOPS,
    SECRET,
    Node,
    Proxy,
    RawPeer,
    beat,
    frame_of,
    free_port,
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


# --- losing and finding connections ---------------------------------------------------------------------


def test_a_cut_connection_is_told_at_both_ends_and_made_again(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with Proxy(two.port) as proxy:
            one.transport.set_addresses({2: proxy.address})
            two.transport.set_addresses({1: one.address})
            async with running(one, two, introduce=False):
                await meet(one, two)
                for times in range(1, 6):
                    proxy.cut()
                    await until(lambda times=times: len(one.kinds) == len(two.kinds) == 1 + 2 * times)
                assert one.kinds == two.kinds == ["up", *["down", "up"] * 5]
                assert one.transport.send(2, beat(1))
                await until(lambda: two.inbox.messages == [beat(1)])

    run(loop, work())


def test_a_restarted_peer_replaces_its_former_self_at_once(loop: str) -> None:
    async def work() -> None:
        one = Node(1, options=msgspec.structs.replace(FAST, silence_s=60.0))
        async with running(one):
            before = await RawPeer(stranger()).join(one.port)
            await until(lambda: one.transport.connected(9) == before.me)
            reborn = msgspec.structs.replace(before.me, boot=2, nonce="another")
            after = await RawPeer(reborn).join(one.port)
            await until(lambda: one.transport.connected(9) == reborn)
            assert one.inbox.events == [("up", before.me), ("down", before.me), ("up", reborn)]
            await before.closed()
            one.transport.send(9, beat(1))
            assert (await after.frame())[1:] == msgspec.msgpack.encode([beat(1)])
            assert len(one.inbox.events) == 3, "the end of the old connection says nothing of the new one"
            await before.close()
            await after.close()

    run(loop, work())


def test_a_real_restart_is_seen_by_the_other_end(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            await two.transport.stop()
            await until(lambda: one.kinds == ["up", "down"])
            again = Node(2, boot=2, port=two.port)
            async with running(again, introduce=False):
                await meet(one, again)
                assert one.kinds == ["up", "down", "up"]

    run(loop, work())


PEER_PROCESS = """
import asyncio, sys
from tests.unit.consensus.tcp_world import Node
async def main():
    node = Node(2, port=int(sys.argv[1]))
    node.transport.set_addresses({1: sys.argv[2]})
    await node.start()
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_the_death_of_a_killed_process_is_told_at_once(loop: str) -> None:
    async def work() -> None:
        one = Node(1)
        port = free_port()
        one.transport.set_addresses({2: f"127.0.0.1:{port}"})
        process = subprocess.Popen(  # noqa: ASYNC220 - the loop has nothing else to do
            [sys.executable, "-c", PEER_PROCESS, str(port), one.address]
        )
        try:
            async with running(one, introduce=False):
                await until(lambda: one.transport.connected(2), timeout=15)
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed = asyncio.get_running_loop().time()
                await until(lambda: one.kinds == ["up", "down"])
                assert asyncio.get_running_loop().time() - killed < 0.1
        finally:
            process.kill()
            process.wait()

    run(loop, work())


def test_the_end_is_told_though_bytes_still_wait_for_the_peer(loop: str) -> None:
    async def work() -> None:
        one = Node(1)
        async with running(one):
            peer = await RawPeer(stranger()).join(one.port)
            await until(lambda: one.transport.connected(9))
            assert one.transport.send(9, large(30 << 20))
            await asyncio.sleep(0.05)
            peer.writer.write_eof()
            await until(lambda: one.kinds == ["up", "down"], timeout=0.3)
            await peer.closed()
            await peer.close()

    run(loop, work())


def test_silence_ends_a_connection(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with Proxy(two.port) as proxy:
            one.transport.set_addresses({2: proxy.address})
            async with running(one, two, introduce=False):
                await meet(one, two)
                proxy.silent = True
                await until(lambda: one.kinds[:2] == two.kinds[:2] == ["up", "down"])
                proxy.silent = False
                await meet(one, two)
        assert "it said nothing for" in caplog.text

    run(loop, work())


def test_idle_connections_stay(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            await asyncio.sleep(3 * FAST.silence_s)
            assert one.kinds == two.kinds == ["up"]
            assert not one.inbox.messages, "pings are not delivered"

    run(loop, work())


# --- who dials ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delays", [(0, 0), (0.03, 0), (0, 0.03), (0.03, 0.03), (0.03, 0.031)])
def test_of_two_simultaneous_dials_one_connection_stays(loop: str, delays: tuple[float, float]) -> None:
    """Each dials the other through a proxy of its own, so that the handshakes interleave in many ways."""

    async def work() -> None:
        for _ in range(3):
            await once()

    async def once() -> None:
        eager = msgspec.structs.replace(FAST, patience_s=0.0, back_off_max_s=1.0)
        one, two = Node(1, options=eager), Node(2, options=eager)
        async with Proxy(two.port) as to_two, Proxy(one.port) as to_one:
            to_two.delay_s, to_one.delay_s = delays
            one.transport.set_addresses({2: to_two.address})
            two.transport.set_addresses({1: to_one.address})
            async with running(one, two, introduce=False):
                await meet(one, two)
                await asyncio.sleep(0.25)
                await meet(one, two)
                ups = (len(one.kinds), len(two.kinds))
                for number in range(10):
                    assert one.transport.send(2, beat(number))
                    assert two.transport.send(1, beat(number))
                    await asyncio.sleep(0.005)
                await until(lambda: len(one.inbox.messages) == len(two.inbox.messages) == 10)
                assert (len(one.kinds), len(two.kinds)) == ups, "settled"
                mine, theirs = one.transport._links[2], two.transport._links[1]
                assert (mine.dialled is None) != (theirs.dialled is None), "both ends hold the same one"
                assert len(one.transport._connections) == len(two.transport._connections) == 1

    run(loop, work())


@pytest.mark.parametrize(("me", "kept"), [(1, "mine"), (12, "theirs")])
def test_when_both_ends_hold_one_the_lower_ids_stays(loop: str, me: int, kept: str) -> None:
    async def work() -> None:
        node = Node(me)
        async with running(node):
            # The node dials a listener of ours, which answers its handshake as node 9 ...
            answering = RawPeer(stranger(9), dialled=False)
            node.transport.set_addresses({9: f"127.0.0.1:{await answering.listen()}"})
            await answering.shake()
            await until(lambda: node.transport.connected(9) == answering.me)
            # ... and node 9, in the same start of itself, dials it too.
            dialling = await RawPeer(answering.me).join(node.port)
            winner, loser = (answering, dialling) if kept == "mine" else (dialling, answering)
            await loser.closed()
            assert node.transport.connected(9) == answering.me
            assert node.transport.send(9, beat(1))
            assert (await winner.frame())[1:] == msgspec.msgpack.encode([beat(1)])
            assert node.kinds == (["up"] if kept == "mine" else ["up", "down", "up"])
            await dialling.close()
            await answering.close()

    run(loop, work())


def test_the_lower_node_dials_and_the_higher_helps_when_it_knows_better(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            assert one.transport._links[2].dialled == two.address
        one, two = Node(1), Node(2)
        two.transport.set_addresses({1: one.address})
        async with running(one, two, introduce=False):
            started = asyncio.get_running_loop().time()
            await meet(one, two)
            assert asyncio.get_running_loop().time() - started >= FAST.patience_s
            assert two.transport._links[1].dialled == one.address

    run(loop, work())


def test_attempts_are_spaced_and_reported_once(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "consensus")

    async def work() -> None:
        attempts = 0

        def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal attempts
            attempts += 1
            writer.transport.abort()

        listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
        one = Node(1)
        port = listener.sockets[0].getsockname()[1]
        one.transport.set_addresses({2: f"127.0.0.1:{port}", 3: f"127.0.0.1:{free_port()}"})
        async with running(one, introduce=False):
            await asyncio.sleep(0.5)
        assert 8 <= attempts <= 30, attempts
        listener.close()
        assert len(re.findall("cannot reach the peer at", caplog.text)) == 2

    run(loop, work())


def test_nodes_left_out_are_let_go_and_addresses_may_change(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            one.transport.set_addresses({1: one.address, 2: "127.0.0.1:1"})
            await asyncio.sleep(0.05)
            assert one.kinds == ["up"], "an address is news for the next dial"
            two.transport.set_addresses({})
            one.transport.set_addresses({})
            assert one.kinds == ["up", "down"]
            await asyncio.sleep(3 * FAST.patience_s)
            assert one.kinds == two.kinds == ["up", "down"], "nobody dials"
            one.transport.set_addresses({2: two.address})
            await meet(one, two)

    run(loop, work())


def test_a_dial_under_way_to_a_node_let_go_comes_to_nothing(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with Proxy(two.port) as proxy:
            proxy.delay_s = 0.05
            one.transport.set_addresses({2: proxy.address})
            async with running(one, two, introduce=False):
                await until(lambda: proxy.accepted == 1)
                one.transport.set_addresses({})
                await asyncio.sleep(0.4)
                assert one.kinds == two.kinds == []
                assert proxy.accepted == 1

    run(loop, work())


def test_seeking_finds_out_ids_and_ends_at_the_node_itself(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with Proxy(one.port) as to_one, Proxy(two.port) as to_two:
            two.transport.seek([to_one.address, to_two.address])
            async with running(one, two, introduce=False):
                await meet(one, two)
                await asyncio.sleep(0.3)
                assert (to_one.accepted, to_two.accepted) == (1, 1)
                assert one.kinds == two.kinds == ["up"]
                assert not two.inbox.refusals
                to_one.cut()
                await until(lambda: two.kinds == ["up", "down", "up"])
                two.transport.set_addresses({1: one.address, 2: two.address})
                two.transport.seek([])
                await asyncio.sleep(0.2)
                assert two.kinds == ["up", "down", "up"], "what seeking found stays"

    run(loop, work())


def test_one_node_sought_under_two_names_is_connected_once(loop: str) -> None:
    async def work() -> None:
        for seeker in (Node(1), Node(12)):
            sought = Node(5)
            seeker.transport.seek([sought.address, f"localhost:{sought.port}"])
            async with running(seeker, sought, introduce=False):
                await meet(seeker, sought)
                await asyncio.sleep(0.2)
                assert seeker.kinds == sought.kinds == ["up"]

    run(loop, work())


def test_an_address_that_another_node_answers_is_named(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        one, two, three = Node(1), Node(2), Node(3)
        one.transport.set_addresses({2: three.address, 3: three.address, 4: one.address})
        async with running(one, two, three, introduce=False):
            await until(lambda: f"the address {three.address} of node 2 is answered by node 3" in caplog.text)
            await until(lambda: f"the address {one.address} of node 4 is answered by node 1" in caplog.text)
            await meet(one, three)
            await asyncio.sleep(0.3)
            assert one.kinds == three.kinds == ["up"], "the right address is not disturbed"
            assert not three.inbox.refusals

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

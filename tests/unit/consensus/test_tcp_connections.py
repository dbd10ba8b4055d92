"""Who dials whom, how often, which connection stays, and how soon an end is told."""

import asyncio
import logging
import re
import signal
import subprocess
import sys

import msgspec
import pytest

from tests.unit.consensus.tcp_world import (
    FAST,
    LOOPS,
    Node,
    Proxy,
    RawPeer,
    beat,
    free_port,
    large,
    meet,
    run,
    running,
    stranger,
    until,
)

pytestmark = pytest.mark.parametrize("loop", LOOPS)


# --- losing and finding connections ---------------------------------------------------------------------


def test_a_cut_connection_is_told_at_both_ends_and_made_again(loop: str) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with Proxy(two.port) as proxy:
            one.transport.set_addresses({2: proxy.address})
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

"""Whoever reaches the port without the secret, or has it and sends nonsense, costs a connection and a log line."""

import asyncio
import logging
import random
import struct

import msgspec
import pytest

from consensus.messages import encode_messages
from tests.unit.consensus.tcp_world import (
    FAST,
    LOOPS,
    Node,
    Proxy,
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


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert all(record.name.startswith("consensus.") for record in found), found
    return [record.getMessage() for record in found]


# --- without the secret ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_wrong_secret_is_named_once_at_each_end(loop: str, wrong: int, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        one = Node(1, secret=b"wrong" if wrong == 1 else b"right")
        two = Node(2, secret=b"wrong" if wrong == 2 else b"right")
        async with Proxy(two.port) as proxy:
            one.transport.set_addresses({2: proxy.address})
            async with running(one, two, introduce=False):
                await until(lambda: proxy.accepted >= 5)
                assert one.kinds == two.kinds == []
                assert not one.inbox.judged
                assert not two.inbox.judged
                assert not one.inbox.refusals, "an unproven refusal is not a peer's word"
            assert b"wrong" not in proxy.seen
            assert b"right" not in proxy.seen
        first, second = warnings(caplog)
        assert "set the same peers.secret on every node" in first
        assert "set the same peers.secret on every node" in second
        assert (proxy.address in first) != (proxy.address in second), "one names the address it dialled"

    run(loop, work())


def test_a_tampered_handshake_comes_to_nothing(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy changes the node id that the dialler tells."""

    async def work() -> None:
        one, two = Node(1), Node(2)

        class Forger(Proxy):
            def alter(self, data: bytes) -> bytes:
                return data.replace(msgspec.msgpack.encode(one.me.uuid), msgspec.msgpack.encode(f"{7:032x}"))

        async with Forger(two.port) as proxy:
            one.transport.set_addresses({2: proxy.address})
            async with running(one, two, introduce=False):
                await until(lambda: proxy.accepted >= 3)
                assert one.kinds == two.kinds == []
                assert not two.inbox.judged
        assert len(warnings(caplog)) == 2

    run(loop, work())


def test_noise_before_the_handshake_closes_only_itself(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        noise = random.Random(5)
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            openings = [
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
                struct.pack(">I", (1 << 32) - 1),
                struct.pack(">I", 5000) + bytes(5000),
                bytes(100),
                frame_of(encode_messages([beat(1)])),
                frame_of(b"\x91" * 4000),
                *(noise.randbytes(noise.randint(4, 2000)) for _ in range(60)),
            ]
            for opening in openings:
                peer = RawPeer(stranger())
                await peer.dial(one.port)
                peer.writer.write(opening)
                await peer.closed()
                await peer.close()
            assert one.kinds == two.kinds == ["up"]
            assert one.transport.send(2, beat(1))
            await until(lambda: two.inbox.messages == [beat(1)])
            assert not one.inbox.messages
        assert 1 <= len(warnings(caplog)) <= 4, "one line per kind and address in a minute"

    run(loop, work())


def test_silent_strangers_are_bounded_in_number_and_time(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        options = msgspec.structs.replace(FAST, half_open_max=10, handshake_timeout_s=1.0)
        one, two = Node(1, options=options), Node(2)
        async with running(one, introduce=False):
            strangers = [RawPeer(stranger()) for _ in range(40)]
            for peer in strangers:
                await peer.dial(one.port)
            await until(lambda: len(one.transport._connections) == 10)
            two.transport.set_addresses({1: one.address})
            async with running(two, introduce=False):
                await meet(one, two)
                await asyncio.gather(*(peer.closed() for peer in strangers))
                assert len(one.transport._connections) == 1
                assert one.kinds == ["up"]
            for peer in strangers:
                await peer.close()
        messages = warnings(caplog)
        assert any("10 connections wait to prove themselves: closing the oldest" in message for message in messages)
        assert any("no handshake in time" in message for message in messages)
        assert len(messages) == 2

    run(loop, work())


def test_a_listener_that_says_nothing_is_given_up(loop: str) -> None:
    async def work() -> None:
        accepted = 0

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal accepted
            accepted += 1

        options = msgspec.structs.replace(FAST, handshake_timeout_s=0.1)
        mute = await asyncio.start_server(accept, "127.0.0.1", 0)
        one = Node(1, options=options)
        one.transport.set_addresses({2: f"127.0.0.1:{mute.sockets[0].getsockname()[1]}"})
        async with running(one, introduce=False):
            await until(lambda: accepted >= 3)
        mute.close()

    run(loop, work())


# --- with the secret ------------------------------------------------------------------------------------


def test_refusals_reach_the_other_end_with_their_reason(loop: str) -> None:
    async def work() -> None:
        one, two, three = Node(1), Node(2), Node(3)
        one.inbox.refuse[2] = "node 2 was forgotten"  # the dialler refuses
        three.inbox.refuse[1] = "its directory is an old copy"  # the acceptor refuses
        async with running(one, two, three):
            await until(lambda: two.inbox.refusals and one.inbox.refusals)
            assert two.inbox.refusals[0] == (1, one.address, "node 2 was forgotten")
            assert one.inbox.refusals[0] == (3, three.address, "its directory is an old copy")
            assert one.kinds == []
            assert not three.inbox.refusals
            await meet(two, three)
            judged = one.inbox.judged
            assert two.me in judged
            one.inbox.refuse.clear()
            three.inbox.refuse.clear()
            await meet(one, two, three)

    run(loop, work())


def test_a_second_node_with_the_same_id_is_refused_and_told(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        one, twin = Node(1), Node(1)
        twin.transport.seek([one.address])
        async with running(one, twin, introduce=False):
            await until(lambda: twin.inbox.refusals)
            node, address, reason = twin.inbox.refusals[0]
            assert (node, address) == (1, one.address)
            assert reason == f"node id 1 is used by two nodes, at {one.address} and at {twin.address}"
            assert one.kinds == twin.kinds == []
            assert not one.inbox.judged
        assert f"the peer at {twin.address} uses this node's id, 1" in caplog.text

    run(loop, work())


def test_a_peer_that_advertises_no_address_is_refused(loop: str) -> None:
    async def work() -> None:
        one = Node(1)
        async with running(one):
            odd = RawPeer(msgspec.structs.replace(stranger(), address="nowhere"))
            with pytest.raises(Exception, match="refuses this node: others cannot reach it"):
                await odd.join(one.port)
            await odd.closed()
            await odd.close()

    run(loop, work())


GOOD = encode_messages([beat(1)])
BAD_FRAMES = {
    "nothing": struct.pack(">I", 0),
    "no body": struct.pack(">I", 1) + b"\x01",
    "too long": struct.pack(">I", (64 << 20) + 1),
    "version": struct.pack(">IB", len(GOOD) + 1, 2) + GOOD,
    "not a list": frame_of(b"\xc0"),
    "not a message": frame_of(b"\x91\xc0"),
    "unknown tag": frame_of(b"\x91\x92\x63\x01"),
    "a hello": frame_of(msgspec.msgpack.encode(["hello", 1, "", 1, "", "", "", b"x" * 32])),
    "trailing": frame_of(GOOD + b"\x00"),
    "huge list": frame_of(b"\xdd\xff\xff\xff\xff" + bytes(100)),
    "huge inner list": frame_of(b"\x91\x97\x0a\x01\x01\x01\x01\xdd\xff\xff\xff\xff\x01"),
    "deep": frame_of(b"\x91" * 1_000_000),
    "not UTF-8": frame_of(b"\x91\x95\x1e\x01\xa2\xff\xfe\xc4\x00\x00"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_a_bad_frame_costs_its_connection_and_one_line(loop: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            peer = await RawPeer(stranger()).join(one.port)
            await until(lambda: one.transport.connected(9))
            peer.writer.write(frame_of(GOOD) + BAD_FRAMES[kind] + frame_of(GOOD))
            await peer.closed()
            assert one.transport.connected(9) is None
            assert [e for e in one.inbox.events if e[1].node == 9] == [("up", peer.me), ("down", peer.me)]
            assert one.inbox.messages == [beat(1)], "nothing behind the bad frame is believed"
            await peer.close()
            assert one.transport.send(2, beat(1))
            await until(lambda: two.inbox.messages == [beat(1)])
            assert one.transport.connected(2) == two.me
        (line,) = warnings(caplog)
        assert line.startswith("closed the connection with node 9 at 127.0.0.1: it sent a ")

    run(loop, work())


def test_proven_peers_that_send_noise_harm_nobody_else(loop: str) -> None:
    async def work() -> None:
        noise = random.Random(11)
        samples = encode_messages([large(64), beat(2), large(640)])
        one, two = Node(1), Node(2)
        async with running(one, two):
            await meet(one, two)
            for _ in range(60):
                peer = await RawPeer(stranger()).join(one.port)
                body = bytearray(samples if noise.random() < 0.5 else noise.randbytes(300))
                for _ in range(5):
                    body[noise.randrange(len(body))] = noise.randrange(256)
                peer.writer.write(frame_of(bytes(body)) if noise.random() < 0.8 else bytes(body))
                peer.writer.write_eof()
                await peer.closed()
                await peer.close()
            assert [e for e in one.inbox.events if e[1].node == 2] == [("up", two.me)]
            ups_and_downs = [kind for kind, peer in one.inbox.events if peer.node == 9]
            assert ups_and_downs == ["up", "down"] * 60
            assert one.transport.send(2, beat(1))
            await until(lambda: beat(1) in two.inbox.messages)

    run(loop, work())


def test_a_frame_cut_off_by_the_end_is_dropped(loop: str) -> None:
    async def work() -> None:
        one = Node(1)
        async with running(one):
            peer = await RawPeer(stranger()).join(one.port)
            peer.writer.write(frame_of(GOOD) + frame_of(encode_messages([large(100_000)]))[:50_000])
            peer.writer.write_eof()
            await peer.closed()
            assert one.kinds == ["up", "down"]
            assert one.inbox.messages == [beat(1)]
            await peer.close()

    run(loop, work())

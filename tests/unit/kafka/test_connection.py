"""A connection's promises: order, bounds, slow readers held back, and that what is broken ends nothing but itself."""

import asyncio
import logging
import re
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from tests.unit.kafka.door import BIG, ECHO, FAIL, GATE, PASS, SILENT, WAIT, Client, Door, door, frame

MIB = 1 << 20

Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on either event loop: what is written and paused differs between them."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(work: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work)  # type: ignore[arg-type]

    return run


def held(opened: Door) -> tuple[int, int]:
    return opened.listener.shared.requests.used, opened.listener.shared.answers.used


# --- order ------------------------------------------------------------------------------------------------


def test_requests_are_answered_with_their_own_correlation_id(run: Run) -> None:
    async def work() -> None:
        async with door() as opened:
            client = await opened.client()
            await client.send(frame(ECHO, b"one", correlation=7), frame(ECHO, b"two", correlation=-8, client=None))
            assert await client.answer() == (7, b"one")
            assert await client.answer() == (-8, b"two")
            assert await client.ask(ECHO, b"flexible", version=1) == b"\0flexible"  # tagged fields in the header

    run(work())


def test_the_next_request_begins_when_the_one_before_has_been_answered(run: Run) -> None:
    async def work() -> None:
        async with door() as opened:
            client = await opened.client()
            await client.send(frame(GATE, b"first", correlation=1), frame(ECHO, b"second", correlation=2))
            await opened.scene.until_begun(1)
            other = await opened.client()
            assert await other.ask(ECHO, b"other") == b"other"  # another connection does not wait
            assert opened.scene.begun == [b"first", b"other"]
            opened.scene.gates[b"first"].set()
            assert [await client.answer(), await client.answer()] == [(1, b"first"), (2, b"second")]

    run(work())


def test_requests_whose_turn_is_passed_on_run_together_and_are_answered_in_order(run: Run) -> None:
    async def work() -> None:
        async with door() as opened:
            client = await opened.client()
            bodies = [str(i).encode() for i in range(20)]
            await client.send(*(frame(PASS, body, correlation=i) for i, body in enumerate(bodies)))
            await opened.scene.until_begun(20)
            assert opened.scene.begun == bodies
            for body in reversed(bodies):
                opened.scene.gates[body].set()
                await asyncio.sleep(0)
            assert [await client.answer() for _ in bodies] == list(enumerate(bodies))
            # and the turn is there again
            assert await client.ask(ECHO, b"after") == b"after"

    run(work())


def test_a_request_without_an_answer_leaves_no_gap(run: Run) -> None:
    async def work() -> None:
        async with door() as opened:
            client = await opened.client()
            await client.send(frame(PASS, b"a"), frame(SILENT, b"b", correlation=2), frame(ECHO, b"c", correlation=3))
            await opened.scene.until_begun(3)
            opened.scene.gates[b"a"].set()
            assert [await client.answer(), await client.answer()] == [(1, b"a"), (3, b"c")]

    run(work())


def test_frames_may_arrive_in_any_pieces(run: Run) -> None:
    async def work() -> None:
        async with door() as opened:
            client = await opened.client()
            whole = b"".join(frame(ECHO, str(i).encode() * (1 + i * i), correlation=i) for i in range(40))
            for size in (1, 3, 5, 1000, len(whole)):
                for at in range(0, len(whole), size):
                    client.writer.write(whole[at : at + size])
                    if size < 1000 and at % 50 == 0:
                        await asyncio.sleep(0)
                for i in range(40):
                    assert await client.answer() == (i, str(i).encode() * (1 + i * i))

    run(work())


def test_large_frames_are_read_whole(run: Run) -> None:
    async def work() -> None:
        async with door() as opened:
            client = await opened.client(limit=8 * MIB)
            body = bytes(range(256)) * (3 * MIB // 256)
            assert await client.ask(ECHO, body) == body
            await client.send(frame(ECHO, body), frame(ECHO, b"small"))
            assert await client.answer() == (1, body)
            assert await client.answer() == (1, b"small")
            assert held(opened) == (0, 0)

    run(work())


# --- bounds -----------------------------------------------------------------------------------------------


def test_a_client_with_too_many_requests_in_hand_is_not_read(run: Run) -> None:
    async def work() -> None:
        async with door(requests_max=8) as opened:
            client = await opened.client()
            await client.send(*(frame(PASS, str(i).encode(), correlation=i) for i in range(20)))
            await opened.scene.until_begun(8)
            assert await (await opened.client()).ask(ECHO, b"ping") == b"ping"
            assert len(opened.scene.begun) == 9
            for i in range(20):
                opened.scene.gates[str(i).encode()].set()
            assert [(await client.answer())[0] for _ in range(20)] == list(range(20))

    run(work())


def test_requests_beyond_the_bytes_of_all_wait_and_small_ones_go_on(run: Run) -> None:
    async def work() -> None:
        async with door(request_bytes_max=4 * MIB) as opened:
            first, second, third = [await opened.client() for _ in range(3)]
            large = b"x" * (2 * MIB)
            await first.send(frame(GATE, large))
            await opened.scene.until_begun(1)
            sending = asyncio.create_task(second.send(frame(ECHO, large)))
            assert await third.ask(ECHO, b"heartbeat") == b"heartbeat"
            assert opened.scene.begun == [large, b"heartbeat"]
            assert held(opened)[0] <= 4 * MIB
            opened.scene.gates[large].set()
            assert (await first.answer())[1] == large
            assert (await second.answer())[1] == large
            await sending
            assert held(opened) == (0, 0)

    run(work())


def test_who_leaves_while_it_waits_for_room_or_while_it_sends_gives_everything_back(run: Run) -> None:
    async def work() -> None:
        async with door(request_bytes_max=4 * MIB) as opened:
            first, second, third = [await opened.client() for _ in range(3)]
            await first.send(frame(GATE, b"x" * (2 * MIB)))
            await opened.scene.until_begun(1)
            second.writer.write(frame(ECHO, b"y" * (2 * MIB)))  # no room for it
            third.writer.write(frame(ECHO, b"z" * MIB)[:5000])  # never whole
            await third.writer.drain()
            assert await (await opened.client()).ask(ECHO, b"ping") == b"ping"
            for client in (second, third):
                client.writer.transport.abort()
            opened.scene.gates[b"x" * (2 * MIB)].set()
            assert len((await first.answer())[1]) == 2 * MIB
            first.close()
        await opened.until_gone()
        assert held(opened) == (0, 0)

    run(work())


def test_connections_beyond_the_bound_are_closed_and_the_others_are_not(run: Run) -> None:
    async def work() -> None:
        async with door(connections_max=2) as opened:
            first, second = await opened.client(), await opened.client()
            assert await first.ask(ECHO, b"a") == b"a"
            assert await second.ask(ECHO, b"b") == b"b"
            assert await (await opened.client()).closed() == b""
            assert opened.listener.shared.metrics.connections_refused == 1
            assert await first.ask(ECHO, b"c") == b"c"
            first.close()
            second.close()
            await opened.until_gone()
            assert await (await opened.client()).ask(ECHO, b"d") == b"d"

    run(work())


# --- slow readers -----------------------------------------------------------------------------------------


def slow_client(opened: Door) -> socket.socket:
    """A client that never reads, with as small a buffer as the system lets it have."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(opened.address)
    return client


def test_no_more_is_begun_for_a_client_that_does_not_read(run: Run) -> None:
    async def work() -> None:
        async with door() as opened:
            client = slow_client(opened)
            size = str(16 * MIB).encode()
            await asyncio.get_running_loop().run_in_executor(None, client.sendall, frame(BIG, size) * 10)
            await opened.scene.until_begun(1)
            assert await (await opened.client()).ask(ECHO, b"ping") == b"ping"
            assert opened.scene.begun == [size, b"ping"]
            assert 0 < held(opened)[1] <= 17 * MIB
            client.setblocking(False)
            loop, got = asyncio.get_running_loop(), 0
            async with asyncio.timeout(60):
                while got < 10 * (16 * MIB + 8):
                    got += len(await loop.sock_recv(client, MIB))
            assert len(opened.scene.begun) == 11
            assert await (await opened.client()).ask(ECHO, b"ping") == b"ping"
            assert held(opened) == (0, 0)
            client.close()

    run(work())


def test_the_one_that_has_been_slow_longest_is_cut_off_when_answers_hold_too_much(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with door(answer_bytes_max=32 * MIB, stop_timeout=0.1) as opened:
            clients = []
            for i in range(3):
                clients.append(slow_client(opened))
                clients[-1].sendall(frame(BIG, str(16 * MIB).encode()))
                await opened.scene.until_begun(i + 1)
            other = await opened.client()
            assert await other.ask(ECHO, b"ping") == b"ping"
            assert held(opened)[1] <= 32 * MIB
            assert len(opened.listener.shared.connections) == 3  # two of them slow
            for client in clients:
                client.close()

    run(work())
    assert [record.message.split(":")[0] for record in caplog.records] == ["connection 1 of 127.0.0.1 is cut off"]


def test_who_takes_nothing_of_its_answers_is_cut_off_after_a_time(run: Run) -> None:
    async def work() -> None:
        async with door(send_timeout=5.0) as opened:
            client = slow_client(opened)
            client.sendall(frame(BIG, str(16 * MIB).encode()))
            await opened.scene.until_begun(1)
            (connection,) = opened.listener.shared.connections
            now = asyncio.get_running_loop().time()
            connection.check(now + 4.0)
            assert opened.listener.shared.connections
            connection.check(now + 6.0)
            await opened.until_gone()
            assert held(opened) == (0, 0)
            client.close()

    run(work())


def test_who_is_closed_and_does_not_take_what_was_sent_is_cut_off_too(run: Run) -> None:
    async def work() -> None:
        async with door(send_timeout=5.0) as opened:
            client = slow_client(opened)
            client.sendall(frame(BIG, str(16 * MIB).encode()))
            await opened.scene.until_begun(1)
            (connection,) = opened.listener.shared.connections
            connection.close("planted")
            now = asyncio.get_running_loop().time()
            connection.check(now + 4.0)
            assert await (await opened.client()).ask(ECHO, b"ping") == b"ping"
            assert connection in opened.listener.shared.connections
            connection.check(now + 6.0)
            async with asyncio.timeout(20):
                while connection in opened.listener.shared.connections:  # noqa: ASYNC110 - it ends by itself
                    await asyncio.sleep(0.001)
            assert held(opened) == (0, 0)
            client.close()

    run(work())


# --- time -------------------------------------------------------------------------------------------------


def test_idle_connections_are_closed_and_waiting_ones_are_not(run: Run) -> None:
    async def work() -> None:
        async with door(idle_timeout=10.0) as opened:
            idle, waiting = await opened.client(), await opened.client()
            assert await idle.ask(ECHO, b"a") == b"a"
            await waiting.send(frame(WAIT, b"w"))
            await opened.scene.until_begun(2)
            now = asyncio.get_running_loop().time()
            for connection in list(opened.listener.shared.connections):
                connection.check(now + 9.0)
            assert await idle.ask(ECHO, b"b") == b"b"
            for connection in list(opened.listener.shared.connections):
                connection.check(now + 20.0)
            assert await idle.closed() == b""
            assert len(opened.listener.shared.connections) == 1
            waiting.close()

    run(work())


@pytest.mark.parametrize("start", [b"", b"\0\0", frame(ECHO, b"x" * 100)[:50], frame(ECHO, b"x" * MIB)[:5000]])
def test_a_request_that_never_gets_whole_is_given_up(run: Run, start: bytes) -> None:
    async def work() -> None:
        async with door(frame_timeout=5.0) as opened:
            client = await opened.client()
            await client.send(start)
            other = await opened.client()
            assert await other.ask(ECHO, b"ping") == b"ping"
            now = asyncio.get_running_loop().time()
            connections = sorted(opened.listener.shared.connections, key=repr)
            for connection in connections:
                connection.check(now + 4.0)
            assert len(opened.listener.shared.connections) == 2
            for connection in connections:
                connection.check(now + 6.0)
            assert await client.closed() == b""
            assert held(opened) == (0, 0)
            assert await other.ask(ECHO, b"ping") == b"ping"

    run(work())


def test_a_client_that_we_made_wait_is_not_blamed_for_it(run: Run) -> None:
    async def work() -> None:
        async with door(frame_timeout=5.0, requests_max=2) as opened:
            client = await opened.client()
            await client.send(frame(GATE, b"1"), frame(ECHO, b"2"), frame(ECHO, b"3"), frame(ECHO, b"4")[:6])
            await opened.scene.until_begun(1)
            (connection,) = opened.listener.shared.connections
            connection.check(asyncio.get_running_loop().time() + 60.0)
            opened.scene.gates[b"1"].set()
            await client.send(frame(ECHO, b"4")[6:])
            assert [(await client.answer())[1] for _ in range(4)] == [b"1", b"2", b"3", b"4"]

    run(work())


# --- what is broken ---------------------------------------------------------------------------------------

BROKEN = {
    "no-header": struct.pack(">i", 3) + b"abc",
    "negative": struct.pack(">i", -1) + b"abc",
    "too large": struct.pack(">i", 1 << 30),
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "unknown API": frame(999),
    "unknown version": frame(ECHO, version=2),
    "client id beyond the frame": struct.pack(">ihhih", 10, ECHO, 0, 1, 500),
    "client id that is not text": frame(ECHO, client=b"\xff\xfe"),
    "tags beyond the frame": struct.pack(">ihhih", 13, ECHO, 1, 1, -1) + b"\x01\x01\x7f",
    "tags without end": struct.pack(">ihhih", 16, ECHO, 1, 1, -1) + b"\xff" * 6,
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_frame_ends_its_connection_with_one_line_and_nothing_else(
    run: Run, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with door() as opened:
            other = await opened.client()
            await other.send(frame(GATE, b"under way"))
            await opened.scene.until_begun(1)
            client = await opened.client()
            assert await client.ask(ECHO, b"sound") == b"sound"
            await client.send(broken, frame(ECHO, b"behind it"))
            assert await client.closed() == b""
            opened.scene.gates[b"under way"].set()
            assert (await other.answer())[1] == b"under way"
            assert opened.scene.begun == [b"under way", b"sound"]
            other.close()
            await opened.until_gone()
            assert held(opened) == (0, 0)

    with caplog.at_level(logging.INFO):
        run(work())
    lines = [record for record in caplog.records if record.name.startswith("raftbroker")]
    assert len(lines) == 1
    assert lines[0].levelno == logging.WARNING
    assert re.match("connection 2 of 127.0.0.1 is closed: (it|the header of its) ", lines[0].message)


def test_a_fault_of_ours_ends_its_connection_with_its_cause_in_the_log(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with door() as opened:
            client, other = await opened.client(), await opened.client()
            assert await other.ask(ECHO, b"a") == b"a"
            await client.send(frame(PASS, b"under way"), frame(FAIL), frame(ECHO))
            assert await client.closed() == b""
            assert await other.ask(ECHO, b"b") == b"b"
            under_way = list(opened.listener.shared.tasks)
            opened.scene.gates[b"under way"].set()
            assert under_way
            assert not any(await asyncio.gather(*under_way, return_exceptions=True))  # none was given up
            other.close()
            await opened.until_gone()
            assert held(opened) == (0, 0)

    run(work())
    (line,) = caplog.records
    assert line.exc_info is not None
    assert str(line.exc_info[1]) == "planted"


def test_who_ends_in_the_middle_of_a_frame_that_waited_for_room_is_closed(run: Run) -> None:
    async def work() -> None:
        async with door(request_bytes_max=4 * MIB) as opened:
            first, second = await opened.client(), await opened.client()
            large = b"x" * (2 * MIB)
            await first.send(frame(GATE, large))
            await opened.scene.until_begun(1)
            second.writer.write(frame(ECHO, large)[:100])
            second.writer.write_eof()
            assert await (await opened.client()).ask(ECHO, b"ping") == b"ping"
            opened.scene.gates[large].set()
            assert (await first.answer())[1] == large
            assert await second.closed() == b""
            assert held(opened) == (0, 0)

    run(work())


# --- the end ----------------------------------------------------------------------------------------------


def test_what_was_sent_before_the_end_is_served(run: Run) -> None:
    async def work() -> None:
        async with door(requests_max=4) as opened:
            client = await opened.client()
            await client.send(*(frame(SILENT, str(i).encode()) for i in range(50)))
            client.writer.write_eof()
            await opened.scene.until_begun(50)
            assert await client.closed() == b""
            await opened.until_gone()

    run(work())


def test_a_request_that_waits_is_given_up_when_its_client_goes_and_others_are_not(run: Run) -> None:
    async def work() -> None:
        async with door() as opened:
            waiting, working = await opened.client(), await opened.client()
            await waiting.send(frame(WAIT, b"w"), frame(SILENT, b"after it"))
            await working.send(frame(GATE, b"g"))
            await opened.scene.until_begun(2)
            waiting.close()
            working.close()
            await opened.scene.until_begun(3)
            assert opened.scene.cancelled == [b"w"]
            assert opened.scene.begun[2] == b"after it"
            opened.scene.gates[b"g"].set()
            await opened.until_gone()
            assert held(opened) == (0, 0)

    run(work())


def test_stopping_answers_what_is_under_way_and_begins_nothing_more(run: Run) -> None:
    async def work() -> None:
        client: Client
        async with door() as opened:
            client, idle = await opened.client(), await opened.client()
            assert await idle.ask(ECHO, b"x") == b"x"
            await client.send(frame(WAIT, b"w", correlation=1), frame(ECHO, b"later", correlation=2))
            await opened.scene.until_begun(2)
        assert await client.answer() == (1, b"w")
        assert await client.closed() == b""
        assert await idle.closed() == b""
        assert opened.scene.begun == [b"x", b"w"]
        assert held(opened) == (0, 0)

    run(work())


def test_stopping_does_not_wait_for_ever(run: Run) -> None:
    async def work() -> None:
        async with door(stop_timeout=0.05) as opened:
            client, gone = await opened.client(), await opened.client()
            await client.send(frame(GATE, b"never"))
            await gone.send(frame(GATE, b"never either"))
            await opened.scene.until_begun(2)
            gone.writer.transport.abort()
        assert await client.closed() == b""
        await opened.until_gone()
        assert held(opened) == (0, 0)
        assert not opened.listener.shared.tasks

    run(work())

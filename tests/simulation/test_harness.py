"""The simulation's own parts: a harness that cannot fail proves nothing."""

import asyncio
from random import Random

import pytest

from consensus.errors import Damaged, StoreFull
from consensus.messages import Heartbeat, Message
from consensus.transport import Peer
from raftbroker.storage.engine import Batch

from .disk import Platter, SimEngine
from .loop import Deadlock, Livelock, Process, VirtualLoop, run_simulation
from .network import Network, SimTransport, Weather

# --- the loop -------------------------------------------------------------------------------------------


def test_time_is_virtual_and_timers_keep_their_order():
    async def main(loop: VirtualLoop) -> list[str]:
        seen: list[str] = []
        start = loop.time()
        for name in "abc":
            loop.call_later(3600.0, seen.append, name)
        loop.call_later(1.0, seen.append, "first")
        await asyncio.sleep(3600.0)
        assert loop.time() == start + 3600.0
        return seen

    assert run_simulation(main) == ["first", "a", "b", "c"]


def test_nothing_left_to_do_is_a_deadlock():
    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Deadlock):
        run_simulation(main)


def test_a_clock_that_stands_still_is_a_livelock():
    async def main(loop: VirtualLoop) -> None:
        while True:  # noqa: ASYNC110  the very mistake
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        run_simulation(main)


def test_threads_are_forbidden():
    async def main(loop: VirtualLoop) -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="no threads"):
        run_simulation(main)


def test_an_error_in_a_callback_or_a_forgotten_task_fails_the_run():
    async def callback(loop: VirtualLoop) -> None:
        loop.call_later(1.0, lambda: 1 // 0)
        await asyncio.sleep(2.0)

    async def forgotten(loop: VirtualLoop) -> None:
        async def wrong() -> None:
            raise ValueError("nobody looks at this")

        Process(loop, "node").spawn(wrong())
        await asyncio.sleep(2.0)

    with pytest.raises(ZeroDivisionError):
        run_simulation(callback)
    with pytest.raises(ValueError, match="nobody looks"):
        run_simulation(forgotten)


def test_a_killed_process_does_nothing_more_not_even_its_cleanup():
    seen: list[str] = []

    async def work(name: str) -> None:
        try:
            for step in range(10):
                await asyncio.sleep(1.0)
                seen.append(f"{name}{step}")
        finally:
            seen.append(f"{name} cleaned up")

    async def main(loop: VirtualLoop) -> list[str]:
        one, other = Process(loop, "one"), Process(loop, "other")
        one.spawn(work("a"))
        task = other.spawn(work("b"))
        one.run(loop.call_later, 5.0, seen.append, "timer of the dead")
        await asyncio.sleep(2.5)
        one.kill()
        await task
        return list(seen)

    assert [s for s in run_simulation(main) if "b" not in s] == ["a0", "a1"]
    assert "b cleaned up" in seen


# --- the disk -------------------------------------------------------------------------------------------


def put(key: bytes, value: bytes) -> Batch:
    batch = Batch()
    batch.put("raft", key, value)
    return batch


def test_a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest():
    kept = set()
    for seed in range(40):
        platter = Platter(Random(seed))
        engine = SimEngine(platter)
        engine.write(put(b"0", b"synced"))
        engine.sync()
        for number in b"1234":
            engine.write(put(bytes([number]), b"not synced"))
        platter.crash()
        found = b"".join(key for key, _ in SimEngine(platter).scan("raft", b"", b"\xff"))
        assert b"01234".startswith(found)
        assert found
        kept.add(found)
    assert len(kept) == 5


def test_the_engine_orders_deletes_and_keeps_views_apart():
    engine = SimEngine(Platter(Random(1)))
    for key in (b"c", b"a", b"b", b"d"):
        engine.write(put(key, key))
    view = engine.snapshot()
    batch = Batch()
    batch.delete_range("raft", b"b", b"d")
    batch.delete("raft", b"a")
    engine.write(batch)
    assert list(engine.scan("raft", b"", b"\xff")) == [(b"d", b"d")]
    assert [key for key, _ in view.scan("raft", b"", b"\xff", reverse=True)] == [b"d", b"c", b"b", b"a"]
    assert view.get("raft", b"b") == b"b"


def test_full_and_rotten_disks():
    platter = Platter(Random(1), capacity=100)
    engine = SimEngine(platter)
    engine.write(put(b"k", bytes(60)))
    with pytest.raises(StoreFull):
        engine.write(put(b"l", bytes(60)))
    assert engine.get("raft", b"l") is None
    platter.rot("raft", b"k")
    assert sum(byte.bit_count() for byte in engine.get("raft", b"k") or b"") == 1
    platter.rot("state", b"s")
    with pytest.raises(Damaged):
        engine.get("state", b"s")


# --- the network ----------------------------------------------------------------------------------------


class Listener:
    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.events: list[str] = []

    def peer_allowed(self, peer: Peer) -> str | None:
        return "not welcome" if peer.uuid == "bad" else None

    def peer_connected(self, peer: Peer) -> None:
        self.events.append(f"+{peer.node}")

    def peer_disconnected(self, peer: Peer) -> None:
        self.events.append(f"-{peer.node}")

    def peer_messages(self, peer: Peer, messages: list[Message]) -> None:
        self.rounds += [m.round for m in messages if isinstance(m, Heartbeat)]

    def refused_by(self, node: int | None, address: str, reason: str) -> None:
        self.events.append(reason)


class Pair:
    """Two nodes on one network, without anything above the transport."""

    def __init__(self, loop: VirtualLoop, seed: int, uuids: tuple[str, str] = ("a", "b")) -> None:
        self.network = Network(loop, Random(seed), Weather())
        self.listeners = (Listener(), Listener())
        self.transports = [
            SimTransport(self.network, Process(loop, str(n)), Peer(n, uuids[n], 1, "", "", f"host:{n}")) for n in (0, 1)
        ]

    async def start(self) -> None:
        for transport, listener in zip(self.transports, self.listeners, strict=True):
            await transport.process.spawn(transport.start(listener))
            transport.process.run(transport.set_addresses, {0: "host:0", 1: "host:1"})
        await asyncio.sleep(1.0)

    def say(self, number: int) -> bool:
        return self.transports[0].process.run(self.transports[0].send, 1, Heartbeat(0, 1, 0, number))


def test_messages_arrive_in_order_and_a_cut_delays_or_loses_the_last_ones():
    outcomes = set()

    async def main(loop: VirtualLoop, seed: int) -> None:
        pair = Pair(loop, seed)
        await pair.start()
        for number in range(100):
            assert pair.say(number)
            if number == 50:
                pair.network.block(0, 1)
            await asyncio.sleep(0.001)
        assert len(pair.listeners[1].rounds) <= 51
        await asyncio.sleep(Random(seed).uniform(0, 5))
        pair.network.heal()
        await asyncio.sleep(3.0)
        heard = pair.listeners[1].rounds
        assert heard == list(range(len(heard)))
        outcomes.add("all" if len(heard) == 100 else "lost")
        assert pair.say(1000), "connected again"

    for seed in range(20):
        run_simulation(lambda loop, seed=seed: main(loop, seed))
    assert outcomes == {"all", "lost"}


def test_a_second_connection_lets_old_messages_arrive_late_and_twice():
    late = twice = 0

    async def main(loop: VirtualLoop, seed: int) -> list[int]:
        pair = Pair(loop, seed)
        await pair.start()
        for number in range(30):
            pair.say(number)
            if number == 15:
                await asyncio.sleep(0)
                pair.network.duplicate_some()
            await asyncio.sleep(0.002)
        await asyncio.sleep(5.0)
        return pair.listeners[1].rounds

    for seed in range(20):
        heard = run_simulation(lambda loop, seed=seed: main(loop, seed))
        assert set(heard) >= set(range(16, 30)), "only what was under way on the old one may be lost"
        late += heard != sorted(heard)
        twice += len(heard) > 30
    assert late
    assert twice


def test_a_peer_that_is_not_allowed_is_told_so():
    async def main(loop: VirtualLoop) -> None:
        pair = Pair(loop, 1, uuids=("bad", "b"))
        await pair.start()
        assert "not welcome" in pair.listeners[0].events
        assert pair.transports[0].connected(1) is None
        assert not pair.say(1)

    run_simulation(main)

"""Queues on one whole node: real RocksDB, real host, real loop."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from raftbroker.broker import errors, queue_driver
from raftbroker.broker.queue_views import MessageDraft, ReceivedMessage
from raftbroker.broker.queues import Queues
from raftbroker.state.queues.part import QueuesPart
from tests.unit.broker.nodes import TestNode, cluster, until


def run(directory: Path, work: Callable[[Queues, TestNode], Awaitable[None]]) -> None:
    async def main() -> None:
        async with cluster(directory, 1) as (node,):
            await until(lambda: len(node.broker.shards.led()) == 4)
            await work(node.broker.queues, node)

    asyncio.run(main())


def drafts(*bodies: str, **more: Any) -> list[MessageDraft]:
    return [MessageDraft(body=json.dumps(body).encode(), **more) for body in bodies]


async def take(queues: Queues, name: str = "q", count: int = 10, wait: float = 0.0) -> list[ReceivedMessage]:
    return await queues.receive(name, consumer="tester", count=count, wait=wait)


def tokens(messages: list[ReceivedMessage]) -> list[str]:
    return [message.lock_token for message in messages]


def test_life_of_a_message(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        info, made = await queues.put("q", {"lock.ms": 20_000})
        assert (made, info.depth, info.configs["lock.ms"]) == (True, 0, 20_000)
        assert (await queues.put("q", {"max.deliveries": 3}))[1] is False
        draft = MessageDraft(body=b'{"a": 1}', key="k", headers=(("source", "web"),), priority=7)
        sent = await queues.send("q", [draft, MessageDraft(body=b"\x00\xff", is_json=False)])
        assert [message.duplicate for message in sent] == [False, False]
        first, second = await take(queues)
        assert (first.id, first.body, first.is_json, first.key) == (sent[0].id, b'{"a": 1}', True, "k")
        assert first.headers == (("source", "web"),)
        assert (second.body, second.is_json, second.key) == (b"\x00\xff", False, None)
        now = node.broker._context.wall()
        assert abs(first.timestamp - now) < 10_000
        assert 0 < first.locked_until - now <= 20_000
        fate = await queues.fate("q", first.id)
        assert (fate.state, fate.consumer, fate.delivery_count) == ("locked", "tester", 1)
        assert fate.until == pytest.approx(first.locked_until, abs=50)
        assert await take(queues) == []
        settled = await queues.acknowledge("q", [*tokens([first, second]), "nonsense"])
        assert [bool(one.lost) for one in settled] == [False, False, True]
        fate = await queues.fate("q", first.id)
        assert (fate.state, fate.consumer) == ("consumed", "tester")
        assert fate.at is not None
        assert abs(fate.at - now) < 10_000
        info = await queues.get("q")
        assert (info.depth, info.sent, info.delivered, info.acknowledged) == (0, 2, 2, 2)
        assert info.acknowledged_per_second > 0

    run(tmp_path, work)


def test_queues_are_listed_purged_and_deleted(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        for number in range(6):
            await queues.put(f"queue-{number}", {})
        await queues.send("queue-3", drafts("a", "b"))
        listed = await queues.list_queues()
        assert [(info.name, info.depth) for info in listed] == [(f"queue-{n}", 2 if n == 3 else 0) for n in range(6)]
        assert sorted(info.name for info in queues.infos()) == [info.name for info in listed]
        assert await queues.purge("queue-3") == 2
        assert (await queues.get("queue-3")).depth == 0
        assert await queues.delete("queue-3") == 0
        for call in (queues.get, queues.delete, queues.purge, take_of(queues), send_to(queues), fate_in(queues)):
            with pytest.raises(errors.UnknownQueue, match="PUT /queues/queue-3"):
                await call("queue-3")
        with pytest.raises(errors.UnknownQueue):
            await queues.acknowledge("queue-3", ["1-1-0000000000000001"])

    run(tmp_path, work)


def take_of(queues: Queues) -> Callable[[str], Awaitable[object]]:
    return lambda name: take(queues, name, wait=5.0)


def send_to(queues: Queues) -> Callable[[str], Awaitable[object]]:
    return lambda name: queues.send(name, drafts("x"))


def fate_in(queues: Queues) -> Callable[[str], Awaitable[object]]:
    return lambda name: queues.fate(name, "17")


def test_a_receive_waits_and_who_waited_longest_is_first(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await take(queues, wait=0.2) == []
        assert loop.time() - began >= 0.2
        waiting = []
        for _ in range(64):
            waiting.append(asyncio.create_task(take(queues, count=1, wait=20.0)))
            await asyncio.sleep(0)
        shard = queues._shards.shard_of("q")
        await until(lambda: len(queues._desk._led[shard].lines["q"]._waiting) == 64)
        log_before = node.broker._context.host.groups[shard].applied
        await queues.send("q", drafts("one"))
        await until(waiting[0].done)
        assert [message.body for message in waiting[0].result()] == [b'"one"']
        assert not any(task.done() for task in waiting[1:])
        assert node.broker._context.host.groups[shard].applied - log_before <= 3, "no op but the send, and one receive"
        await queues.send("q", drafts("two", "three"))
        await until(lambda: waiting[2].done() and waiting[1].done())
        assert [task.result()[0].body for task in waiting[1:3]] == [b'"two"', b'"three"']
        for task in waiting[3:]:
            task.cancel()
        await asyncio.gather(*waiting[3:], return_exceptions=True)
        await queues.send("q", drafts("four"))
        assert len(await take(queues)) == 1, "who has left is promised nothing"
        assert "q" not in queues._desk._led[shard].lines

    run(tmp_path, work)


def test_a_receive_hears_of_delays_that_end_and_locks_that_run_out(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {"lock.ms": 300})
        await queues.send("q", drafts("late", delay_ms=300))
        (first,) = await take(queues, wait=20.0)
        (again,) = await take(queues, wait=20.0)
        assert (again.id, again.delivery_count) == (first.id, 2)
        settled = await queues.acknowledge("q", tokens([first]))
        assert settled[0].lost
        extended = await queues.extend("q", tokens([again]), lock_ms=20_000)
        assert extended[0].locked_until > again.locked_until + 15_000
        released = await queues.release("q", tokens([again]), delay_ms=100)
        assert not released[0].lost
        (third,) = await take(queues, wait=20.0)
        assert third.delivery_count == 3
        await queues.acknowledge("q", tokens([third]))

    run(tmp_path, work)


def test_a_queue_deleted_under_a_waiting_receive_ends_it(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        waiting = asyncio.create_task(take(queues, wait=20.0))
        await asyncio.sleep(0.05)
        await queues.delete("q")
        with pytest.raises(errors.UnknownQueue):
            await asyncio.wait_for(waiting, 5.0)

    run(tmp_path, work)


def test_sends_are_recognised(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        first = await queues.send("q", drafts("a", "b"), idempotency_key="k")
        again = await queues.send("q", drafts("a", "b"), idempotency_key="k")
        assert [one.id for one in again] == [one.id for one in first]
        assert all(one.duplicate for one in again)
        with pytest.raises(errors.IdempotencyConflict):
            await queues.send("q", drafts("a", "c"), idempotency_key="k")
        one = await queues.send("q", drafts("x", dedup_id="d"))
        two = await queues.send("q", drafts("y", dedup_id="d"))
        assert one[0].id == two[0].id
        assert (await queues.get("q")).depth == 3

    run(tmp_path, work)


def test_dead_letters_go_to_their_queue_with_their_history_and_come_back(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {"dead.letter.queue": "graveyard", "max.deliveries": 2, "ordered.by.key": True})
        assert (await queues.get("graveyard")).depth == 0
        assert await queues.redrive("q") == 0
        await queues.delete("graveyard")
        assert await queues.redrive("q") == 0
        sent = await queues.send("q", drafts("a", "b", key="k", receipt="queue:replies"))
        (a,) = await take(queues)
        await queues.release("q", tokens([a]))
        (a,) = await take(queues)
        await queues.reject("q", tokens([a]), reason="no such customer")
        (b,) = await take(queues)
        await queues.acknowledge("q", tokens([b]))
        (dead,) = await take(queues, "graveyard", wait=10.0)
        letter = dead.dead_letter
        assert letter is not None
        assert (letter.queue, letter.id, letter.reason, letter.delivery_count) == (
            "q",
            sent[0].id,
            "no such customer",
            2,
        )
        assert [past.end for past in letter.history] == ["released", "rejected"]
        assert (dead.key, dead.body) == ("k", b'"a"')
        await until(lambda: fate_is(queues, sent[0].id, "dead", "graveyard", dead.id))
        receipts = await receive_all(queues, "replies", 2)
        told = {receipt["id"]: (receipt["state"], receipt["consumer"], receipt.get("moved_to")) for receipt in receipts}
        assert told == {sent[0].id: ("dead", "tester", "graveyard"), sent[1].id: ("consumed", "tester", None)}
        assert await queues.redrive("q") == 0, "it is held by someone"
        await queues.release("graveyard", tokens([dead]))
        assert await queues.redrive("q", count=5) == 1
        (back,) = await take(queues, wait=10.0)
        assert (back.body, back.dead_letter, back.delivery_count) == (b'"a"', None, 1)
        await queues.acknowledge("q", tokens([back]))
        (receipt,) = await receive_all(queues, "replies", 1)
        assert (receipt["id"], receipt["state"]) == (back.id, "consumed")
        fate = await queues.fate("graveyard", dead.id)
        assert (fate.state, fate.moved_to, fate.moved_id) == ("redriven", "q", back.id)

    run(tmp_path, work)


async def fate_is(queues: Queues, id_: str, state: str, to: str, moved: str) -> bool:
    fate = await queues.fate("q", id_)
    return (fate.state, fate.moved_to, fate.moved_id) == (state, to, moved)


async def receive_all(queues: Queues, name: str, count: int) -> list[dict[str, Any]]:
    """The JSON of so many messages, acknowledged."""

    async def there() -> bool:
        try:
            return (await queues.get(name)).available >= count
        except errors.UnknownQueue:
            return False

    await until(there)
    found = await take(queues, name)
    await queues.acknowledge(name, tokens(found))
    return [json.loads(message.body) for message in found]


def test_dead_ones_without_a_queue_of_their_own_stay_aside(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        await queues.send("q", drafts("a", "b", "c"))
        await queues.reject("q", tokens(await take(queues, count=2)), reason="bad")
        assert [message.body for message in await queues.peek("q", 10)] == [b'"c"']
        dead = await queues.peek("q", 10, dead=True)
        assert [message.body for message in dead] == [b'"a"', b'"b"']
        fate = await queues.fate("q", dead[0].id)
        assert (fate.state, fate.reason, fate.history[-1].end) == ("dead", "bad", "rejected")
        assert await queues.redrive("q", count=1) == 1
        assert (await queues.get("q")).dead == 1
        assert await queues.redrive("q") == 1
        assert len(await take(queues)) == 3

    run(tmp_path, work)


def test_a_fate_is_waited_for(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        (sent,) = await queues.send("q", drafts("a"))
        assert (await queues.fate("q", sent.id, wait=0.05)).state == "waiting"
        waiting = asyncio.create_task(queues.fate("q", sent.id, wait=20.0))
        await asyncio.sleep(0.05)
        found = await take(queues)
        assert (await asyncio.wait_for(waiting, 5.0)).state == "locked"
        assert (await queues.fate("q", sent.id, wait=20.0, known="waiting")).state == "locked"
        waiting = asyncio.create_task(queues.fate("q", sent.id, wait=20.0))
        await asyncio.sleep(0.05)
        await queues.acknowledge("q", tokens(found))
        assert (await asyncio.wait_for(waiting, 5.0)).state == "consumed"
        shard = queues._shards.shard_of("q")
        assert not queues._shards.part(shard, QueuesPart).book.watched
        for id_ in ("999999", "x", "-1"):
            with pytest.raises(errors.UnknownMessage):
                await queues.fate("q", id_)

    run(tmp_path, work)


class Hook:
    """A notifier that fails as often as it is told, and always for some messages."""

    def __init__(self, failures: int = 0, never: tuple[str, ...] = ()) -> None:
        self.failures = failures
        self.never = never
        self.got: list[tuple[str, dict[str, Any]]] = []

    async def check(self, url: str, field: str = "url") -> None:
        if "private" in url:
            raise errors.InvalidRequest(f"{field} leads to an address that is refused", field=field)

    async def send(self, url: str, body: bytes, *, timeout: float) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("connection refused")
        told = json.loads(body)
        if told["id"] in self.never:
            raise OSError("the receiver answered 500")
        self.got.append((url, told))


def test_receipts_to_webhooks_wait_for_a_notifier_and_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_driver, "LOOK_SECONDS", 0.1)

    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        sent = await queues.send("q", drafts(*"abc", receipt="https://example.test/hook"))
        await queues.acknowledge("q", tokens(await take(queues)))
        await asyncio.sleep(0.3)
        assert (await queues.get("q")).receipts == 3
        queues.notifier = hook = Hook(failures=2)
        await until(lambda: len(hook.got) == 3)
        assert {url for url, _ in hook.got} == {"https://example.test/hook"}
        assert sorted(body["id"] for _, body in hook.got) == sorted(one.id for one in sent)
        assert {body["state"] for _, body in hook.got} == {"consumed"}

        async def none_left() -> bool:
            return (await queues.get("q")).receipts == 0

        await until(none_left)

    run(tmp_path, work)


def test_receipts_that_are_refused_do_not_hold_up_those_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_driver, "LOOK_SECONDS", 0.1)

    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        sent = await queues.send("q", drafts(*(str(n) for n in range(60)), receipt="https://example.test/hook"))
        refused = tuple(one.id for one in sent[:20])  # more than are posted at once
        hook = queues.notifier = Hook(never=refused)
        await queues.acknowledge("q", tokens(await take(queues, count=60)))
        await until(lambda: len(hook.got) == 40)
        assert {told["id"] for _, told in hook.got} == {one.id for one in sent[20:]}

        async def left(count: int) -> bool:
            return (await queues.get("q")).receipts == count

        await until(lambda: left(20))
        hook.never = ()
        await until(lambda: left(0))
        assert sorted(told["id"] for _, told in hook.got) == sorted(one.id for one in sent)

    run(tmp_path, work)


def test_a_receiver_that_is_down_is_not_called_for_every_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_driver, "LOOK_SECONDS", 0.05)

    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        await queues.send("q", drafts(*(str(n) for n in range(500)), receipt="https://example.test/hook"))
        hook = queues.notifier = Hook(failures=1_000_000)
        await queues.acknowledge("q", tokens(await take(queues, count=500)))
        await asyncio.sleep(1.0)
        tried = 1_000_000 - hook.failures
        assert 0 < tried <= 6 * queue_driver.POSTS_AT_ONCE  # pauses of 0.1 s and more, doubling

    run(tmp_path, work)


def test_a_receipt_to_where_none_may_go_is_refused_with_its_message(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {})
        queues.notifier = Hook()
        fine = drafts("a", receipt="https://example.test/hook")
        with pytest.raises(errors.InvalidRequest) as caught:
            await queues.send("q", [*fine, *fine, *drafts("b", receipt="http://private.test/x")])
        assert caught.value.field == "messages[2].receipt"
        many = [one for n in range(40) for one in drafts("c", receipt=f"https://h{n}.example.test/")]
        with pytest.raises(errors.InvalidRequest, match="more than 32 hosts"):
            await queues.send("q", many)
        assert (await queues.get("q")).depth == 0
        await queues.send("q", fine)

    run(tmp_path, work)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {"retention.ms": 60_000})
        for changes, field in (
            ({"lock.ms": 0}, "lock.ms"),
            ({"nope": 1}, "nope"),
            ({"dead.letter.queue": "a b"}, "dead.letter.queue"),
        ):
            with pytest.raises(errors.InvalidRequest) as caught:
                await queues.put("q", changes)  # type: ignore[arg-type]
            assert caught.value.field == field
        for more, field in (
            ({"priority": 10}, "messages[1].priority"),
            ({"delay_ms": -1}, "messages[1].delay_ms"),
            ({"ttl_ms": -1}, "messages[1].ttl_ms"),
            ({"key": "k" * 2000}, "messages[1].key"),
            ({"dedup_id": ""}, "messages[1].dedup_id"),
            ({"receipt": "ftp://x/"}, "messages[1].receipt"),
            ({"receipt": "queue:a b"}, "messages[1].receipt"),
            ({"delay_ms": 60_000}, "delay_ms"),
        ):
            with pytest.raises(errors.InvalidRequest) as caught:
                await queues.send("q", [*drafts("fine"), *drafts("x", **more)])
            assert caught.value.field == field
        with pytest.raises(errors.InvalidRequest):
            await queues.send("q", [])
        with pytest.raises(errors.RecordTooLarge):
            await queues.send("q", [MessageDraft(body=b"x" * (1 << 20), is_json=False)])
        with pytest.raises(errors.InvalidRequest):
            await take(queues, count=1001)
        with pytest.raises(errors.InvalidRequest):
            await queues.get("a/b")
        await queues.send("q", drafts("x"))
        with pytest.raises(errors.QueueRefused):
            await queues.put("q", {"ordered.by.key": True})

    run(tmp_path, work)


def test_a_node_that_comes_back_has_everything(tmp_path: Path) -> None:
    async def work(queues: Queues, node: TestNode) -> None:
        await queues.put("q", {"max.deliveries": 1})
        await queues.send("q", drafts(*"abcd"))
        found = await take(queues, count=3)
        await queues.acknowledge("q", tokens(found[:1]))
        await queues.reject("q", tokens(found[1:2]))
        await node.kill()
        await node.start()
        queues = node.broker.queues
        await until(lambda: node.broker.readiness().ready)
        info = await queues.get("q", timeout=20.0)
        assert (info.available, info.locked, info.dead, info.acknowledged) == (1, 1, 1, 1)
        settled = await queues.acknowledge("q", tokens(found))
        assert [bool(one.lost) for one in settled] == [False, True, False]
        assert [message.body for message in await take(queues)] == [b'"d"']

    run(tmp_path, work)

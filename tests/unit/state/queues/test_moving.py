"""Dead messages and receipts on their way to queues in other shards: exactly once, whoever dies on the way."""

import pytest

from raftbroker.state.queues import intake
from raftbroker.state.queues.fates import CONSUMED, EXPIRED, MOVED, REDRIVEN
from raftbroker.state.queues.messages import REJECTED
from raftbroker.state.queues.ops import (
    FULL,
    OK,
    REPEATED,
    Arrival,
    DeleteQueue,
    PurgeQueue,
    Reject,
    SendBack,
    Shipped,
    TakeMessages,
)
from raftbroker.state.queues.outbox import MOVE, RECEIPT, RECEIPT_KEEP_MS, Parcel
from tests.unit.state.queues.world import World, draft


@pytest.fixture
def source() -> World:
    world = World(group=5)
    world.put(dead_letter_queue="dead")
    return world


@pytest.fixture
def target() -> World:
    return World(group=6)


def waiting(world: World, to: str = "queue:dead") -> list[Parcel]:
    return world.part.book.outbox.waiting(to, 100)


def carry(source: World, target: World, to: str = "dead") -> tuple[int, ...]:
    """Takes all parcels there; says nothing of it to the source yet."""
    parcels = waiting(source, "queue:" + to)
    arrivals = tuple(Arrival(p.sequence, 10, 4, origin=p.queue if p.kind == MOVE else "") for p in parcels)
    numbers: tuple[int, ...] = target.do(TakeMessages(to, 5, arrivals), len(arrivals)).numbers
    return numbers


def confirm(source: World, numbers: tuple[int, ...], to: str = "dead") -> None:
    parcels = waiting(source, "queue:" + to)[: len(numbers)]
    source.do(Shipped("", tuple((p.sequence, number) for p, number in zip(parcels, numbers, strict=True))))


def test_a_dead_message_moves_and_its_fate_says_where_to(source: World, target: World) -> None:
    (number,) = source.send().numbers
    token = source.one(consumer="a")
    assert source.do(Reject("q", (token,), "bad")).words == (OK,)
    assert source.first.heard.names == {"outbox"}
    assert (source.view().dead, source.view().moving, source.view().depth) == (0, 1, 0)
    numbers = carry(source, target)
    confirm(source, numbers)
    fate = source.part.book.fates.get(number)
    assert fate is not None
    assert (fate.kind, fate.reason, fate.to, fate.as_number) == (MOVED, "bad", "dead", numbers[0])
    assert source.do(Reject("q", (token,), "bad")).words == (REPEATED,)
    assert target.view("dead").available == 1
    assert source.view().moving == 0
    source.check()
    target.check()


def test_parcels_that_are_sent_twice_are_taken_once(source: World, target: World) -> None:
    source.send("q", *[draft()] * 5)
    tokens = [token for _, token in source.receive(most=5)]
    source.do(Reject("q", tuple(tokens[:3])))
    carry(source, target)
    for replica in (*source.replicas, *target.replicas):
        replica.restart()
    source.do(Reject("q", tuple(tokens[3:])))
    numbers = carry(source, target)
    assert numbers[:3] == (0, 0, 0)
    assert all(numbers[3:])
    assert carry(source, target) == (0,) * 5
    confirm(source, numbers)
    assert waiting(source) == []
    assert target.view("dead").available == 5
    source.check()
    target.check()


def test_what_arrived_and_was_consumed_is_not_taken_again(source: World, target: World) -> None:
    source.send()
    source.do(Reject("q", (source.one(),)))
    carry(source, target)
    target.ack(target.one("dead"), name="dead")
    assert carry(source, target) == (0,)
    assert target.view("dead").depth == 0


def test_a_full_target_takes_a_part_and_says_why(source: World, target: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source.send("q", *[draft()] * 3)
    source.do(Reject("q", tuple(token for _, token in source.receive(most=3))))
    monkeypatch.setattr("raftbroker.state.queues.book.MESSAGES_MAX", 2)
    parcels = waiting(source)
    taken = target.do(TakeMessages("dead", 5, tuple(Arrival(p.sequence, 10, 4) for p in parcels)), 3)
    assert len(taken.numbers) == 2
    assert taken.refusal.code == FULL
    confirm(source, taken.numbers)
    assert len(waiting(source)) == 1
    monkeypatch.undo()
    assert all(carry(source, target))
    source.check()
    target.check()


def test_messages_are_sent_back_to_where_they_died(source: World, target: World) -> None:
    source.send("q", *[draft()] * 3)
    source.do(Reject("q", tuple(token for _, token in source.receive(most=3))))
    confirm(source, carry(source, target))
    held = target.one("dead")
    assert target.do(SendBack("dead", "other")).count == 0
    outcome = target.do(SendBack("dead", "q", 1))
    assert (outcome.count, target.view("dead").moving) == (1, 1)
    outcome = target.do(SendBack("dead", "q"))
    assert outcome.count == 1
    back = waiting(target, "queue:q")
    numbers = source.do(TakeMessages("q", 6, tuple(Arrival(p.sequence, 10, 4) for p in back)), 2).numbers
    target.do(Shipped("", tuple((p.sequence, number) for p, number in zip(back, numbers, strict=True))))
    fate = target.part.book.fates.get(back[0].number)
    assert fate is not None
    assert (fate.kind, fate.to, fate.as_number) == (REDRIVEN, "q", numbers[0])
    assert source.view().available == 2
    assert target.ack(held, name="dead") == (OK,)
    target.check()
    source.check()


@pytest.mark.parametrize("gone", [DeleteQueue("q"), PurgeQueue("q")])
def test_the_dead_on_their_way_arrive_though_their_queue_is_gone(
    source: World, target: World, gone: DeleteQueue | PurgeQueue
) -> None:
    (number, _) = source.send("q", draft(), draft()).numbers
    source.do(Reject("q", (source.one(),)))
    source.do(gone)
    source.settle()
    for replica in source.replicas:
        replica.restart()
    confirm(source, carry(source, target))
    assert target.view("dead").available == 1
    assert source.part.book.segments.count == 0
    fate = source.part.book.fates.get(number)
    assert fate is not None
    assert fate.kind == MOVED
    source.check()


def test_receipts_tell_of_each_end(source: World) -> None:
    receipt = "queue:replies"
    consumed, dead, expired, quiet = source.send(
        "q", draft(receipt=receipt), draft(receipt=receipt), draft(receipt="http://x/", ttl_ms=5), draft()
    ).numbers
    tokens = {token.number: token for _, token in source.receive(most=4, consumer="a") if token.number != expired}
    source.do(Reject("q", (tokens[dead],), "bad"))
    source.ack(tokens[consumed], tokens[quiet])
    source.settle(60_000)
    told = [parcel for parcel in waiting(source, receipt) if parcel.fate is not None]
    assert [(p.kind, p.number, p.fate.kind, p.fate.reason) for p in told if p.fate] == [
        (RECEIPT, dead, MOVED, "bad"),
        (RECEIPT, consumed, CONSUMED, ""),
    ]
    assert told[0].history[-1].end == REJECTED
    hook = waiting(source, "http://x/")[0]
    assert hook.fate is not None
    assert (hook.number, hook.fate.kind) == (expired, EXPIRED)
    source.check()


def test_a_receipt_that_cannot_be_delivered_for_a_day_is_dropped_and_counted(source: World) -> None:
    source.send("q", draft(receipt="http://x/"))
    source.ack(source.one())
    source.settle(RECEIPT_KEEP_MS - 1)
    assert len(waiting(source, "http://x/")) == 1
    source.settle(1)
    assert waiting(source, "http://x/") == []
    assert source.part.book.outbox.destinations() == []
    assert source.view().totals.receipts_lost == 1
    source.check()


def test_receipts_are_confirmed_in_any_order_and_the_rest_stays(source: World) -> None:
    source.send("q", *[draft(receipt="http://x/")] * 1000)
    source.send("q", *[draft(receipt="http://x/")] * 1000)
    source.ack(*(token for _, token in source.receive(most=2000)))
    parcels = source.part.book.outbox.waiting("http://x/", 3000)
    source.do(Shipped("", tuple((parcel.sequence, 0) for parcel in parcels[1:])))
    assert source.part.book.outbox.waiting("http://x/", 3000) == parcels[:1]
    source.settle(RECEIPT_KEEP_MS)
    assert source.view().totals.receipts_lost == 1
    source.check()


def test_the_target_is_made_where_it_is_missing_and_remembers_for_itself(target: World) -> None:
    assert all(target.do(TakeMessages("dead", 5, (Arrival(7, 10, 4),)), 1).numbers)
    assert all(target.do(TakeMessages("dead", 8, (Arrival(3, 10, 4),)), 1).numbers), "another shard's sequences"
    assert target.view("dead").configs["max.deliveries"] == 10
    assert intake.no_queue("x").field == "queue"
    target.check()

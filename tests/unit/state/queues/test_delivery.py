"""Messages from being sent to their end: locks, tokens, time-outs, death."""

import pytest

from raftbroker.state.queues.fates import CONSUMED, EXPIRED
from raftbroker.state.queues.messages import RAN_OUT, REJECTED, RELEASED
from raftbroker.state.queues.ops import (
    LOST,
    OK,
    REPEATED,
    UNKNOWN_QUEUE,
    Acknowledge,
    Extend,
    Redrive,
    Reject,
    Release,
    SendMessages,
    Token,
)
from raftbroker.state.queues.views import view_message
from tests.unit.state.queues.world import LOCK_MS, World, draft


@pytest.fixture
def world() -> World:
    world = World()
    world.put()
    return world


def fate(world: World, number: int) -> tuple[int, str]:
    found = world.part.book.fates.get(number)
    assert found is not None
    return found.kind, found.consumer


def test_a_message_goes_to_one_consumer_and_is_gone_once_acknowledged(world: World) -> None:
    (number,) = world.send().numbers
    token = world.one(consumer="anna")
    assert token.number == number
    assert world.receive() == []
    assert world.ack(token) == (OK,)
    assert fate(world, number) == (CONSUMED, "anna")
    world.settle(LOCK_MS * 2)
    assert world.receive() == []
    assert world.view().depth == 0
    world.check()


def test_a_repeated_acknowledgement_is_told_apart_from_one_that_lost_its_lock(world: World) -> None:
    world.send()
    token = world.one()
    assert world.ack(token, token) == (OK, REPEATED)
    assert world.ack(token) == (REPEATED,)
    assert world.ack(Token(token.number, token.delivery, token.nonce + 1)) == (LOST,)
    assert world.view().totals.acknowledged == 1


def test_a_lock_that_runs_out_makes_the_message_available_and_its_token_void(world: World) -> None:
    world.send()
    old = world.one(consumer="slow")
    world.tick(LOCK_MS - 1)
    assert world.receive() == []
    world.now += 1
    (held, new) = world.receive(consumer="quick")[0]
    assert held.deliveries == 2
    assert world.ack(old) == (LOST,)
    assert world.do(Extend("q", (old,))).words == (LOST,)
    assert world.do(Release("q", (old,))).words == (LOST,)
    assert world.do(Reject("q", (old,))).words == (LOST,)
    assert world.ack(new) == (OK,)
    assert world.ack(old) == (LOST,), "it was consumed by another"
    world.check()


def test_a_lock_may_be_longer_and_be_extended_but_never_shortened(world: World) -> None:
    world.send()
    token = world.one(lock_ms=100_000)
    assert world.do(Extend("q", (token,), 50_000)).until_ms == (world.now + 100_000,)
    world.tick(90_000)
    assert world.do(Extend("q", (token,), 50_000)).until_ms == (world.now + 50_000,)
    world.tick(49_999)
    assert world.receive() == []
    world.tick(1)
    assert world.view().available == 1
    world.check()


def test_released_messages_come_again_at_once_or_after_a_delay(world: World) -> None:
    world.send("q", draft(), draft())
    first, second = world.one(), world.one()
    assert world.do(Release("q", (first,))).words == (OK,)
    assert world.do(Release("q", (second,), 5_000)).words == (OK,)
    assert world.do(Release("q", (first, second))).words == (REPEATED, REPEATED)
    view = world.view()
    assert (view.available, view.delayed, view.locked) == (1, 1, 0)
    assert world.numbers() == [first.number]
    world.tick(4_999)
    assert world.receive() == []
    world.now += 1
    assert world.numbers() == [second.number]
    world.check()


def test_priorities_go_first_and_within_one_the_order_is_that_of_becoming_available(world: World) -> None:
    sent = world.send("q", draft(0), draft(9), draft(4), draft(9), draft(0, delay_ms=50)).numbers
    low, high, middle, high_too, delayed = sent
    assert world.numbers(most=2) == [high, high_too]
    world.tick(50)
    token = world.one()
    assert token.number == middle
    later = world.send("q", draft(0)).numbers[0]
    world.do(Release("q", (token,)))
    assert world.numbers() == [middle, low, delayed, later]
    world.check()


def test_a_message_that_is_delivered_too_often_is_dead_and_can_be_redriven(world: World) -> None:
    world.put(max_deliveries=2)
    (number,) = world.send().numbers
    world.one(consumer="a")
    world.tick(LOCK_MS)
    world.do(Release("q", (world.one(consumer="b"),)))
    view = world.view()
    assert (view.dead, view.depth, view.totals.died) == (1, 0, 1)
    message = world.part.book.segments.get(number)
    assert message is not None
    shown = view_message(message)
    assert shown.state == "dead"
    assert shown.reason == "delivered 2 times without an acknowledgement"
    assert [(past.consumer, past.end) for past in shown.history] == [("a", RAN_OUT), ("b", RELEASED)]
    assert world.do(Redrive("q")).count == 1
    token = world.one()
    assert (token.number, token.delivery) == (number, 1)
    assert world.ack(token) == (OK,)
    world.check()


def test_a_rejected_message_is_dead_with_the_reason(world: World) -> None:
    (number,) = world.send().numbers
    token = world.one(consumer="a")
    assert world.do(Reject("q", (token,), "no such customer")).words == (OK,)
    assert world.do(Reject("q", (token,), "again")).words == (REPEATED,)
    assert world.ack(token) == (LOST,)
    message = world.part.book.segments.get(number)
    assert message is not None
    assert view_message(message).reason == "no such customer"
    assert view_message(message).history[-1].end == REJECTED
    world.check()


def test_dead_messages_go_with_the_retention_counted_from_their_death(world: World) -> None:
    world.put(retention_ms=100_000)
    (number,) = world.send().numbers
    world.tick(90_000)
    world.do(Reject("q", (world.one(),)))
    world.tick(99_999)
    assert world.view().dead == 1
    world.tick(1)
    assert world.view().dead == 0
    assert fate(world, number)[0] == EXPIRED
    world.check()


def test_a_message_expires_by_its_time_to_live_but_not_under_a_lock(world: World) -> None:
    sent = world.send("q", draft(ttl_ms=1000), draft(ttl_ms=1000), draft(ttl_ms=1000, delay_ms=2000)).numbers
    token = world.one(lock_ms=5000)
    world.tick(999)
    assert world.view().depth == 3
    world.tick(1)
    assert world.view().depth == 1
    assert fate(world, sent[1])[0] == fate(world, sent[2])[0] == EXPIRED
    world.do(Release("q", (token,)))
    assert fate(world, sent[0]) == (EXPIRED, "c")
    world.send("q", draft(ttl_ms=1000))
    token = world.one()
    world.tick(2000)
    assert world.ack(token) == (OK,)
    world.check()


def test_retention_takes_the_oldest_and_leaves_what_is_held(world: World) -> None:
    world.put(retention_ms=10_000)
    sent = world.send("q", draft(), draft(), draft(delay_ms=9_000)).numbers
    token = world.one(lock_ms=60_000)
    world.tick(5_000)
    later = world.send().numbers[0]
    world.settle(5_000)
    assert world.view().depth == 2
    world.put(retention_ms=-1)
    world.do(Release("q", (token,)))
    assert fate(world, sent[0])[0] == EXPIRED, "it had ended while the message was held"
    world.settle(10_000_000)
    assert world.numbers() == [later]
    world.put(retention_ms=1)
    world.check()


def test_retention_that_is_shortened_holds_at_once(world: World) -> None:
    world.send()
    world.tick(60_000)
    world.put(retention_ms=30_000)
    world.settle()
    assert world.view().depth == 0
    world.check()


def test_receive_keeps_to_its_bytes_but_gives_at_least_one(world: World) -> None:
    world.send("q", draft(size=1000), draft(size=1000), draft(size=1000))
    assert len(world.receive(most=10, bytes_max=2100)) == 2
    assert len(world.receive(most=10, bytes_max=1)) == 1


def test_a_queue_that_is_not_there_is_refused_by_name(world: World) -> None:
    for op in (SendMessages("nix", (draft(),)), Acknowledge("nix", ()), Redrive("nix"), Release("nix", ())):
        refusal = world.refused(op, payloads=int(isinstance(op, SendMessages)))
        assert refusal.code == UNKNOWN_QUEUE
        assert "PUT /queues/nix" in refusal.message


def test_tokens_of_another_queue_do_nothing(world: World) -> None:
    world.put("other")
    world.send()
    token = world.one()
    assert world.ack(token, name="other") == (LOST,)
    assert world.do(Release("other", (token,))).words == (LOST,)
    assert world.ack(token) == (OK,)
    assert world.ack(token, name="other") == (LOST,)


def test_an_entry_carries_out_a_bounded_number_of_time_outs(world: World) -> None:
    for _ in range(3):
        world.send("q", *[draft(ttl_ms=1000)] * 1000)
    world.tick(1000)
    assert world.view().depth == 2000
    assert world.receive(most=5) == [], "what has ended is not given, though it has not been looked at"
    world.settle()
    assert world.view().depth == 0
    world.check()

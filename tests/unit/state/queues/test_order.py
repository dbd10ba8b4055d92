"""Queues that are ordered by key: a key's next message waits until the one before is acknowledged or dead."""

import pytest

from raftbroker.state.queues.ops import ILLEGAL, PutQueue, Redrive, Reject, Release
from tests.unit.state.queues.world import LOCK_MS, World, draft


@pytest.fixture
def world() -> World:
    world = World()
    world.put(ordered_by_key=True)
    return world


def test_one_message_of_a_key_is_out_at_a_time(world: World) -> None:
    a1, a2, b1, none1, a3, none2 = world.send(
        "q", draft(key=1), draft(key=1), draft(key=2), draft(), draft(key=1), draft()
    ).numbers
    assert (world.view().available, world.view().blocked) == (4, 2)
    taken = dict(zip([a1, b1, none1, none2], [token for _, token in world.receive(most=10)], strict=True))
    assert [token.number for token in taken.values()] == [a1, b1, none1, none2]
    world.ack(taken[b1])
    assert world.receive() == []
    world.ack(taken[a1])
    token = world.one()
    assert token.number == a2
    world.ack(token)
    assert world.numbers() == [a3]
    world.check()


def test_a_key_waits_for_a_message_that_is_given_back_or_delayed(world: World) -> None:
    first, second = world.send("q", draft(key=1), draft(key=1)).numbers
    world.do(Release("q", (world.one(),), 5_000))
    assert world.receive() == []
    world.tick(5_000)
    assert world.numbers() == [first]
    world.tick(LOCK_MS)
    world.ack(world.one())
    assert world.numbers() == [second]
    world.check()


def test_a_delayed_message_holds_its_key_and_one_behind_keeps_its_own_delay(world: World) -> None:
    first, second, third = world.send(
        "q", draft(key=1, delay_ms=1_000), draft(key=1, delay_ms=3_000), draft(key=1)
    ).numbers
    assert world.receive() == []
    world.tick(1_000)
    token = world.one()
    assert token.number == first
    world.ack(token)
    assert world.receive() == []
    world.tick(2_000)
    token = world.one()
    assert token.number == second
    world.ack(token)
    assert world.numbers() == [third]
    world.check()


def test_a_dead_message_lets_its_key_go_on_and_queues_up_when_redriven(world: World) -> None:
    first, second, third = world.send("q", draft(key=1), draft(key=1), draft(key=1)).numbers
    world.do(Reject("q", (world.one(),)))
    token = world.one()
    assert token.number == second
    world.do(Redrive("q"))
    assert world.view().blocked == 2
    for replica in world.replicas:
        replica.restart()
    world.ack(token)
    token = world.one()
    assert token.number == third
    world.ack(token)
    assert world.numbers() == [first]
    world.check()


def test_one_that_expires_in_the_middle_leaves_no_gap(world: World) -> None:
    first, _, third = world.send("q", draft(key=1), draft(key=1, ttl_ms=100), draft(key=1)).numbers
    token = world.one()
    assert token.number == first
    world.tick(100)
    assert world.view().blocked == 1
    world.ack(token)
    assert world.numbers() == [third]
    world.check()


def test_the_order_can_be_changed_only_while_the_queue_is_empty(world: World) -> None:
    world.send("q", draft(key=1))
    refusal = world.refused(PutQueue("q", {"ordered.by.key": False}))
    assert refusal.code == ILLEGAL
    assert refusal.field == "ordered.by.key"
    world.ack(world.one())
    world.put(ordered_by_key=False)
    world.check()

"""Messages that were sent before are recognised, by their own id or by that of the whole request."""

import pytest

from raftbroker.state.queues import intake
from raftbroker.state.queues.ops import CONFLICT, FULL, DeleteQueue, SendMessages, Sent
from tests.unit.state.queues.world import World, draft

ONE, TWO = b"1" * 16, b"2" * 16
WINDOW_MS = 300_000


@pytest.fixture
def world() -> World:
    world = World()
    world.put()
    return world


def test_a_dedup_id_is_sent_once_within_the_window(world: World) -> None:
    (number,) = world.send("q", draft(dedup=ONE)).numbers
    again = world.send("q", draft(dedup=ONE), draft(dedup=TWO))
    assert again.numbers[0] == number
    assert again.duplicates == (0,)
    world.ack(*(token for _, token in world.receive(most=10)))
    assert world.send("q", draft(dedup=ONE)).duplicates == (0,), "consumed, but still within the window"
    world.settle(WINDOW_MS - 1)
    assert world.send("q", draft(dedup=TWO)).duplicates == (0,)
    world.settle(1)
    assert world.send("q", draft(dedup=ONE), draft(dedup=ONE)).duplicates == (1,)
    world.check()


def test_ids_belong_to_their_queue(world: World) -> None:
    world.put("other")
    world.send("q", draft(dedup=ONE))
    assert world.send("other", draft(dedup=ONE)).duplicates == ()


def test_a_repeated_request_has_the_same_outcome_and_another_body_is_refused(world: World) -> None:
    first = world.send("q", draft(), draft(dedup=ONE), request=TWO, fingerprint=7)
    again = world.send("q", draft(), draft(dedup=ONE), request=TWO, fingerprint=7)
    assert again == Sent(first.numbers, (0, 1))
    assert world.view().available == 2
    refusal = world.refused(SendMessages("q", (draft(),), TWO, 8), 1)
    assert refusal.code == CONFLICT
    world.settle(WINDOW_MS)
    assert world.send("q", draft(), request=TWO, fingerprint=8).duplicates == ()
    world.check()


def test_a_window_that_is_shortened_forgets_at_once(world: World) -> None:
    world.send("q", draft(dedup=ONE))
    world.tick(60_000)
    world.put(dedup_window_ms=60_000)
    world.settle()
    assert world.send("q", draft(dedup=ONE)).duplicates == ()


def test_what_is_remembered_is_bounded_by_refusing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "IDS_MAX", 3)
    world.send("q", draft(dedup=b"a" * 16), draft(dedup=b"b" * 16))
    assert world.refused(SendMessages("q", (draft(dedup=b"c" * 16),) * 2), 2).code == FULL
    assert len(world.send("q", draft(), draft()).numbers) == 2, "without ids it goes on"
    world.settle(WINDOW_MS)
    assert world.send("q", draft(dedup=b"a" * 16)).duplicates == ()


def test_the_window_of_a_deleted_queue_goes_as_well(world: World) -> None:
    for number in range(30):
        world.send("q", draft(dedup=b"%016d" % number))
    world.do(DeleteQueue("q"))
    world.put()
    assert world.send("q", draft(dedup=b"%016d" % 1)).duplicates == ()
    world.settle()
    assert world.part.book.dedup_count == 1
    assert world.part.book.left_windows == {}
    world.check()

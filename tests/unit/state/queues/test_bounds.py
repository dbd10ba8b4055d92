"""Purging, deleting, payloads let go, what is kept of the past, and refusals where too much would be."""

import pytest

from raftbroker.state.queues import book, delivery, fates, part, segments
from raftbroker.state.queues.ops import (
    FULL,
    INVALID,
    INVALID_CONFIG,
    LOST,
    UNKNOWN_QUEUE,
    DeleteQueue,
    PurgeQueue,
    PutQueue,
    ReceiveMessages,
    Reject,
    Release,
    SendMessages,
)
from raftbroker.state.queues.segments import KEEP_MS, SIZE
from tests.unit.state.queues.world import World, draft


@pytest.fixture
def world() -> World:
    world = World()
    world.put()
    return world


def test_purge_takes_all_at_once_and_the_rows_bit_by_bit(world: World) -> None:
    world.put("other")
    for _ in range(6):
        world.send("q", *[draft()] * 1000)
        world.send("other", draft())
    token = world.one()
    world.do(Reject("q", (world.one(),)))
    assert world.do(PurgeQueue("q")).count == 6000
    assert world.view().depth == world.view().dead == 0
    assert world.part.book.segments.count == 6006
    world.first.restart()
    assert world.receive() == []
    assert world.ack(token) == (LOST,)
    later = world.send().numbers
    world.check()
    world.settle()
    assert world.part.book.segments.count == 7
    assert world.numbers() == list(later)
    assert world.view("other").depth == 6
    world.check()


def test_a_deleted_queue_is_gone_and_one_of_its_name_begins_anew(world: World) -> None:
    world.send("q", *[draft()] * 100)
    token = world.one()
    assert world.do(DeleteQueue("q")).count == 100
    assert world.refused(PurgeQueue("q")).code == UNKNOWN_QUEUE
    world.put()
    assert world.view().depth == 0
    assert world.ack(token) == (LOST,)
    (number,) = world.send().numbers
    world.settle(60_000)
    assert world.part.book.segments.count == 1
    assert world.numbers() == [number]
    world.check()


def test_payloads_go_by_segments_once_they_have_been_dead_for_a_while(world: World) -> None:
    for _ in range(4):
        world.send("q", *[draft()] * (SIZE // 2))
    kept = world.one()
    world.ack(*(token for _, token in world.receive(most=2 * SIZE)))
    assert world.part.payload_ranges() == [(0, SIZE), (2 * SIZE, 3 * SIZE)], "the first is held, the last still filled"
    world.settle(KEEP_MS - 1)
    assert world.first.released == []
    world.settle(1)
    assert world.first.released == [(SIZE, 2 * SIZE)]
    (kept, *_) = [token for _, token in world.receive(most=5)]
    world.ack(kept)
    world.first.restart()
    world.settle(KEEP_MS)
    assert world.first.released == [(SIZE, 2 * SIZE), (0, SIZE)]
    world.check()


def test_dead_payloads_are_bounded_in_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "KEEP_BYTES_MAX", 150 * SIZE)
    world.next_payload = SIZE
    for _ in range(4):
        world.send("q", *[draft(size=100)] * SIZE)
        world.ack(*(token for _, token in world.receive(most=SIZE)))
    world.tick()
    assert world.first.released == [(SIZE, 2 * SIZE), (2 * SIZE, 3 * SIZE)]
    world.check()


def test_payloads_of_what_was_refused_go_as_well(world: World) -> None:
    for _ in range(3):
        world.refused(SendMessages("nix", (draft(),) * SIZE), SIZE)
    world.settle(KEEP_MS)
    assert world.first.released == [(0, SIZE), (SIZE, 2 * SIZE), (2 * SIZE, 3 * SIZE)]
    world.check()


def test_fates_are_kept_for_an_hour_and_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = world.send("q", *[draft()] * 10).numbers
    world.ack(*(token for _, token in world.receive(most=5)))
    world.settle(fates.KEEP_MS - 1)
    assert world.part.book.fates.get(numbers[0]) is not None
    world.settle(1)
    assert world.part.book.fates.get(numbers[0]) is None
    monkeypatch.setattr(fates, "FATES_MAX", 3)
    for _, token in world.receive(most=5):
        world.ack(token)
    assert [world.part.book.fates.get(number) is not None for number in numbers[5:]] == [False, False, True, True, True]
    world.check()


def test_a_full_shard_refuses_and_names_the_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "MESSAGES_MAX", 10)
    world.send("q", *[draft()] * 10)
    refusal = world.refused(SendMessages("q", (draft(),)), 1)
    assert refusal.code == FULL
    assert "2,000,000 messages" in refusal.message
    world.ack(world.one())
    world.send()
    monkeypatch.setattr(book, "ROWS_BYTES_MAX", 1)
    assert world.refused(SendMessages("q", (draft(),)), 1).code == FULL
    monkeypatch.setattr(delivery, "LOCKS_BYTES_MAX", 1)
    assert world.refused(ReceiveMessages("q", "c", 1, 1, 0, 1)).code == FULL


def test_histories_are_bounded_and_cut_where_room_is_short(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(max_deliveries=0)
    (number,) = world.send().numbers
    for turn in range(7):
        world.do(Release("q", (world.one(consumer=f"{turn}" * 200),)))
    message = world.part.book.segments.get(number)
    assert message is not None
    assert [past.consumer[0] for past in message.extra.history] == list("23456")
    assert len(message.extra.history[0].consumer) == 100
    monkeypatch.setattr(book, "DETAILS_BYTES_MAX", 1)
    world.do(Release("q", (world.one(),)))
    assert len(message.extra.history) == 1
    world.check()


def test_queues_are_bounded_in_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "QUEUES_MAX", 2)
    world.put("second")
    assert world.refused(PutQueue("third", {})).code == FULL
    world.put("second", lock_ms=5)
    assert world.view("second").configs["lock.ms"] == 5


def test_a_delay_beyond_the_retention_is_refused(world: World) -> None:
    world.put(retention_ms=1000)
    refusal = world.refused(SendMessages("q", (draft(delay_ms=1000),)), 1)
    assert (refusal.code, refusal.field) == (INVALID, "delay_ms")
    assert "1000" in refusal.message
    world.send("q", draft(delay_ms=999))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lock.ms", 0),
        ("lock.ms", "30000"),
        ("lock.ms", True),
        ("max.deliveries", -1),
        ("retention.ms", -2),
        ("dedup.window.ms", 0),
        ("dead.letter.queue", "q"),
        ("dead.letter.queue", 5),
        ("ordered.by.key", "yes"),
        ("lock", 5),
    ],
)
def test_configs_are_checked_by_name(world: World, name: str, value: int | str | bool) -> None:
    refusal = world.refused(PutQueue("q", {name: value}))
    assert (refusal.code, refusal.field) == (INVALID_CONFIG, name)


def test_a_config_goes_back_to_its_default_and_others_stay(world: World) -> None:
    world.put(lock_ms=5, max_deliveries=3, dead_letter_queue="dead")
    view = world.put(lock_ms=None, dead_letter_queue=None)
    assert view.configs["lock.ms"] == 30_000
    assert view.configs["max.deliveries"] == 3
    assert view.configs["dead.letter.queue"] is None
    world.check()


def test_an_empty_state_has_no_rows() -> None:
    assert World().part.rows() == {}

"""What failures put off, and which URLs receipts may go to."""

import asyncio
import random

import pytest

from raftbroker.broker import queue_receipts
from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.queue_receipts import BELIEVED_SECONDS, PAUSE_MAX, PAUSE_MIN, Pauses, ReceiptUrls
from raftbroker.broker.queue_views import MessageDraft


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Checker:
    """A notifier that is only asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def check(self, url: str, field: str = "url") -> None:
        self.asked.append(url)
        if "private" in url:
            raise InvalidRequest(f"{field} is refused", field=field)

    async def send(self, url: str, body: bytes, *, timeout: float) -> None:
        raise AssertionError("nothing is to be sent")


def test_pauses_grow_to_a_bound_and_end_with_a_success() -> None:
    clock = Clock()
    pauses = Pauses(clock, random.Random(1))
    assert (pauses.failures("a"), pauses.until("a")) == (0, 0.0)
    before = 0.0
    for count in range(1, 20):
        pauses.failed("a")
        pause = pauses.until("a") - clock.now
        most = min(PAUSE_MAX, PAUSE_MIN * 2 ** (count - 1))
        assert most / 2 <= pause <= most
        assert pauses.failures("a") == count
        before = pause
    assert before >= PAUSE_MAX / 2
    assert pauses.until("b") == 0.0
    pauses.well("a")
    assert (pauses.failures("a"), pauses.until("a")) == (0, 0.0)


def test_pauses_are_bounded_and_the_last_to_fail_is_kept_if_the_others_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_receipts, "_PUT_OFF_MAX", 10)
    clock = Clock()
    pauses = Pauses(clock, random.Random(1))
    for number in range(10):
        pauses.failed(number)
    clock.now += 1
    pauses.failed(10)
    assert [pauses.failures(number) for number in range(11)] == [0] * 10 + [1]
    for number in range(1000):
        pauses.failed(number)
        assert len(pauses._pauses) <= 10


def test_a_host_is_asked_for_once_in_a_while() -> None:
    async def main() -> None:
        clock, checker = Clock(), Checker()
        urls = ReceiptUrls(clock)
        drafts = [
            MessageDraft(body=b"1"),
            MessageDraft(body=b"1", receipt="queue:q"),
            *(MessageDraft(body=b"1", receipt=f"https://one.test/{n}") for n in range(50)),
            MessageDraft(body=b"1", receipt="https://two.test/"),
        ]
        await urls.check(checker, drafts)
        assert sorted(checker.asked) == ["https://one.test/0", "https://two.test/"]
        await urls.check(checker, drafts)
        assert len(checker.asked) == 2
        clock.now += BELIEVED_SECONDS
        await urls.check(checker, drafts)
        assert len(checker.asked) == 4
        for _ in range(2):  # a refusal is not believed: the name may resolve to something else the next time
            with pytest.raises(InvalidRequest) as caught:
                await urls.check(checker, [*drafts, MessageDraft(body=b"1", receipt="http://private.test/")])
            assert caught.value.field == f"messages[{len(drafts)}].receipt"
        assert len(checker.asked) == 6

    asyncio.run(main())

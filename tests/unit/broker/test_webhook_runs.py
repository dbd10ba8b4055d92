"""How long deliveries pause, however many requests of theirs fail at once."""

import asyncio
import random
from typing import Any, cast

import pytest

from raftbroker.broker.context import Context
from raftbroker.broker.webhook_delivery import Undelivered
from raftbroker.broker.webhook_runs import TURNS_PER_WEBHOOK, Progress, Turns
from raftbroker.state.webhooks import Webhook

HOOK = Webhook("h", "1", 1, 5, topic="t", url="http://a.b/", backoff_ms=100, backoff_ms_max=1000)


class Around:
    """Of a context, what a progress looks at."""

    me = 1
    random = random.Random(1)

    def wall(self) -> int:
        return 77


def test_pauses_grow_to_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    progress = Progress(cast(Context, Around()), HOOK, 0)

    async def run() -> None:
        for _ in range(8):
            progress.failed(Undelivered("no"))
            await progress.pause()
        await progress.pause(1)

    asyncio.run(run())
    assert all(before / 2 <= pause <= before for pause, before in zip(slept, (0.1, 0.2, 0.4, 0.8), strict=False))
    assert all(0.5 <= pause <= 1.0 for pause in slept[4:8])
    assert 0.05 <= slept[8] <= 0.1
    assert (progress.status.failures, progress.status.last_error, progress.status.last_error_ms) == (8, "no", 77)
    progress.taken(3)
    assert (progress.status.failures, progress.status.delivered, progress.status.last_success_ms) == (0, 3, 77)
    assert progress.status.last_error == "no", "it stays to be seen"


def test_a_webhook_does_not_take_all_turns() -> None:
    async def run() -> None:
        turns = Turns()
        held: list[Any] = []
        for _ in range(TURNS_PER_WEBHOOK):
            turn = turns.of("slow")
            await turn.__aenter__()
            held.append(turn)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), turns.of("slow"):
                pass
        async with asyncio.timeout(1.0), turns.of("other"):
            pass
        for turn in held:
            await turn.__aexit__(None, None, None)
        async with asyncio.timeout(1.0), turns.of("slow"):
            pass

    asyncio.run(run())

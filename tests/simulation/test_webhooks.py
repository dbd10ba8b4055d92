"""Webhooks under faults: seeds that pass, and bugs planted to see that they are found.

`python -m tests.simulation --webhooks --seeds 500` runs more.
"""

from collections.abc import Callable
from typing import Any

import pytest

from raftbroker.broker.webhook_delivery import Undelivered
from raftbroker.broker.webhook_topics import TopicRun

from .runner import run_webhooks


@pytest.mark.parametrize(("voters", "count"), [(1, 2), (3, 8), (5, 2)])
def test_seeds_pass(voters: int, count: int) -> None:
    arrivals = 0
    for seed in range(count):
        result = run_webhooks(seed, voters)
        arrivals += result.counts.get("arrivals", 0)
        if result.error is not None:
            again = f"python -m tests.simulation --webhooks --nodes {voters} --replay {seed} --trace"
            raise AssertionError(f"seed {seed} failed: {result.error}; to see it: {again}") from result.error
    assert arrivals > count, "a run in which nothing arrives proves nothing"


def test_one_seed_is_one_run() -> None:
    assert run_webhooks(5).digest == run_webhooks(5).digest


_post = TopicRun._post
_begin = TopicRun._begin


async def pass_over(self: TopicRun, batch: Any, attempt: int) -> None:
    """What the receiver does not take counts as taken."""
    try:
        await _post(self, batch, attempt)
    except Undelivered:
        return


async def begin_at_the_end(self: TopicRun) -> int:
    """A position that was committed before its records were taken."""
    return await _begin(self) + 1


async def never_commit(self: TopicRun) -> None:
    return


PLANTS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "what is refused is passed over": (TopicRun, "_post", pass_over, "none is left out"),
    "the position is ahead of what was taken": (TopicRun, "_begin", begin_at_the_end, "none is left out"),
    "the position is not committed": (TopicRun, "_commit", never_commit, "all arrives"),
}
"""What is replaced, by what, and of what the simulation complains."""


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, replacement, complaint = PLANTS[name]
    monkeypatch.setattr(owner, attribute, replacement)
    for seed in range(20):
        error = run_webhooks(seed).error
        if error is not None:
            assert complaint in str(error)
            return
    pytest.fail(f"{name}: not caught by 20 seeds")

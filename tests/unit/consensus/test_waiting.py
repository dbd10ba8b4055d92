"""Who waits for an entry or a number gets one answer, the right one, by the deadline (C10)."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import Refused, Unknown
from consensus.model import Entry, EntryKind
from consensus.waiting import Proposals, Thresholds
from tests.simulation.loop import run_simulation


def run(test: Coroutine[Any, Any, None]) -> None:
    run_simulation(lambda loop: test)


def entry(index: int, term: int) -> Entry:
    return Entry.of(term, index, EntryKind.COMMAND, b"command")


def test_the_entry_that_is_applied_tells_whether_it_was_the_one() -> None:
    async def scenario() -> None:
        proposals = Proposals(1)
        mine, lost, open_ = (proposals.add(entry(index, 2), 1.0) for index in (4, 5, 6))
        assert (len(proposals), proposals.bytes) == (3, 3 * entry(1, 1).size)
        proposals.applied([entry(3, 2), entry(4, 2), entry(5, 3)])
        assert await mine == 4
        with pytest.raises(Refused, match="entry 5 of group 1 was discarded by a later leader"):
            await lost
        assert not open_.done()
        with pytest.raises(Unknown, match=r"entry 6 of group 1 was not decided within 1\.000 s"):
            await open_
        proposals.applied([entry(6, 2)])
        assert (len(proposals), proposals.bytes) == (0, 0)

    run(scenario())


def test_a_leader_that_appends_in_the_place_of_its_own_old_entry_refuses_that() -> None:
    async def scenario() -> None:
        proposals = Proposals(1)
        old = proposals.add(entry(4, 2), 1.0)
        new = proposals.add(entry(4, 5), 1.0)
        with pytest.raises(Refused, match="discarded"):
            await old
        proposals.applied([entry(4, 5)])
        assert await new == 4
        assert proposals.bytes == 0

    run(scenario())


def test_what_a_snapshot_passes_over_is_unknown() -> None:
    async def scenario() -> None:
        proposals = Proposals(1)
        below, above = proposals.add(entry(4, 2), 1.0), proposals.add(entry(9, 2), 1.0)
        proposals.skipped(4)
        with pytest.raises(Unknown, match="passed over by a snapshot"):
            await below
        assert not above.done()
        proposals.fail(Unknown("the node stops"))
        with pytest.raises(Unknown, match="the node stops"):
            await above
        assert (len(proposals), proposals.bytes) == (0, 0)

    run(scenario())


def test_a_waiter_that_went_away_is_no_trouble() -> None:
    async def scenario() -> None:
        proposals, thresholds = Proposals(1), Thresholds()
        proposals.add(entry(1, 1), 1.0).cancel()
        thresholds.add(1, 1.0, "never").cancel()
        proposals.applied([entry(1, 1)])
        thresholds.reached(1)
        await asyncio.sleep(2.0)
        assert (len(proposals), proposals.bytes, len(thresholds)) == (0, 0, 0)

    run(scenario())


@given(st.lists(st.integers(0, 20), max_size=12), st.lists(st.integers(0, 20), max_size=6))
@settings(max_examples=60, deadline=None)
def test_thresholds_end_when_reached_and_not_before(wanted: list[int], values: list[int]) -> None:
    async def scenario() -> None:
        thresholds = Thresholds()
        waiting = [thresholds.add(number, 1.0, f"{number} was not reached") for number in wanted]
        highest = -1
        for value in values:
            thresholds.reached(value)
            highest = max(highest, value)
            assert [future.done() for future in waiting] == [number <= highest for number in wanted]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for number, outcome in zip(wanted, outcomes, strict=True):
            assert outcome == number if number <= highest else isinstance(outcome, Unknown)

    run(scenario())


def test_failing_thresholds_tells_all_of_them() -> None:
    async def scenario() -> None:
        thresholds = Thresholds()
        waiting = [thresholds.add(number, 1.0, "late") for number in (3, 1, 2)]
        thresholds.fail(Refused("no leader"))
        assert all(isinstance(future.exception(), Refused) for future in waiting)
        thresholds.reached(9)
        assert len(thresholds) == 0

    run(scenario())

"""The judging of queue histories finds what it should: histories that are well, and one for each thing that is not."""

import copy
from collections.abc import Callable

import pytest

from tests.cluster.queue_history import History, Hold, Told, problems_of


def hold(id_: str, delivery: int, consumer: str, asked: float, settling: float | None) -> Hold:
    return Hold(id_, delivery, f"{id_}-{delivery}-{consumer}", consumer, asked, asked + 0.1, asked + 3.0, settling)


def sound() -> History:
    """One message consumed at once, one at its second delivery, one that died, one whose consumer heard no answer."""
    holds = [
        hold("1", 1, "a", 0.0, 0.5),
        hold("2", 1, "a", 0.0, None),
        hold("2", 2, "b", 3.2, 3.5),
        hold("3", 1, "b", 1.0, 1.2),
        hold("4", 1, "c", 1.0, 1.2),
    ]
    receipts = [
        Told("1", "consumed", "a"),
        Told("2", "consumed", "b"),
        Told("3", "dead", "b", "graves"),
        Told("4", "consumed", "c"),
    ]
    return History(
        dead_letter_queue="graves",
        sent=["1", "2", "3", "4"],
        holds=holds,
        acknowledged=[holds[0], holds[2]],
        unheard=[holds[4]],
        rejected=[holds[3]],
        dead=["3"],
        receipts=receipts[:3],
        posted=[receipts[3], receipts[3]],
        fates=list(receipts),
    )


def test_a_sound_history_has_no_problems() -> None:
    assert problems_of(sound()) == []


def test_an_acknowledgement_that_nobody_heard_of_may_not_have_arrived() -> None:
    history = sound()
    again = hold("4", 2, "a", 4.2, 4.5)
    history.holds.append(again)
    history.acknowledged.append(again)
    history.posted = [Told("4", "consumed", "a")]
    history.fates[3] = Told("4", "consumed", "a")
    assert problems_of(history) == []


def test_a_lock_that_was_given_up_may_be_held_by_the_next() -> None:
    history = sound()
    history.holds[1].settling = 0.2
    history.holds[2].asked, history.holds[2].answered = 0.15, 0.3
    assert problems_of(history) == []


def _earlier(history: History) -> None:
    history.holds[2].asked, history.holds[2].answered = 1.0, 1.1


def _extended(history: History) -> None:
    history.holds[1].ends = 3.6


def _posted(history: History) -> None:
    history.acknowledged.append(history.unheard.pop())
    history.posted.append(Told("4", "expired", "c"))


PLANTED: dict[str, Callable[[History], object]] = {
    "id 1 was given to two messages": lambda history: history.sent.append("1"),
    "delivery 1 of 1 was given 2 times": lambda history: history.holds.append(copy.copy(history.holds[0])),
    "token 1-1-a was given twice": lambda history: history.holds.append(copy.copy(history.holds[0])),
    "2 was held by a until 3.000 and by b from 1.100": _earlier,
    "2 was held by a until 3.600 and by b from 3.3": _extended,
    "2 was acknowledged twice": lambda history: history.acknowledged.append(history.holds[1]),
    "3 is twice among the dead": lambda history: history.dead.append("3"),
    "1 was acknowledged and is dead": lambda history: history.dead.append("1"),
    "4 was acknowledged and is dead": lambda history: history.dead.append("4"),
    "5 is lost": lambda history: history.sent.append("5"),
    "4 is lost": lambda history: history.unheard.clear(),
    "3 was never sent": lambda history: history.sent.remove("3"),
    "3 was rejected and is not dead": lambda history: history.dead.clear(),
    "1 was delivered again after": lambda history: history.holds.append(hold("1", 2, "c", 9.0, None)),
    "3 was delivered again after": lambda history: history.holds.append(hold("3", 2, "c", 9.0, None)),
    "two receipts for 1": lambda history: history.receipts.append(Told("1", "consumed", "a")),
    "no receipt for 1": lambda history: history.receipts.pop(0),
    "no receipt for 4": lambda history: history.posted.clear(),
    "two receipts for 4": lambda history: history.posted.append(Told("4", "consumed", "a")),
    "two receipts for 3": lambda history: history.posted.append(Told("3", "dead", "b", "graves")),
    "4 was acknowledged by c, its posted receipt says expired": _posted,
    "a receipt for 9": lambda history: history.receipts.append(Told("9", "consumed", "a")),
    "1 was acknowledged by a, its receipt says consumed by z": lambda history: history.receipts.__setitem__(
        0, Told("1", "consumed", "z")
    ),
    "1 was acknowledged by a, its fate says expired": lambda history: history.fates.__setitem__(
        0, Told("1", "expired", "a")
    ),
    "4 was acknowledged by c, its fate says waiting": lambda history: history.fates.__setitem__(
        3, Told("4", "waiting", "")
    ),
    "3 is dead, its receipt says consumed": lambda history: history.receipts.__setitem__(2, Told("3", "consumed", "b")),
    "3 is dead, its fate says dead elsewhere": lambda history: history.fates.__setitem__(
        2, Told("3", "dead", "b", "elsewhere")
    ),
}


@pytest.mark.parametrize("told", PLANTED)
def test_what_is_wrong_is_found(told: str) -> None:
    history = sound()
    PLANTED[told](history)
    assert any(problem.startswith(told) for problem in problems_of(history)), problems_of(history)

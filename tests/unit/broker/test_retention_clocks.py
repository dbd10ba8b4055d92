"""Clocks that are wrong trim nothing early: the real state machine, group clock and rule of retention, led by one
leader after the other. The truth is known here: when each record was really appended."""

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.model import Entry, EntryKind
from raftbroker.broker.clocks import AGREE_MS
from raftbroker.broker.retention import Ages, past_retention
from raftbroker.state.clock import GroupClock
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import AppendBatches, AppendHeader, PartitionCommand, Trim, encode_partition

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
RETENTION = 7 * DAY
START = 1_700_000_000_000
SLACK = 2 * AGREE_MS
"""Clocks that agree may still differ by this."""


class World:
    """One partition. `wrong_ms` is the present leader's error."""

    def __init__(self) -> None:
        self.machine = PartitionMachine()
        self.now = START
        self.term = self.index = self.wrong_ms = 0
        self.appended: list[int] = []
        """offset -> when that really was"""
        self.lead(0)

    def lead(self, wrong_ms: int) -> None:
        """Another leader, whose clock is wrong by so much."""
        self.term += 1
        self.wrong_ms = wrong_ms
        self.clock = GroupClock(self.machine.time_ms, self.now + wrong_ms, self.now / 1000)

    def restart(self) -> None:
        """Every replica goes on from its rows."""
        rows, self.machine = self.machine.rows(), PartitionMachine()
        self.machine.restore(rows, self.index)

    @property
    def time_ms(self) -> int:
        return self.clock.now(self.now / 1000)

    def apply(self, command: PartitionCommand) -> None:
        self.index += 1
        self.machine.apply([Entry.of(self.term, self.index, EntryKind.COMMAND, encode_partition(command))])

    def append(self, size: int = 2 << 20) -> None:
        """Stamped by the leader, as LogAppendTime is; large enough to close its segment."""
        stamp = self.time_ms
        self.apply(AppendBatches(stamp, (AppendHeader(1, self.machine.end(1), 1, size, stamp),)))
        self.appended.append(self.now)

    def confirm(self, agreed: bool = True) -> bool:
        """What the leader does once a majority's clocks agree with its own."""
        good = agreed and abs(self.time_ms - self.now - self.wrong_ms) <= AGREE_MS
        if good:
            self.apply(Trim(self.time_ms, ()))
        return good

    def gone(self) -> int:
        """How many records retention takes now."""
        machine = self.machine
        if machine.term != self.term:
            return 0
        ages = Ages(self.time_ms, machine.age_floor_ms, RETENTION)
        return past_retention(machine.partition(1), machine.segments(1), ages, -1, machine.last_stable(1))


def test_without_trouble_records_go_when_they_are_old() -> None:
    world = World()
    assert not world.gone()
    world.append()
    world.now += RETENTION - 100
    assert world.gone() == 0
    world.now += 200
    assert world.gone() == 1


def test_a_leader_whose_clock_is_ahead_trims_nothing_nor_does_the_next() -> None:
    world = World()
    world.append()
    world.confirm()
    world.lead(8 * DAY)
    world.append()
    assert world.gone() == 0
    world.now += HOUR
    world.lead(0)
    world.append()
    assert not world.confirm(), "group time is still ahead"
    assert world.gone() == 0
    world.now += 16 * DAY
    assert world.confirm(), "at half speed it is passed by the right clocks within twice what it was ahead"
    assert world.gone() == 3


def test_what_a_slow_leader_stamped_does_not_look_old_to_the_next() -> None:
    world = World()
    world.lead(-8 * DAY)
    world.machine = PartitionMachine()  # a group whose very first leader is slow
    world.append()
    world.append()
    assert world.machine.segments(1)[0].max_timestamp < START - 7 * DAY
    world.now += HOUR
    world.lead(0)
    world.append()
    assert world.gone() == 0
    world.confirm()
    assert world.gone() == 0
    world.restart()
    world.now += RETENTION - MINUTE
    assert world.gone() == 0
    world.now += 2 * MINUTE
    assert world.gone() == 3


def test_a_slow_leader_that_stays_trims_by_what_went_by() -> None:
    world = World()
    world.lead(-8 * DAY)
    world.machine = PartitionMachine()
    for _ in range(3):
        world.append()
        world.now += 3 * DAY
    assert world.gone() == 1


def test_a_cluster_that_was_off_for_eight_days_trims_once_the_time_is_confirmed() -> None:
    world = World()
    for _ in range(3):
        world.append()
    world.now += MINUTE
    world.confirm()
    world.now += 8 * DAY
    world.restart()
    world.lead(0)
    assert world.gone() == 0
    world.append()
    assert world.gone() == 0
    world.now += 10 * MINUTE
    world.confirm()
    assert world.gone() == 3


def test_what_followed_the_last_confirmation_is_in_doubt_in_the_next_term() -> None:
    """As after a machine slept, whose monotonic clock then stood still: the leader has become slow unnoticed."""
    world = World()
    world.append()
    world.now += MINUTE
    world.confirm()
    asleep = 8 * DAY
    world.now += asleep
    world.clock = GroupClock(world.machine.time_ms, world.now - asleep, world.now / 1000)
    world.append()
    assert not world.confirm()
    assert world.gone() == 0
    world.lead(0)
    world.append()
    world.confirm()
    assert world.gone() == 1, "the first was confirmed and is old, the second is not known to be"


errors = st.sampled_from((0, 0, 0, 30_000, -HOUR, HOUR, -9 * DAY, 9 * DAY, -300 * DAY, 300 * DAY))
events = st.one_of(
    st.tuples(st.just("lead"), errors),
    st.tuples(st.just("pass"), st.sampled_from((1, 1000, MINUTE, HOUR, DAY, 5 * DAY, 8 * DAY))),
    st.tuples(st.just("append"), st.sampled_from((1, 1000, 2 << 20))),
    st.tuples(st.just("confirm"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(events, max_size=40))
def test_nothing_goes_before_its_time_whatever_the_clocks_say(history: list[tuple[str, int]]) -> None:
    """Only a leader whose clock is right finds a majority that agrees with it."""
    world = World()
    for what, amount in history:
        if what == "lead":
            world.lead(amount)
        elif what == "pass":
            world.now += amount
        elif what == "append":
            world.append(amount)
        elif what == "confirm":
            world.confirm(abs(world.wrong_ms) <= AGREE_MS)
        else:
            world.restart()
        gone = world.gone()
        assert all(world.now - at >= RETENTION - SLACK for at in world.appended[:gone]), "trimmed early"


@settings(max_examples=200, deadline=None)
@given(st.lists(events, max_size=30))
def test_everything_goes_in_the_end(history: list[tuple[str, int]]) -> None:
    """Under one leader with a right clock, within twice the greatest error and the retention."""
    world = World()
    for what, amount in history:
        if what == "lead":
            world.lead(amount)
        elif what == "pass":
            world.now += amount
        elif what == "append":
            world.append(amount)
    world.lead(0)
    world.append()
    world.now += 2 * RETENTION + MINUTE
    assert world.gone() == len(world.appended)
    world.now += 2 * 300 * DAY
    assert world.confirm()

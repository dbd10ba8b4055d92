"""Steps of membership: from any state they lead to what is wanted, and never below a sound majority."""

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.model import Configuration, Member
from raftbroker.broker.membership import Action, Seen, Step, next_step


def member(node: int, directory: int = 0) -> Member:
    return Member(node, f"{directory}")


def apply(now: Configuration, step: Step) -> Configuration:
    voters, learners = now.voters, now.learners
    if step.action is Action.LEARN:
        assert step.member not in now.members
        return Configuration(voters, (*learners, step.member))
    if step.action is Action.PROMOTE:
        assert step.member in learners
        return Configuration((*voters, step.member), tuple(m for m in learners if m != step.member))
    assert step.member in now.members
    return Configuration(tuple(m for m in voters if m != step.member), tuple(m for m in learners if m != step.member))


def settle(
    now: Configuration, wanted: list[Member], voters_max: int, damaged: frozenset[Member], exact: bool
) -> Configuration:
    """Takes steps until there are none; a learner catches up as soon as it is one."""
    for _ in range(40):
        successors = {m.node: m for m in wanted}
        gone = frozenset(m for m in now.members if successors.get(m.node, m) != m)
        seen = Seen(
            frozenset(m for m in now.members if m in wanted),
            (frozenset(wanted) | frozenset(now.voters)) - damaged - gone,
            damaged,
        )
        step = next_step(now, wanted, voters_max, seen, exact=exact)
        if step is None:
            return now
        sound = [m for m in now.voters if m in wanted and m not in damaged]
        had_quorum = len(sound) >= now.majority
        now = apply(now, step)
        left = [m for m in now.voters if m in wanted and m not in damaged]
        assert not had_quorum or len(left) >= now.majority, f"{step} costs the group its majority"
        assert now.voters
    raise AssertionError("the steps go on for ever")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_replaced_disks_end_as_voters(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    lost = data.draw(st.integers(0, (count - 1) // 2))
    now = Configuration(tuple(member(n) for n in range(1, count + 1)))
    wanted = [member(n, 1 if n <= lost else 0) for n in range(1, count + 1)]
    end = settle(now, wanted, count, frozenset(), exact=data.draw(st.booleans()))
    assert set(end.voters) == set(wanted)
    assert end.learners == ()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.integers(0, 8))
def test_the_control_group_has_five_voters_at_most(first: int, more: int) -> None:
    now = Configuration(tuple(member(n) for n in range(1, first + 1)))
    wanted = [member(n) for n in range(1, first + more + 1)]
    end = settle(now, wanted, 5, frozenset(), exact=False)
    assert len(end.voters) == min(5, first + more)
    assert set(end.members) == set(wanted)


def test_a_damaged_replica_goes_and_stays_out_until_it_is_sound() -> None:
    now = Configuration(tuple(member(n) for n in (1, 2, 3)))
    wanted = [member(n) for n in (1, 2, 3)]
    end = settle(now, wanted, 3, frozenset({member(2)}), exact=True)
    assert set(end.voters) == {member(1), member(3)}
    assert set(settle(end, wanted, 3, frozenset(), exact=True).voters) == set(wanted)


def test_the_last_voter_stays_even_if_damaged() -> None:
    now = Configuration((member(1),))
    assert settle(now, [member(1)], 1, frozenset({member(1)}), exact=True) == now


def test_nodes_not_registered_yet_are_left_in_the_control_group() -> None:
    now = Configuration(tuple(member(n) for n in (1, 2, 3)))
    assert settle(now, [member(1)], 5, frozenset(), exact=False) == now


def test_a_learner_that_lags_is_not_promoted() -> None:
    now = Configuration((member(1),), (member(2),))
    wanted = [member(1), member(2)]
    seen = Seen(frozenset({member(1)}), frozenset(wanted), frozenset())
    assert next_step(now, wanted, 2, seen, exact=True) is None


# --- a voter whose disk is gone ---------------------------------------------------------------------------

OLD = [member(n) for n in (1, 2, 3)]
NEW = [member(1), member(2), member(3, 1)]


def steps_of(now: Configuration, wanted: list[Member], ready: list[Member], caught_up: list[Member]) -> list[Step]:
    """The steps that follow on one another while nothing else happens."""
    taken = []
    seen = Seen(frozenset(caught_up), frozenset(ready), frozenset())
    while (step := next_step(now, wanted, len(wanted), seen, exact=True)) is not None:
        taken.append(step)
        now = apply(now, step)
        assert len(taken) < 20
    return taken


def test_the_dead_voter_goes_before_its_successor_votes() -> None:
    now = Configuration(tuple(OLD))
    assert steps_of(now, NEW, NEW, NEW) == [
        Step(Action.LEARN, NEW[2]),
        Step(Action.REMOVE, OLD[2]),
        Step(Action.PROMOTE, NEW[2]),
    ]


def test_the_dead_voter_stays_until_its_successor_has_caught_up() -> None:
    now = Configuration(tuple(OLD))
    assert steps_of(now, NEW, NEW, NEW[:2]) == [Step(Action.LEARN, NEW[2])]


def test_a_successor_that_is_lost_too_leaves_a_group_that_goes_on() -> None:
    again = [*NEW[:2], member(3, 2)]
    for now in (
        Configuration(tuple(OLD), (NEW[2],)),
        Configuration((OLD[0], OLD[1]), (NEW[2],)),
        Configuration(tuple(NEW)),
    ):
        alive = [m for m in now.voters if m in again]
        assert len(alive) >= now.majority
        end = now
        for step in steps_of(now, again, again, again):
            end = apply(end, step)
            assert len([m for m in end.voters if m in again]) >= end.majority, step
        assert (set(end.voters), end.learners) == (set(again), ())


def test_of_two_voters_the_dead_one_goes_first() -> None:
    now = Configuration((OLD[0], OLD[1]), (member(2, 1),))
    wanted = [OLD[0], member(2, 1)]
    assert steps_of(now, wanted, wanted, wanted) == [Step(Action.REMOVE, OLD[1]), Step(Action.PROMOTE, member(2, 1))]


def test_no_voter_goes_where_that_could_not_be_committed() -> None:
    """Node 2 does not answer now: one of two voters left is no majority."""
    now = Configuration(tuple(OLD), (NEW[2],))
    assert steps_of(now, NEW, [NEW[0], NEW[2]], NEW) == []
    damaged = Seen(frozenset(OLD), frozenset({OLD[0]}), frozenset({OLD[2]}))
    assert next_step(Configuration(tuple(OLD)), OLD, 3, damaged, exact=True) is None


def test_another_learner_that_has_caught_up_may_follow_the_dead_voter() -> None:
    """The control group of seven nodes: the sixth takes the place of the third, whose new disk still catches up."""
    nodes = [member(n) for n in range(1, 8)]
    wanted = [member(n, 1 if n == 3 else 0) for n in range(1, 8)]
    now = Configuration(tuple(nodes[:5]), (*nodes[5:], wanted[2]))
    seen = Seen(frozenset(wanted) - {wanted[2]}, frozenset(wanted), frozenset())
    first = next_step(now, wanted, 5, seen, exact=False)
    assert first == Step(Action.REMOVE, nodes[2])
    then = apply(now, first)
    assert next_step(then, wanted, 5, seen, exact=False) == Step(Action.PROMOTE, nodes[5])


def test_two_dead_of_five_are_replaced_one_after_the_other() -> None:
    now = Configuration(tuple(member(n) for n in range(1, 6)))
    wanted = [member(n, 1 if n > 3 else 0) for n in range(1, 6)]
    end = now
    for step in steps_of(now, wanted, wanted, wanted):
        end = apply(end, step)
        assert len([m for m in end.voters if m in wanted]) >= end.majority, step
    assert (set(end.voters), end.learners) == (set(wanted), ())

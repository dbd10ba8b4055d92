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
        seen = Seen(frozenset(m for m in now.members if m in wanted), frozenset(wanted) - damaged, damaged)
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

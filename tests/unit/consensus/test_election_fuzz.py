"""Random faults against real electors: one leader per term, nothing committed lost, quick to settle afterwards.

One seed is one run; the seed is in the test's id. Many: `python -m tests.unit.consensus.test_election_fuzz`.
"""

import argparse
import os
import re
import sys
import time

import pytest

from consensus.election import ElectionMessage, Elector, Role
from consensus.messages import RequestVote, TimeoutNow, Vote
from consensus.model import Member
from tests.unit.consensus.election_world import LogEntry, Replica, Said, World

SHAPES = ((1, 0), (3, 0), (5, 0), (1, 2), (3, 2))
"""(voters, learners); where there are learners, voters change."""
SEEDS = range(int(os.environ.get("RAFTBROKER_ELECTION_SEEDS", "60")))
SETTLE_S = 8.0


def torment(seed: int, voters: int, learners: int) -> World:
    """Forty rounds of partitions, one-way cuts, crashes with and without notice, slow disks, late and repeated
    messages, leadership handed to several at once, changes of voters; then everything heals. Raises AssertionError
    where anything breaks."""
    world = World(seed, voters, learners)
    draw = world.random
    world.duplicates = draw.choice([0.0, 0.05, 0.3])
    world.delay_s = draw.choice([(0.0005, 0.003), (0.001, 0.03), (0.001, 0.15)])
    world.lag_s = draw.choice([0.001, 0.01, 0.1])
    for _ in range(40):
        trouble(world)
        world.run(draw.choice([0.02, 0.2, 0.5, 1.5]))
    heal(world)
    world.settle(SETTLE_S)
    assert max(world.leaders) < 200, "terms grow without need"
    return world


def trouble(world: World) -> None:
    draw, chance = world.random, world.random.random()
    leading = world.leading()
    if chance < 0.12:
        world.isolate(*draw.sample(world.members, draw.randrange(1, len(world.members) + 1)))
    elif chance < 0.24 and len(world.members) > 1:
        world.cut.add(tuple(draw.sample(world.members, 2)))
    elif chance < 0.36:
        world.crash(draw.choice(world.members), noticed=draw.random() < 0.6)
    elif chance < 0.56 and leading:
        hand_over(world, draw.choice(leading))
    elif chance < 0.76:
        for leader in leading:
            world.replicas[leader].append(LogEntry(world.elector(leader).term))
            if world.members[len(world.initial) :]:
                world.replicas[leader].change_voters()
    else:
        heal(world)


def hand_over(world: World, leader: Member) -> None:
    """Several are told to campaign at once, and while their requests and votes are under way some restart."""
    for m in world.random.sample(world.members, world.random.randrange(1, len(world.members) + 1)):
        world.replicas[leader].say(m, TimeoutNow(7, world.elector(leader).term))
    for _ in range(world.random.randrange(3)):
        world.run(world.random.uniform(0, 3) * max(world.delay_s[1], world.lag_s))
        victim = world.random.choice(world.members)
        world.crash(victim, noticed=False)
        world.start(victim)


def heal(world: World) -> None:
    world.cut.clear()
    for m in world.members:
        world.start(m)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_leader_per_term_whatever_happens(seed: int) -> None:
    for voters, learners in SHAPES:
        torment(seed, voters, learners)


def test_a_seed_is_one_run() -> None:
    first, again = torment(5, 5, 0), torment(5, 5, 0)
    assert first.now == again.now
    assert first.sent == again.sent
    assert len(first.sent) > 1000


# --- it can fail --------------------------------------------------------------------------------------------


def caught(*shapes: tuple[int, int], first: int = 0) -> str:
    """The fuzz's first complaint about the bug that has been planted, found at about one seed in a hundred; `first`
    is a seed from which it does not take long."""
    for seed in range(first, first + 300):
        for voters, learners in shapes:
            try:
                torment(seed, voters, learners)
            except AssertionError as failure:
                return str(failure)
    return "nothing"


SPLIT = re.compile("two leaders in term|two different entries|without what was committed")


def test_it_catches_votes_that_leave_before_they_are_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(replica: Replica, dst: Member, said: Said) -> None:
        replica.world.send(replica.me, dst, said)

    monkeypatch.setattr(Replica, "say", hasty)
    assert SPLIT.search(caught((3, 0), first=60))


def test_it_catches_votes_that_count_twice_or_in_another_term(monkeypatch: pytest.MonkeyPatch) -> None:
    def credulous(elector: Elector, src: Member, vote: Vote) -> None:
        if elector.role is Role.CANDIDATE:
            elector._engine.voted(src, elector.term)
            elector._settle()

    monkeypatch.setattr(Elector, "_voted", credulous)
    assert SPLIT.search(caught((5, 0), first=60))


def test_it_catches_a_vote_for_a_shorter_log(monkeypatch: pytest.MonkeyPatch) -> None:
    granting = Elector.receive

    def generous(elector: Elector, src: Member, message: ElectionMessage) -> None:
        if isinstance(message, RequestVote):
            message = RequestVote(message.group, message.term, 10**9, 10**9, message.transfer)
        granting(elector, src, message)

    monkeypatch.setattr(Elector, "receive", generous)
    assert SPLIT.search(caught((3, 0), first=80))


def test_it_catches_a_group_that_a_removal_has_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the removed are sent their removal early, or may not campaign while only they have it."""
    monkeypatch.setattr(Replica, "_being_removed", lambda replica, m: False)
    assert "no leader" in caught((1, 2), (3, 2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", type=int, default=0, dest="first")
    options = parser.parse_args()
    started, failures = time.monotonic(), 0
    for seed in range(options.first, options.first + options.seeds):
        for voters, learners in SHAPES:
            try:
                torment(seed, voters, learners)
            except AssertionError as failure:
                failures += 1
                sys.stdout.write(f"seed {seed}, {voters} voters, {learners} learners: {failure}\n")
    seconds = time.monotonic() - started
    runs = options.seeds * len(SHAPES)
    sys.stdout.write(f"{runs} runs, {failures} failures, {seconds:.0f} s, {runs / seconds:.0f} runs/s\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

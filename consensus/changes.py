"""One change of a configuration at a time (C12): pure, and refused where it makes no sense."""

from consensus.errors import ChangeRefused
from consensus.model import Configuration, Member


def with_learner(now: Configuration, member: Member) -> Configuration:
    """Raises ChangeRefused, as all here do."""
    if member in now.members:
        raise ChangeRefused(f"{member} is a member already")
    return Configuration(now.voters, (*now.learners, member))


def with_voter(now: Configuration, member: Member) -> Configuration:
    """The learner `member` votes from now on."""
    if member not in now.learners:
        raise ChangeRefused(f"{member} is not a learner")
    return Configuration((*now.voters, member), tuple(m for m in now.learners if m != member))


def without(now: Configuration, member: Member) -> Configuration:
    if member not in now.members:
        raise ChangeRefused(f"{member} is not a member")
    voters = tuple(m for m in now.voters if m != member)
    if not voters:
        raise ChangeRefused(f"{member} is the last voter; add another first")
    return Configuration(voters, tuple(m for m in now.learners if m != member))

"""Every error that leaves this package, in two families.

`Refused`: what was asked for certainly did not and will not happen; asking again is safe.
`Unknown`: it may have happened or may still happen; only a read can tell.
`Damaged` and `StoreFull` come from the store, `InvariantBroken` is a fault of ours and stops the node.
"""


class ConsensusError(Exception):
    """The root of this package's errors."""


class Refused(ConsensusError):
    """The request was refused or discarded: it has had no effect and never will."""


class NotLeader(Refused):
    """This replica does not lead the group (or not yet); `leader` is the node id that may."""

    def __init__(self, group: int, leader: int | None, reason: str = "") -> None:
        self.group = group
        self.leader = leader
        where = f"node {leader} leads it" if leader is not None else "no leader is known yet"
        super().__init__(f"group {group} is not led by this node: {reason or where}")


class Busy(Refused):
    """A bound was reached (bytes or proposals in flight); try again after a moment."""


class StoreFull(Refused):
    """The disk has no room for more records; delete topics or lower retention, or free space."""


class ChangeRefused(Refused):
    """A membership change or transfer cannot start now; the message says why."""


class Unknown(ConsensusError):
    """The deadline passed or leadership was lost before the outcome was known."""


class Damaged(ConsensusError):
    """The store holds bytes that are not what was written."""


class EntriesGone(ConsensusError):
    """Entries asked for are below the log's start, or retention has taken their records: send a snapshot."""


class InvariantBroken(ConsensusError):
    """A rule of consensus would have been broken. The node must stop: going on could lose records."""


class UnknownCommand(ConsensusError):
    """A committed command is not known to this version. The node must stop and be upgraded."""

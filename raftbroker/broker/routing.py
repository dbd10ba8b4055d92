"""Runs a request where it can be answered: here if this node leads the group, else on the leader.

What is tried again, and until when, is decided here and nowhere else:

- a refusal (no leader, not the leader any more, not delivered, discarded) means certainly nothing was done: the
  request is tried again until its deadline, then `Unavailable`;
- an unknown outcome is final for a request that must not happen twice (`ONCE`): `UnknownOutcome`. One that may be
  repeated (`REPEATABLE`: its repetition is recognised) and a read are tried again; a write that ends unknown says so,
  also when a later attempt was refused: that says nothing of the earlier one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

from consensus.errors import Busy, ConsensusError, NotLeader, Refused, StoreFull, Unknown
from consensus.transport import Peer
from raftbroker.broker.context import CONTROL, Context
from raftbroker.broker.errors import BrokerError, StorageFull, Throttled, Unavailable, UnknownOutcome
from raftbroker.broker.wire import Method

Q = TypeVar("Q")
A = TypeVar("A")

PAUSE_MIN, PAUSE_MAX = 0.01, 0.2
"""Seconds between attempts, doubling; less a random part."""
ATTEMPT_SECONDS = 3.0
"""How long one attempt of a request that may be repeated waits for a node that does not answer."""


class Mode(Enum):
    READ = "read"
    REPEATABLE = "repeatable"
    ONCE = "once"


class Router:
    """Knows who leads, as well as this node can."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._hints: dict[int, int] = {}
        """Leaders of groups without a replica here, as other nodes told."""
        self._peers: set[int] = set()
        context.host.on_peer(self._peer_changed)

    def _peer_changed(self, peer: Peer, connected: bool) -> None:
        if connected:
            self._peers.add(peer.node)
        else:
            self._peers.discard(peer.node)

    def leader_of(self, group: int) -> int | None:
        """The node that leads the group, as known here; perhaps out of date."""
        replica = self._context.host.groups.get(group)
        if replica is None:
            return self._hints.get(group)
        return replica.leader.node if replica.leader is not None else None

    def heard(self, group: int, leader: int) -> None:
        """Another node's report says who leads."""
        self._hints[group] = leader

    async def at_leader(
        self,
        group: int,
        method: Method[Q, A],
        question: Callable[[float], Q],
        here: Callable[[Q], Awaitable[A]],
        deadline: float,
        mode: Mode,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> A:
        """The answer of the group's leader. `question` makes the request for the seconds that are left; `here` runs
        it on this node and raises NotLeader where this node does not lead; `deadline` is on the loop's clock."""
        attempt = _Attempts(self._context, group, mode, deadline)
        target = self._target(group, 0)
        while True:
            left = attempt.left()
            wait = left if mode is Mode.ONCE else min(left, attempt_seconds)
            try:
                if target == self._context.me:
                    return await here(question(left))
                if target is not None:
                    self._context.counters.forwarded += 1
                    answer = await self._context.calls.call(target, method, question(wait), wait)
                    if group not in self._context.host.groups:
                        self._hints[group] = target
                    return answer
            except (ConsensusError, BrokerError) as error:
                attempt.failed(error)
                hint = error.leader if isinstance(error, NotLeader) else None
                if hint is not None and hint not in (target, self._context.me):
                    target = hint
                    if attempt.redirect():
                        continue
            self._hints.pop(group, None)
            await attempt.pause()
            target = self._target(group, attempt.count)

    def _target(self, group: int, attempt: int) -> int | None:
        leader = self.leader_of(group)
        if leader is not None and attempt % 4 < 3:
            return leader
        members = self._members(group)
        return members[attempt % len(members)] if members else None

    def _members(self, group: int) -> list[int]:
        """Whom to ask who leads: the nodes the group is placed on."""
        control = self._context.control
        if group == CONTROL:
            known = {node.id for node in control.nodes()} | self._peers
            return sorted(known - {self._context.me})
        state = control.group(group)
        return [node for node in state.nodes if node != self._context.me] if state is not None else []


class _Attempts:
    """One request's attempts, and how it ends when there is no time for another."""

    def __init__(self, context: Context, group: int, mode: Mode, deadline: float) -> None:
        self._context = context
        self._group = group
        self._mode = mode
        self._deadline = deadline
        self._reason = "no leader is known"
        self._unknown: str | None = None
        self._redirects = 0
        self.count = 0

    def left(self) -> float:
        """Seconds until the deadline. Raises how the request ends where none are left."""
        left = self._deadline - asyncio.get_running_loop().time()
        if left > 0:
            return left
        raise self._end()

    def failed(self, error: ConsensusError | BrokerError) -> None:
        """Returns where the request is to be tried again, else raises how it ends."""
        match error:
            case StoreFull():
                raise self._final(StorageFull(str(error))) from error
            case Busy():
                raise self._final(Throttled(str(error))) from error
            case Unavailable() if self._unknown is not None:
                self._refused(str(error))
            case BrokerError():
                raise self._final(error) from error
            case Refused():
                self._refused(str(error))
            case Unknown():
                self._unknown_so_far(str(error))
            case _:
                raise error

    def _refused(self, reason: str) -> None:
        self._reason = reason
        self._context.counters.retried += 1

    def _unknown_so_far(self, reason: str) -> None:
        self._reason = reason
        if self._mode is Mode.ONCE:
            self._unknown = reason
            raise self._end()
        if self._mode is Mode.REPEATABLE:
            self._unknown = reason
        self._context.counters.retried += 1

    def _final(self, error: BrokerError) -> BrokerError:
        """What the request ends with when an attempt ends with `error`: an earlier one may have done it."""
        return error if self._unknown is None else self._end()

    def redirect(self) -> bool:
        """Whether to follow a hint at once: not for ever, when nodes point at each other."""
        self._redirects += 1
        return self._redirects % 3 != 0

    async def pause(self) -> None:
        pause = min(PAUSE_MAX, PAUSE_MIN * 2 ** min(self.count, 8)) * (1 - self._context.random.random() / 2)
        self.count += 1
        left = self._deadline - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(pause, left)))

    def _end(self) -> Unavailable | UnknownOutcome:
        who = "the control group" if self._group == CONTROL else f"Raft group {self._group}"
        if self._unknown is not None:
            self._context.counters.unknown_outcomes += 1
            return UnknownOutcome(
                f"it is not known whether this was done: {self._unknown}. Read to find out, or repeat a request that "
                "carries an idempotency key or a producer id"
            )
        return Unavailable(f"no leader of {who} answered in time, nothing was done: {self._reason}. Try again")

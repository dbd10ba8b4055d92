"""All the Raft groups of one node: ticks, messages, the shared disk, and what happens when something breaks.

A group hears of a message, a tick, a finished flush; afterwards it is dirty, and at the end of the loop turn it sends
and applies what that allows. So everything that arrives in one turn leaves in one frame per peer and goes to disk in
one batch.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import TypeVarTuple, Unpack

from consensus.commit import Committer
from consensus.election import ElectionTiming
from consensus.errors import Damaged
from consensus.group import Group
from consensus.identity import NODE_ROWS, Acquaintances, Identity
from consensus.machine import Machine
from consensus.messages import GroupMessage, Message, Request, Response
from consensus.model import Configuration, HardState, LogBase, Member
from consensus.rpc import Rpc
from consensus.status import GroupLimits
from consensus.store import Disk, GroupImage, Store
from consensus.transport import Peer, Transport
from consensus.waiting import Thresholds

Arguments = TypeVarTuple("Arguments")
LOG = logging.getLogger(__name__)

TICK_SECONDS = 0.02
PREFER_SECONDS = 3.0
"""How long the preferred first leader of a new group asks without waiting for its timer."""


class Host:
    """The node's replicas and what they share. Also the transport's inbox and the groups' surroundings."""

    def __init__(
        self,
        identity: Identity,
        store: Store,
        disk: Disk,
        transport: Transport,
        *,
        clock: Callable[[], float],
        random: random.Random,
        timing: ElectionTiming,
        limits: GroupLimits,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.me: Member = identity.member
        self.identity = identity
        self.store = store
        self.transport = transport
        self.clock = clock
        self.random = random
        self.timing = timing
        self.limits = limits
        self.groups: dict[int, Group] = {}
        self.cluster = ""
        self.committer = Committer(disk, self._durable, self.fatal)
        self.rpc = Rpc(transport, Peer(self.me.node, self.me.uuid, identity.boot, identity.nonce, "", ""))
        self.broken: BaseException | None = None
        self._on_fatal = on_fatal
        self._acquaintances = Acquaintances(store, self._remember)
        self._dirty: dict[int, Group] = {}
        self._turn_due = False
        self._ticker: asyncio.TimerHandle | None = None
        self._heartbeat_due = 0.0
        self._preferred: dict[int, float] = {}
        self._applied_callbacks: list[Callable[[Group], None]] = []
        self._role_callbacks: list[Callable[[Group], None]] = []
        self._peer_callbacks: list[Callable[[Peer, bool], None]] = []
        self._node_rows = Thresholds()
        self._stopped = False

    # --- groups ---

    def open_group(
        self, group: int, machine: Machine, configuration: Configuration | None = None, prefer: bool = False
    ) -> Group:
        """Opens this node's replica of `group`.

        Where none was ever here it is made, with `configuration` as the group's first, else empty and a learner; one
        that was removed comes back as an empty learner. `prefer`: if the group is new, this node asks to lead it at
        once. Raises Damaged, and ValueError while a removal is not on disk yet."""
        if group in self.groups:
            raise ValueError(f"group {group} is open already")
        if self.committer.removing(group):
            raise ValueError(f"group {group} is still being removed")
        if self.store.marked(group):
            image = self.store.load(group)
            if group not in self.store.groups():
                self.committer.pending(group)[0].create = image.base
        else:
            base = LogBase(0, 0, configuration or Configuration())
            self.committer.pending(group)[0].create = base
            image = GroupImage(group, HardState(), base, 0, [], [], 0, 0, {})
        opened = self.groups[group] = Group(self, image, machine, self.timing, self.limits)
        new = image.last_index == 0 and image.hard_state.term == 0
        if (prefer and new) or opened.configuration.voters == (self.me,):
            self._preferred[group] = self.clock() + PREFER_SECONDS
        self.dirty(opened)
        return opened

    def remove_group(self, group: int) -> None:
        """Drops the replica with all it holds; a marker and the hard state stay."""
        removed = self.groups.pop(group)
        removed.close()
        self._dirty.pop(group, None)
        self.committer.remove(group, removed.machine.payload_ranges())

    def on_applied(self, callback: Callable[[Group], None]) -> None:
        """Calls back after a group has applied entries or a snapshot."""
        self._applied_callbacks.append(callback)

    def on_role(self, callback: Callable[[Group], None]) -> None:
        """Calls back when a group's role, leader or readiness has changed."""
        self._role_callbacks.append(callback)

    def on_peer(self, callback: Callable[[Peer, bool], None]) -> None:
        """Calls back when a peer's connection was made (True) or lost (False)."""
        self._peer_callbacks.append(callback)

    # --- life ---

    async def start(self) -> None:
        await self.transport.start(self)
        self._tick()

    async def stop(self) -> None:
        """Ends in order: what was proposed and not decided is unknown, what is pending is written."""
        self._stopped = True
        if self._ticker is not None:
            self._ticker.cancel()
        await self.rpc.stop()
        for group in self.groups.values():
            group.close()
        await self.committer.stop()
        await self.transport.stop()

    def abandon(self) -> None:
        """Ends at once, as a crash does: nothing more is written or sent."""
        self._stopped = True
        if self._ticker is not None:
            self._ticker.cancel()
        self.committer.abandon()
        for group in self.groups.values():
            group.close()

    def fatal(self, error: BaseException) -> None:
        """Stops this node's part at once: going on could lose or change records."""
        if self.broken is not None:
            return
        self.broken = error
        LOG.critical("this node stops: %s: %s", type(error).__name__, error, exc_info=error)
        self.abandon()
        self._on_fatal(error)

    def join_cluster(self, cluster: str) -> None:
        """From now on this node is of `cluster` and talks with no other."""
        self.cluster = cluster
        self.transport.update_identity(cluster)

    async def write_node_rows(self, rows: Mapping[bytes, bytes | None], timeout: float = 10.0) -> None:
        """Returns once the rows are on disk; raises Unknown after `timeout` seconds."""
        write, ticket = self.committer.pending(NODE_ROWS)
        write.node.update(rows)
        await self._node_rows.add(ticket, timeout, "the node's own rows could not be written in time")

    def _remember(self, rows: Mapping[bytes, bytes | None]) -> None:
        self.committer.pending(NODE_ROWS)[0].node.update(rows)

    # --- the loop ---

    def _tick(self) -> None:
        if self._stopped:
            return
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        now = self.clock()
        heartbeat = now >= self._heartbeat_due
        if heartbeat:
            self._heartbeat_due = now + self.timing.heartbeat
        for group in list(self.groups.values()):
            self._guarded(group, group.tick, heartbeat)
        if heartbeat and self._preferred:
            self._prompt(now)

    def _prompt(self, now: float) -> None:
        for number, until in list(self._preferred.items()):
            group = self.groups.get(number)
            if group is None or group.leader is not None or now > until:
                del self._preferred[number]
            else:
                self._guarded(group, group.elector.campaign_now)

    def dirty(self, group: Group) -> None:
        self._dirty[group.id] = group
        if not self._turn_due and not self._stopped:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        dirty, self._dirty = self._dirty, {}
        self._turn_due = False
        for group in dirty.values():
            self._guarded(group, group.turn)

    def _guarded(self, group: Group, event: Callable[[Unpack[Arguments]], None], *arguments: *Arguments) -> None:
        if self._stopped:
            return
        try:
            event(*arguments)
        except Damaged as error:
            group.damage(error)
        except ValueError as error:
            LOG.warning("group %d ignores a message: %s", group.id, error)
        except Exception as error:  # noqa: BLE001  a broken invariant: going on could lose records
            self.fatal(error)

    def _durable(self, number: int, ticket: int) -> None:
        if number == NODE_ROWS:
            self._node_rows.reached(ticket)
            return
        group = self.groups.get(number)
        if group is not None:
            self._guarded(group, group.durable, ticket)

    # --- the groups' surroundings ---

    def send(self, to: Member, message: GroupMessage) -> bool:
        peer = self.transport.connected(to.node)
        return peer is not None and peer.uuid == to.uuid and self.transport.send(to.node, message)

    def applied(self, group: Group) -> None:
        for callback in self._applied_callbacks:
            callback(group)

    def role_changed(self, group: Group) -> None:
        for callback in self._role_callbacks:
            callback(group)

    # --- the transport's inbox ---

    def peer_allowed(self, peer: Peer) -> str | None:
        if peer.node == self.me.node:
            return f"node id {peer.node} is taken by this node: give every node its own node.id"
        if self.cluster and peer.cluster and peer.cluster != self.cluster:
            return f"this node belongs to cluster {self.cluster}, node {peer.node} to cluster {peer.cluster}"
        return self._acquaintances.refusal(peer)

    def peer_connected(self, peer: Peer) -> None:
        member = Member(peer.node, peer.uuid)
        for group in list(self.groups.values()):
            self._guarded(group, group.peer_connected, member)
        for callback in self._peer_callbacks:
            callback(peer, True)

    def peer_disconnected(self, peer: Peer) -> None:
        self.rpc.peer_disconnected(peer)
        member = Member(peer.node, peer.uuid)
        for group in list(self.groups.values()):
            self._guarded(group, group.peer_disconnected, member)
        for callback in self._peer_callbacks:
            callback(peer, False)

    def peer_messages(self, peer: Peer, messages: list[Message]) -> None:
        source = Member(peer.node, peer.uuid)
        for message in messages:
            if isinstance(message, GroupMessage):
                group = self.groups.get(message.group)
                if group is not None:
                    self._guarded(group, group.receive, source, message)
            elif isinstance(message, Request | Response):
                self.rpc.receive(peer, message)

    def refused_by(self, node: int | None, address: str, reason: str) -> None:
        who = f"node {node}" if node is not None else "the peer"
        LOG.error("%s at %s refuses this node: %s", who, address, reason)

"""What nodes say of themselves: their replicas, leaders, clocks. Gathered when somebody asks, by all at once.

A report is a node's own word, a moment old: good for descriptions, health and placement, never for correctness.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec

from consensus.errors import ConsensusError
from consensus.group import Group
from consensus.model import Member
from raftbroker.broker.context import CONTROL, Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.views import ReplicaView
from raftbroker.broker.wire import REPORT, GroupReport, NodeReport, ReportRequest

FRESH_SECONDS = 0.25
"""Reports younger than this serve the next asker as well."""


class Leadership(msgspec.Struct, frozen=True):
    """Who leads a group, as far as is known; -1 for an unknown term."""

    leader: int | None
    term: int
    in_sync: frozenset[int]
    """The leader itself and the voters that have caught up with it and answer."""


class Reports:
    def __init__(
        self, context: Context, heard: Callable[[int, int], None], failed: Callable[[], Mapping[int, str]]
    ) -> None:
        """`heard` is told who leads which group; `failed` are this node's replicas that could not be opened."""
        self._context = context
        self._heard = heard
        self._failed = failed
        self._reports: dict[int, NodeReport] = {}
        self._answered: dict[int, float] = {}
        """When each node answered last, on the context's clock."""
        self._began = context.clock()
        self._taken = -1e9
        self._version = -1
        """Of the control state when the reports were asked for."""
        self._running: asyncio.Task[None] | None = None

    def own(self) -> NodeReport:
        context = self._context
        me = context.host.me
        groups = (
            *(_report(me, group) for group in context.host.groups.values()),
            *(_absent(me, group, reason) for group, reason in self._failed().items()),
        )
        return NodeReport(context.me, context.host.me.uuid, context.control_index, context.wall(), groups)

    async def serve(self, request: ReportRequest) -> NodeReport:
        return self.own()

    async def collect(self, max_age: float = FRESH_SECONDS) -> dict[int, NodeReport]:
        """The report of each node that answers in time; this node's own is always there."""
        age = asyncio.get_running_loop().time() - self._taken
        if age > max_age or self._version != self._context.control.version:
            if self._running is None:
                self._running = asyncio.get_running_loop().create_task(self._gather(), name="reports")
                self._running.add_done_callback(self._gathered)
            await asyncio.shield(self._running)
        return self._reports

    @property
    def taken(self) -> float:
        """When the last reports were asked for, on the loop's clock."""
        return self._taken

    @property
    def answering(self) -> frozenset[int]:
        """The nodes whose reports are among the last."""
        return frozenset(self._reports)

    def answered_within(self, seconds: float) -> frozenset[int]:
        """The registered nodes whose last answer is no older; before its first, a node counts as if it had answered
        when this one started. This node is among them."""
        since = self._context.clock() - seconds
        nodes = (node.id for node in self._context.control.nodes())
        return frozenset(node for node in nodes if self._answered.get(node, self._began) >= since) | {self._context.me}

    async def live(self) -> frozenset[int]:
        """The nodes that answer."""
        return frozenset(await self.collect(1.0))

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def _gathered(self, task: "asyncio.Task[None]") -> None:
        self._running = None

    async def _gather(self) -> None:
        started, version = asyncio.get_running_loop().time(), self._context.control.version
        others = [node.id for node in self._context.control.nodes() if node.id != self._context.me]
        answers = await asyncio.gather(*(self._ask(node) for node in others))
        reports = {answer.node: answer for answer in answers if answer is not None}
        reports[self._context.me] = self.own()
        self._reports, self._taken, self._version = reports, started, version
        now = self._context.clock()
        self._answered = {node: at for node, at in self._answered.items() if node in others} | dict.fromkeys(
            reports, now
        )
        for report in reports.values():
            for group in report.groups:
                if group.leading:
                    self._heard(group.group, report.node)

    async def _ask(self, node: int) -> NodeReport | None:
        registered = self._context.control.node(node)
        try:
            report = await self._context.calls.call(node, REPORT, ReportRequest(), self._context.options.report_timeout)
        except (ConsensusError, BrokerError):
            return None
        same = registered is not None and report.uuid == registered.uuid and report.node == node
        return report if same else None

    # --- what the reports say, with what this node knows itself ---------------------------------------------------

    def leadership(self, group: int) -> Leadership:
        """The leader of the highest term among the last reports and this node's own replica."""
        best = Leadership(None, -1, frozenset())
        for report in self._reports_of(group):
            if report.leading and report.replica.term > best.term:
                caught_up = (m.node for m in report.caught_up if m in report.voters)
                in_sync = frozenset(node for node in caught_up if node in self._reports)
                best = Leadership(report.replica.node, report.replica.term, in_sync | {report.replica.node})
        replica = self._context.host.groups.get(group)
        if replica is not None and replica.term > best.term and replica.leader is not None:
            best = Leadership(replica.leader.node, replica.term, frozenset({replica.leader.node}))
        return best

    def replicas(self, group: int) -> list[GroupReport]:
        """What every node that answered says of its replica of the group."""
        return list(self._reports_of(group))

    def leader_report(self, group: int) -> GroupReport | None:
        leading = [report for report in self._reports_of(group) if report.leading]
        return max(leading, key=lambda report: report.replica.term, default=None)

    def groups(self) -> list[int]:
        known = {report.group for node in self._reports.values() for report in node.groups}
        return sorted(known | {CONTROL} | {state.id for state in self._context.control.groups()})

    def _reports_of(self, group: int) -> Iterable[GroupReport]:
        for node in self._reports.values():
            if node.node != self._context.me:
                for report in node.groups:
                    if report.group == group:
                        yield report
        replica = self._context.host.groups.get(group)
        if replica is not None:
            yield _report(self._context.host.me, replica)
        elif group in self._failed():
            yield _absent(self._context.host.me, group, self._failed()[group])


def _absent(me: Member, group: int, damaged: str) -> GroupReport:
    """Of a replica that could not be opened."""
    replica = ReplicaView(me.node, me.uuid, "absent", False, 0, 0, 0, 0, 0, None, damaged)
    return GroupReport(group, None, False, (), (), replica, ())


def _report(me: Member, group: Group) -> GroupReport:
    status = group.status()
    configuration = group.configuration
    caught_up: tuple[Member, ...] = ()
    if group.leading:
        caught_up = tuple(member for member in configuration.members if group.caught_up(member))
    replica = ReplicaView(
        me.node,
        me.uuid,
        status.role,
        me in configuration.voters,
        status.term,
        status.commit,
        status.applied,
        status.first_index,
        status.last_index,
        None,
        status.damaged,
    )
    return GroupReport(
        group.id, group.leader, group.leading, configuration.voters, configuration.learners, replica, caught_up
    )

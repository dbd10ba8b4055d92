"""Opens and removes this node's replicas of groups, as the control state says.

A group whose first voters name this very data directory is opened with them as its configuration. Where the group's
placement names this node, but its first voters do not (it joined later, or its disk was replaced), the replica starts
empty, as a learner: the group's leader brings it in. A replica that is damaged is dropped once its group's leader has
taken it out of the members, and starts anew the same way.
"""

import logging
from collections.abc import Callable

from consensus.errors import Damaged
from consensus.group import Group
from consensus.machine import Machine
from consensus.model import Configuration
from raftbroker.broker.context import CONTROL, Context
from raftbroker.state.control_commands import GroupKind, GroupState
from raftbroker.state.partition import PartitionMachine

log = logging.getLogger(__name__)


class Replicas:
    def __init__(self, context: Context, shard_machine: Callable[[int], Machine]) -> None:
        """`shard_machine` makes the machine of a coordinator shard's replica."""
        self._context = context
        self._shard_machine = shard_machine
        self._failed: dict[int, str] = {}
        self._version = -1

    @property
    def failed(self) -> dict[int, str]:
        """Replicas that could not be opened, with the reason."""
        return self._failed

    def applied(self, group: Group) -> None:
        """For `Host.on_applied`."""
        if group.id == CONTROL:
            self.open_missing()

    def open_missing(self) -> None:
        """Opens what the control state places here and is not open yet."""
        control = self._context.control
        if control.version == self._version:
            return
        self._version = control.version
        for state in control.groups():
            if state.id not in self._context.host.groups and self._context.me in state.nodes:
                self._open(state)

    async def reset(self, number: int) -> bool:
        """Drops a damaged replica that its group has let go, and starts it anew, empty, as a learner. Whether it did.

        The control leader asks for it once the group's leader has taken this node out of the members."""
        host = self._context.host
        replica = host.groups.get(number)
        state = self._context.control.group(number)
        if replica is None or replica.damaged is None or (state is None and number != CONTROL):
            return False
        log.warning("drops the damaged replica of group %d, to start anew as a learner", number)
        host.remove_group(number)
        await host.write_node_rows({})  # returns once the removal, which goes with it, is on disk
        if number not in host.groups:
            self._make(number, self._context.control if state is None else self._machine(state), None, prefer=False)
        return True

    def _open(self, state: GroupState) -> None:
        me = self._context.host.me
        configuration = Configuration(state.initial) if me in state.initial else None
        prefer = configuration is not None and state.initial[0] == me
        self._make(state.id, self._machine(state), configuration, prefer)

    def _machine(self, state: GroupState) -> Machine:
        return self._shard_machine(state.id) if state.kind is GroupKind.SHARD else PartitionMachine()

    def _make(self, number: int, machine: Machine, configuration: Configuration | None, prefer: bool) -> None:
        try:
            self._context.host.open_group(number, machine, configuration, prefer)
        except Damaged as error:
            if self._failed.get(number) != str(error):
                log.error("the replica of group %d here cannot be opened: %s", number, error)
            self._failed[number] = str(error)
        else:
            self._failed.pop(number, None)

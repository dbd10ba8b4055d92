"""One consumer instance, "mine" of group "billing", with one partition; it answers the same whatever is asked of it."""

from collections.abc import Mapping

from raftbroker.broker.consumer import ConsumerSettings
from raftbroker.broker.consumer_reader import Name, Reader, Reset, Taken
from raftbroker.broker.consumers import Consumers
from raftbroker.broker.errors import InstanceExists, UnknownInstance
from raftbroker.broker.wire_consumers import AnyOp, Poll, Shown
from raftbroker.state.batch import Record

RECORD = Record(b'"customer-7"', b'{"item":"tea"}', (), 1_700_000_000_000, 41)


class StandInReader(Reader):
    """Reads the one record, again and again."""

    def __init__(self) -> None:
        self.positions: dict[Name, int] = {}

    def assign(self, positions: Mapping[Name, int]) -> None:
        self.positions = dict(positions)

    async def read(self, bytes_max: int, records_max: int, deadline: float) -> list[Taken]:
        return [Taken("orders", 0, 41, (RECORD,), 42)]


class StandInConsumers(Consumers):
    def __init__(self) -> None:
        pass

    @property
    def count(self) -> int:
        return 1

    def reader(self, *, committed: bool = True, reset: Reset = Reset.EARLIEST) -> Reader:
        return StandInReader()

    async def create(self, group: str, name: str, settings: ConsumerSettings) -> None:
        if name == "twice":
            raise InstanceExists(f"consumer {name} exists already", field="name")

    async def ask(self, group: str, name: str, op: AnyOp, timeout: float) -> Shown:
        if (group, name) != ("billing", "mine"):
            raise UnknownInstance(f"no node has a consumer {name}", field="name")
        taken = (Taken("orders", 0, 41, (RECORD,), 42),) if isinstance(op, Poll) else ()
        return Shown("json", ("orders",), None, (("orders", 0),), taken)

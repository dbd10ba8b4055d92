"""What nodes ask of each other about consumers: who has an instance, and what it is to do."""

import msgspec

from raftbroker.broker.consumer_reader import Taken
from raftbroker.broker.wire import Answer, Method


class Op(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What an instance is asked to do."""


class Look(Op, frozen=True, array_like=True, tag=True):
    """Nothing but to show itself."""


class Close(Op, frozen=True, array_like=True, tag=True):
    pass


class Subscribe(Op, frozen=True, array_like=True, tag=True):
    topics: tuple[str, ...]
    pattern: str | None


class Unsubscribe(Op, frozen=True, array_like=True, tag=True):
    pass


class Assign(Op, frozen=True, array_like=True, tag=True):
    partitions: tuple[tuple[str, int], ...]


class Poll(Op, frozen=True, array_like=True, tag=True):
    """`wait` is seconds, None for the instance's own; `format` is what the asker can show, empty for any."""

    bytes_max: int
    wait: float | None
    format: str


class Seek(Op, frozen=True, array_like=True, tag=True):
    """(topic, partition, offset); `times`: epoch ms in place of offsets."""

    positions: tuple[tuple[str, int, int], ...]
    times: bool = False


class SeekTo(Op, frozen=True, array_like=True, tag=True):
    partitions: tuple[tuple[str, int], ...]
    end: bool


class Commit(Op, frozen=True, array_like=True, tag=True):
    """(topic, partition, offset of the next record, metadata); None for all that was handed out."""

    offsets: tuple[tuple[str, int, int, str], ...] | None


AnyOp = Look | Close | Subscribe | Unsubscribe | Assign | Poll | Seek | SeekTo | Commit


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """An instance after it did what it was asked."""

    format: str
    topics: tuple[str, ...]
    pattern: str | None
    partitions: tuple[tuple[str, int], ...]
    taken: tuple[Taken, ...] = ()


class FindRequest(msgspec.Struct, frozen=True, array_like=True):
    group: str
    name: str


class InstanceRequest(msgspec.Struct, frozen=True, array_like=True):
    control: int
    group: str
    name: str
    op: AnyOp
    timeout: float


FIND_INSTANCE = Method("consumer.find.1", FindRequest, Answer[bool])
INSTANCE = Method("consumer.instance.1", InstanceRequest, Answer[Shown])

"""What consensus asks of durable storage.

A `Store` holds, for every group on the node: hard state, the log, payloads, and the state machine's rows
with the index they were applied up to. Writes are handed over as `Write`s, many groups in one batch, and are
durable only after `sync`; batches become durable in the order written, and a crash keeps a prefix of them,
each batch whole or not at all.

Only the committer calls `write` and `sync`, one call at a time, perhaps from its own thread; all other methods
are called from the event loop, perhaps at the same moment. A reader sees each batch whole or not at all.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from consensus.model import Configuration, Entry, HardState, LogBase, Payload

KeyRange = tuple[bytes, bytes]
"""Payload keys from the first, inclusive, to the second, exclusive."""


class Install(msgspec.Struct, frozen=True):
    """The switch to a snapshot, atomic (C3): the whole log of the group is dropped, with the payloads of the
    dropped entries and of `drop` but for those inside `keep`, the state's rows are replaced, and the applied
    index becomes `base.index`. The ranges of `keep` and of `drop` are ascending and apart."""

    base: LogBase
    state: dict[bytes, bytes]
    keep: tuple[KeyRange, ...]
    drop: tuple[KeyRange, ...]


class Write(msgspec.Struct):
    """One group's part of a batch. The fields take effect in the order they stand here."""

    group: int
    create: LogBase | None = None
    """Makes the group's replica, empty, with this base. Where the group's marker stands it may only come back as an
    empty learner, with the base that says nothing; any other is refused (ValueError)."""
    hard_state: HardState | None = None
    truncate_from: int | None = None
    """Entries at or above this index go, and their payloads with them."""
    install: Install | None = None
    payloads: list[Payload] = []
    """Payloads received for a snapshot, stored before the switch."""
    entries: list[Entry] = []
    """Contiguous, following the last entry; each with its payloads."""
    commit: int | None = None
    """A hint; clamped to the log when read back."""
    applied: int | None = None
    state: dict[bytes, bytes | None] = {}
    """Rows of the state machine, written with `applied`; None deletes."""
    delete_payloads: list[KeyRange] = []
    """Payloads that an applied command has trimmed. Entries that brought them stay, and answer EntriesGone."""
    drop_through: LogBase | None = None
    """Entries at or below this base's index go; their payloads stay: they are the records."""
    remove: bool = False
    """All of the group goes: log, state, and the payloads in `delete_payloads`. The marker and the hard state stay, so
    that a member that comes back cannot vote twice in a term (C9); `load` then answers an empty image."""
    node: dict[bytes, bytes | None] = {}
    """Rows of the node itself (identity, peers' boot counters), whatever the group; None deletes."""

    @property
    def frees_space(self) -> bool:
        """Whether a store that is full must still take it: it brings no entries and no payloads."""
        return not self.entries and not self.payloads and self.install is None


class GroupImage(msgspec.Struct):
    """What a node finds of one group when it starts. Every CRC has been checked, indexes are contiguous."""

    group: int
    hard_state: HardState
    base: LogBase
    last_index: int
    terms: list[tuple[int, int]]
    """(first index, term) of each run of equal terms above the base, ascending."""
    configurations: list[tuple[int, Configuration]]
    """(index, configuration) of the configuration entries above the base, ascending."""
    commit: int
    """The commit hint, clamped to the log; never below `applied`."""
    applied: int
    state: dict[bytes, bytes]


class SnapshotReader(Protocol):
    """A group's applied state and payloads at one moment, unchanged by what is written later."""

    @property
    def applied(self) -> int: ...

    def state(self, after: bytes | None, bytes_max: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        """State rows in key order after the key `after`; at least one while any is left. (rows, more)."""

    def manifest(self, ranges: Sequence[KeyRange], count_max: int) -> tuple[list[tuple[bytes, int, int]], bool]:
        """(key, length, CRC-32C of the bytes) of payloads in the ranges, in order. (rows, more)."""

    def payloads(self, keys: Sequence[bytes], bytes_max: int) -> list[Payload]:
        """The payloads under these keys, in their order, at least one, ending before `bytes_max` is passed.

        Raises Damaged where one is missing."""

    def close(self) -> None: ...


class Store(Protocol):
    """Durable storage for every group of a node."""

    def groups(self) -> list[int]:
        """Groups that have a replica here, ascending."""

    def marked(self, group: int) -> bool:
        """Whether this directory holds or ever held a replica of the group: then it must not be made anew."""

    def load(self, group: int) -> GroupImage:
        """All that is known of the group. Raises Damaged where any of it fails its checks."""

    def entries(self, group: int, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries first..last with payloads, checked; at least one, ending before `bytes_max` is passed.

        Raises EntriesGone where `first` is not in the log or a payload has been trimmed, Damaged on a bad CRC."""

    def write(self, writes: Sequence[Write]) -> None:
        """One atomic batch. Raises StoreFull where the disk has no room: nothing of it has happened then."""

    def sync(self) -> None:
        """Returns once everything written is on disk. Raises StoreFull, or OSError when durability is lost."""

    def payload_digests(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """(length, CRC-32C) of those payloads that are here."""

    def open_snapshot(self, group: int) -> SnapshotReader: ...

    def node_row(self, key: bytes) -> bytes | None: ...

    @property
    def full(self) -> bool:
        """Whether nothing but what frees space should be proposed now; asked for every proposal. `write` takes more
        than that for a while, so that what was proposed before, and deletions, get through."""


class Disk(Protocol):
    """Where the committer waits: writes one batch and returns once it is durable."""

    async def commit(self, writes: Sequence[Write]) -> None:
        """`Store.write` then `Store.sync`, off the event loop. Raises what they raise."""

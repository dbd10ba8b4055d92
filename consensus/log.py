"""A replica's log as it stands in memory: its shape whole, its newest entries, the rest in the store.

The shape is the base (everything at or below it is applied state), the last index, and the runs of equal terms
between; so the term of any entry is known without reading it. Entries not yet durable are always in memory.
Configurations in the log are kept with their index, so that the one in force can be told again after a
truncation (C12).
"""

from bisect import bisect_right
from collections.abc import Callable

from consensus.errors import EntriesGone, InvariantBroken
from consensus.model import Configuration, Entry, EntryKind, LogBase, decode_configuration

ReadEntries = Callable[[int, int, int], list[Entry]]
"""(first, last, bytes_max) -> entries: `Store.entries` for one group."""


class RaftLog:
    """Contiguous entries from `base.index + 1` to `last_index`."""

    def __init__(
        self,
        base: LogBase,
        read: ReadEntries,
        *,
        last_index: int | None = None,
        terms: list[tuple[int, int]] | None = None,
        configurations: list[tuple[int, Configuration]] | None = None,
        memory_bytes_max: int = 8 << 20,
    ) -> None:
        self.base = base
        self.last_index = base.index if last_index is None else last_index
        self._read = read
        self._runs = list(terms or [])
        self._configurations = list(configurations or [])
        self._memory: list[Entry] = []
        self._memory_bytes = 0
        self._memory_bytes_max = memory_bytes_max

    @property
    def last_term(self) -> int:
        return self._runs[-1][1] if self._runs else self.base.term

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None below the base and above the end."""
        if index == self.base.index:
            return self.base.term
        if not self.base.index < index <= self.last_index:
            return None
        return self._runs[bisect_right(self._runs, index, key=lambda run: run[0]) - 1][1]

    def last_at_or_below_term(self, index: int, term: int) -> int:
        """The highest index not above `index` whose term is not above `term`; the base's at the least."""
        index = min(index, self.last_index)
        for first, run_term in reversed(self._runs):
            if first > index:
                continue
            if run_term <= term:
                return index
            index = first - 1
        return self.base.index

    # --- configurations ---

    @property
    def configuration(self) -> Configuration:
        """The one in force: the last in the log, committed or not."""
        return self._configurations[-1][1] if self._configurations else self.base.configuration

    @property
    def configuration_index(self) -> int:
        return self._configurations[-1][0] if self._configurations else self.base.index

    def configuration_at(self, index: int) -> Configuration:
        """The one in force at `index`, which is not below the base."""
        found = self.base.configuration
        for at, configuration in self._configurations:
            if at > index:
                break
            found = configuration
        return found

    def configurations_since(self, index: int) -> list[Configuration]:
        """The one in force at `index`, and all that follow it."""
        later = [configuration for at, configuration in self._configurations if at > index]
        return [self.configuration_at(index), *later]

    # --- changes ---

    def append(self, entries: list[Entry] | tuple[Entry, ...]) -> None:
        for entry in entries:
            if entry.index != self.last_index + 1 or entry.term < self.last_term:
                raise InvariantBroken(
                    f"entry {entry.index} of term {entry.term} cannot follow {self.last_index} of term {self.last_term}"
                )
            if not self._runs or self._runs[-1][1] != entry.term:
                self._runs.append((entry.index, entry.term))
            if entry.kind == EntryKind.CONFIGURATION:
                self._configurations.append((entry.index, decode_configuration(entry.command)))
            self.last_index = entry.index
            self._memory.append(entry)
            self._memory_bytes += entry.size

    def truncate_from(self, index: int) -> None:
        """Drops the entries at or above `index`."""
        if index <= self.base.index:
            raise InvariantBroken(f"truncation from {index} reaches below the log's base {self.base.index}")
        while self._runs and self._runs[-1][0] >= index:
            self._runs.pop()
        while self._configurations and self._configurations[-1][0] >= index:
            self._configurations.pop()
        while self._memory and self._memory[-1].index >= index:
            self._memory_bytes -= self._memory.pop().size
        self.last_index = min(self.last_index, index - 1)

    def drop_through(self, index: int) -> LogBase:
        """Moves the base up to `index`, an entry of the log, and returns the new base."""
        term = self.term_at(index)
        if term is None:
            raise InvariantBroken(f"base {index} would lie outside the log {self.base.index}..{self.last_index}")
        base = LogBase(index, term, self.configuration_at(index))
        runs = [(max(first, index + 1), run_term) for first, run_term in self._runs]
        ends = [first for first, _ in self._runs[1:]] + [self.last_index + 1]
        self._runs = [run for run, end in zip(runs, ends, strict=True) if end > index + 1]
        self._configurations = [c for c in self._configurations if c[0] > index]
        self._forget_through(index)
        self.base = base
        return base

    def reset(self, base: LogBase) -> None:
        """Empties the log: a snapshot has taken its place."""
        self.base, self.last_index = base, base.index
        self._runs, self._configurations, self._memory, self._memory_bytes = [], [], [], 0

    def _forget_through(self, index: int) -> None:
        gone = 0
        for entry in self._memory:
            if entry.index > index:
                break
            gone += 1
            self._memory_bytes -= entry.size
        del self._memory[:gone]

    def trim_memory(self, through: int) -> None:
        """Forgets entries at or below `through`, which are durable and applied, while memory is over its bound."""
        if self._memory_bytes <= self._memory_bytes_max:
            return
        gone = 0
        for entry in self._memory:
            if entry.index > through or self._memory_bytes <= self._memory_bytes_max // 2:
                break
            gone += 1
            self._memory_bytes -= entry.size
        del self._memory[:gone]

    # --- reading ---

    def entries(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries first..last, at least one, ending before `bytes_max` is passed.

        Raises EntriesGone where `first` is below the base or its records have been trimmed, Damaged on a bad CRC."""
        if first <= self.base.index:
            raise EntriesGone(f"entry {first} is at or below the log's base {self.base.index}")
        last = min(last, self.last_index)
        if first > last:
            return []
        if not self._memory or first < self._memory[0].index:
            oldest = self._memory[0].index if self._memory else self.last_index + 1
            return self._read(first, min(last, oldest - 1), bytes_max)
        start = first - self._memory[0].index
        found: list[Entry] = []
        total = 0
        for entry in self._memory[start : start + last - first + 1]:
            total += entry.size
            if found and total > bytes_max:
                break
            found.append(entry)
        return found

"""What consensus asks of a replicated state machine.

`apply` is deterministic and pure in its inputs: time, ids and choices come in the command. It never raises for
anything that could have been refused before proposing (C10); a command of an unknown kind raises
`UnknownCommand`, and the node stops.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from consensus.model import Entry
from consensus.store import KeyRange


class Applied(msgspec.Struct):
    """What a run of entries changes: rows to store (None deletes) and payloads that are no longer needed."""

    rows: dict[bytes, bytes | None] = {}
    delete_payloads: list[KeyRange] = []


class Machine(Protocol):
    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        """Takes these rows as the whole state: at start, and after a snapshot was installed."""

    def apply(self, entries: Sequence[Entry]) -> Applied:
        """Applies committed entries, in order, each once. Entries that are not commands are left out."""

    def payload_ranges(self) -> list[KeyRange]:
        """The payload keys that this state refers to: ranges ascending and apart, and exact. Of an entry at or below
        the state, what is inside them is there; what was deleted lies outside."""

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        """The payload keys that a state made of these rows refers to; changes nothing."""

    def led(self, term: int) -> None:
        """This replica now leads, has applied all of earlier terms, and may propose."""

    def unled(self) -> None:
        """It no longer does."""

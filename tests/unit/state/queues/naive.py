"""The queues as a few lists that are searched from end to end: slow, and simple enough to be believed."""

from dataclasses import dataclass, field

HISTORY_MAX = 5


@dataclass
class Note:
    """A message. `place` is its place among the available ones, or the dead ones."""

    number: int
    priority: int
    key: int
    sent: int
    ttl: int
    not_before: int
    receipt: str
    origin: str = ""
    state: str = ""
    place: tuple[int, int] = (0, 0)
    deliveries: int = 0
    lock: tuple[int, int] | None = None
    """(nonce, until)"""
    ends: list[tuple[int, str]] = field(default_factory=list)
    died: int = 0
    timed: bool = False
    dies_at: int = 0

    def due(self) -> int:
        """When something happens to it by itself; 0: never."""
        if self.state == "locked":
            assert self.lock is not None
            return self.lock[1]
        if self.state == "delayed":
            return min(self.not_before, self.ttl or self.not_before)
        if self.state == "dead":
            return self.dies_at
        return self.ttl if self.state in ("waiting", "blocked") else 0


@dataclass
class NaiveQueue:
    ordered: bool = False
    deliveries_max: int = 10
    retention: int = -1
    dead_to: str = ""
    lock: int = 30_000
    notes: list[Note] = field(default_factory=list)
    chains: dict[int, list[Note]] = field(default_factory=dict)
    last: int = 0
    turns: int = 0
    ended: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """number -> (how, deliveries, nonce)"""
    away: list[tuple[str, int, str]] = field(default_factory=list)
    """What went into the outbox: (kind, number, destination)."""

    # --- in and out -----------------------------------------------------------------------------------------

    def add(self, note: Note, now: int) -> None:
        self.notes.append(note)
        note.sent = now
        note.place = (note.number, 0)
        self._join(note, now, fresh=True)
        self.last = note.number

    def _join(self, note: Note, now: int, *, fresh: bool) -> None:
        chain = self.chains.setdefault(note.key, []) if self.ordered and note.key else [note]
        if self.ordered and note.key:
            chain.append(note)
        if chain[0] is not note:
            note.state = "blocked"
            if not fresh:
                self._turn(note)
        elif note.not_before > now:
            note.state = "delayed"
        else:
            note.state = "waiting"
            if not fresh:
                self._turn(note)

    def _turn(self, note: Note) -> None:
        self.turns += 1
        note.place = (self.last, self.turns)

    def _available(self, note: Note) -> None:
        self._turn(note)
        note.state = "waiting"

    def _unlink(self, note: Note, now: int) -> None:
        chain = self.chains.get(note.key) if self.ordered and note.key else None
        if chain is not None and note in chain:
            first = chain[0] is note
            chain.remove(note)
            if not chain:
                del self.chains[note.key]
            elif first:
                following = chain[0]
                if following.not_before > now:
                    following.state = "delayed"
                else:
                    self._available(following)

    def _end(self, note: Note, how: str, now: int, nonce: int = 0) -> None:
        if note.state not in ("dead", "moving"):
            self._unlink(note, now)
            if note.receipt:
                self.away.append(("receipt", note.number, note.receipt))
        self.notes.remove(note)
        self.ended[note.number] = (how, note.deliveries, nonce or (note.ends[-1][0] if note.ends else 0))

    def _die(self, note: Note, now: int) -> None:
        self._unlink(note, now)
        if note.receipt:
            self.away.append(("receipt", note.number, note.receipt))
        note.ttl, note.timed = 0, False
        self._turn(note)
        note.lock = None
        if self.dead_to:
            note.state = "moving"
            self.away.append(("move", note.number, self.dead_to))
        else:
            note.state = "dead"
            note.dies_at = now + self.retention if self.retention >= 0 else 0

    def _back(self, note: Note, how: str, delay: int, now: int) -> None:
        assert note.lock is not None
        note.ends.append((note.lock[0], how))
        if how == "rejected" or (self.deliveries_max and note.deliveries >= self.deliveries_max):
            self._die(note, now)
            return
        over = 0 < note.ttl <= now or (not note.timed and 0 <= self.retention <= now - note.sent)
        note.state = "" if over else note.state
        note.lock = None
        if over:
            self._end(note, "expired", now)
        elif delay:
            note.state, note.not_before = "delayed", now + delay
        else:
            self._available(note)

    # --- time -----------------------------------------------------------------------------------------------

    def next_due(self, now: int) -> tuple[int, int] | None:
        return min(((n.due(), n.number) for n in self.notes if 0 < n.due() <= now), default=None)

    def fire(self, number: int, now: int) -> None:
        note = self.find(number)
        assert note is not None
        if note.state == "locked":
            self._back(note, "ran out", 0, now)
        elif note.state == "delayed" and not 0 < note.ttl <= now:
            self._available(note)
        else:
            self._end(note, "expired", now)

    def retire(self, now: int) -> None:
        if self.retention < 0:
            return
        for note in sorted(self.notes, key=lambda note: note.number):
            if note.state in ("dead", "moving") or note.timed or note.sent + self.retention > now:
                continue
            if note.state == "locked":
                note.ttl, note.timed = now, True
            elif note in self.notes:
                self._end(note, "expired", now)

    # --- asked ----------------------------------------------------------------------------------------------

    def find(self, number: int) -> Note | None:
        return next((note for note in self.notes if note.number == number), None)

    def receive(self, most: int, nonce: int, lock: int, now: int) -> list[int]:
        waiting = sorted((n for n in self.notes if n.state == "waiting"), key=lambda n: (-n.priority, n.place))
        for note in waiting[:most]:
            note.state, note.lock = "locked", (nonce, now + (lock or self.lock))
            note.deliveries += 1
        return [note.number for note in waiting[:most]]

    def held(self, number: int, delivery: int, nonce: int) -> Note | None:
        note = self.find(number)
        if note is None or note.lock is None or (note.deliveries, note.lock[0]) != (delivery, nonce):
            return None
        return note

    def settle(self, how: str, token: tuple[int, int, int], now: int, delay: int = 0) -> str:
        number, delivery, nonce = token
        note = self.held(number, delivery, nonce)
        if note is not None:
            if how == "consumed":
                self._end(note, how, now, nonce)
            elif how == "extended":
                assert note.lock is not None
                note.lock = (nonce, max(note.lock[1], now + self.lock))
            else:
                self._back(note, how, delay, now)
            return "ok"
        note = self.find(number)
        if how in ("released", "rejected") and note is not None:
            same = bool(note.ends) and note.ends[-1] == (nonce, how) and note.state != "locked"
            return "repeated" if same else "lost"
        ended = self.ended.get(number)
        as_told = {"consumed": "consumed", "released": "moved", "rejected": "moved"}.get(how)
        return "repeated" if ended == (as_told, delivery, nonce) else "lost"

    def redrive(self, most: int, now: int) -> int:
        dead = sorted((n for n in self.notes if n.state == "dead"), key=lambda n: n.place)[:most]
        for note in dead:
            note.deliveries, note.timed, note.not_before = 0, True, 0
            note.ttl = now + self.retention if self.retention >= 0 else 0
            self._join(note, now, fresh=False)
        return len(dead)

    def send_back(self, to: str, most: int) -> int:
        found = [n for n in self.notes if n.origin == to and n.state == "waiting"]
        found = sorted(found, key=lambda n: n.number)[:most]
        for note in found:
            self._unlink(note, 0)
            note.state = "moving"
            self.away.append(("redrive", note.number, to))
        return len(found)

    def arrived(self, number: int, how: str) -> None:
        note = self.find(number)
        if note is not None:
            assert note.state == "moving"
            self.notes.remove(note)
            self.ended[number] = (how, note.deliveries, note.ends[-1][0] if note.ends else 0)

    def purge(self) -> int:
        count = sum(note.state != "moving" for note in self.notes)
        self.notes = [note for note in self.notes if note.state == "moving"]
        self.chains = {}
        return count

"""The `queue` workload: every message that was accepted is acknowledged once, or ends in the dead-letter queue.

    :send     invoke, ok, fail, info   {:queue 0 :message 7}     messages are unique per queue
    :receive  invoke {:queue 0}        ok {:queue 0 :messages [{:message 7 :lock "a1" :lock-ms 30000} ...]}
    :ack      invoke, ok, fail, info   {:queue 0 :message 7 :lock "a1"}
    :release, :reject                  the same: given back; refused for good, to become a dead letter
    :drain    invoke {:queue 0}        ok {:queue 0 :messages [7 ...] :dead-letter [8 ...]}

`:drain` comes at the end, once per queue, when no lock is left: it receives and acknowledges all that remains, and
lists the dead-letter queue. Without one that ended ok, losses cannot be judged, and the verdict is unknown. `:lock-ms`
is for how long the lock was granted.

- lost-message: accepted, and in the end neither acknowledged (perhaps) nor drained nor a dead letter.
- invented: delivered, drained or a dead letter, and nobody sent it; G1a: the same, and its send failed.
- acked-twice: two acknowledgements of one message ended ok; or one, and the drain found it, or it became a dead letter.
- redelivered-after-ack: received by an operation invoked after an acknowledgement of it had ended ok.
- duplicate: drained twice, or twice a dead letter, or both.
- lock-overlap: two consumers held a message at once, for certain: a lock is held from when the receive ended until the
  holder asks to ack, release or reject, at most until `:lock-ms` after the receive was invoked. The grant lies between
  the two.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from jepsen.checkers.verdict import Findings, NotJudgeable, Rules
from jepsen.edn import Keyword, write
from jepsen.history import History, Op

SETTLING = ("ack", "release", "reject")

Message = tuple[object, object]
"""(queue, message)."""


class Delivery(msgspec.Struct, frozen=True):
    """A message handed to a consumer, with its lock; `lock_ms` None if not told."""

    message: object
    lock: object
    lock_ms: int | None
    op: Op


class _Life:
    """All that happened to one message."""

    def __init__(self) -> None:
        self.sends: list[Op] = []
        self.deliveries: list[Delivery] = []
        self.settled: list[tuple[Op, object]] = []
        """ack, release and reject, with the lock they bear."""
        self.drained: list[Op] = []
        self.dead: list[Op] = []

    def acks(self, *types: str) -> list[Op]:
        return [op for op, _ in self.settled if op.f == "ack" and op.type in types]


def check(history: History, rules: Rules) -> Findings:
    """Raises NotJudgeable."""
    del rules  # Jepsen has none for queues like these
    lives, drained, used = _lives(history)
    if not lives:
        raise NotJudgeable("no message was sent to a queue or came out of one: there is nothing to judge")
    findings = Findings()
    for (queue, message), life in lives.items():
        where = {"queue": queue, "message": message}
        _origin(where, life, findings)
        _acknowledged(where, life, findings)
        _overlaps(where, life, findings)
        if queue in drained:
            _lost(where, life, findings)
    findings.unknown.extend(
        f"queue {write(queue)} was not drained: what it lost cannot be told"
        for queue in sorted(used - drained, key=write)
    )
    return findings


def _lives(history: History) -> tuple[dict[Message, _Life], set[object], set[object]]:
    """Every message's life, the queues that were drained, and those with messages that were accepted."""
    lives: dict[Message, _Life] = {}
    drained: set[object] = set()
    used: set[object] = set()
    for op in history.ops:
        if op.f not in ("send", "receive", "drain", *SETTLING):
            continue
        fields = _fields(op)
        queue = fields.get("queue")
        if op.f == "send":
            _life(lives, queue, fields.get("message")).sends.append(op)
            if op.type == "ok":
                used.add(queue)
        elif op.f in SETTLING:
            _life(lives, queue, fields.get("message")).settled.append((op, fields.get("lock")))
        elif op.type == "ok" and op.f == "receive":
            for delivery in _deliveries(op, fields):
                _life(lives, queue, delivery.message).deliveries.append(delivery)
        elif op.type == "ok":
            drained.add(queue)
            for message in _list(op, fields, "messages"):
                _life(lives, queue, message).drained.append(op)
            for message in _list(op, fields, "dead-letter"):
                _life(lives, queue, message).dead.append(op)
    return lives, drained, used


def _life(lives: dict[Message, _Life], queue: object, message: object) -> _Life:
    found = lives.get((queue, message))
    if found is None:
        found = lives[queue, message] = _Life()
    return found


def _fields(op: Op) -> Mapping[str, object]:
    if op.sends or op.reads or not isinstance(op.value, Mapping):
        raise NotJudgeable(f":f :{op.f} at :index {op.invoked}: :value {write(op.value)[:60]} is not a map with :queue")
    return _named(op.value)


def _named(value: Mapping[object, object]) -> dict[str, object]:
    return {key.name if isinstance(key, Keyword) else str(key): held for key, held in value.items()}


def _list(op: Op, fields: Mapping[str, object], name: str) -> Iterable[object]:
    value = fields.get(name, ())
    if isinstance(value, (tuple, frozenset)):
        return value
    raise NotJudgeable(f":f :{op.f} at :index {op.ended}: :{name} is {write(value)[:60]}, not a vector")


def _deliveries(op: Op, fields: Mapping[str, object]) -> Iterator[Delivery]:
    for one in _list(op, fields, "messages"):
        if not isinstance(one, Mapping):
            raise NotJudgeable(f":receive at :index {op.ended}: {write(one)[:60]} is not a map with :message and :lock")
        message = _named(one)
        lock_ms = message.get("lock-ms")
        yield Delivery(
            message=message.get("message"),
            lock=message.get("lock"),
            lock_ms=lock_ms if isinstance(lock_ms, int) else None,
            op=op,
        )


def _origin(where: dict[str, object], life: _Life, findings: Findings) -> None:
    readers = [*(delivery.op for delivery in life.deliveries), *life.drained, *life.dead]
    if readers and not life.sends:
        findings.add("invented", **where, op=readers[0])
    elif readers and all(op.type == "fail" for op in life.sends):
        findings.add("G1a", **where, writer=life.sends[0], reader=readers[0])


def _acknowledged(where: dict[str, object], life: _Life, findings: Findings) -> None:
    acks = life.acks("ok")
    if acks:
        ends = [*acks, *life.drained, *life.dead]
        if len(ends) > 1:
            findings.add("acked-twice", **where, ops=ends)
        first = min(acks, key=lambda op: op.ended)
        for delivery in life.deliveries:
            if delivery.op.invoked > first.ended:
                findings.add("redelivered-after-ack", **where, ops=[first, delivery.op])
    elif len(life.drained) + len(life.dead) > 1:
        findings.add("duplicate", **where, drained=len(life.drained), dead_letters=len(life.dead))


def _lost(where: dict[str, object], life: _Life, findings: Findings) -> None:
    accepted = [op for op in life.sends if op.type == "ok"]
    if accepted and not (life.drained or life.dead or life.acks("ok", "info")):
        findings.add("lost-message", **where, writer=accepted[0], deliveries=[one.op for one in life.deliveries])


def _overlaps(where: dict[str, object], life: _Life, findings: Findings) -> None:
    """Sweeps over the holdings by their begin; only the one that lasts longest so far can overlap the next."""
    holdings = sorted((_held(delivery, life) for delivery in life.deliveries), key=lambda held: held[0])
    longest: tuple[int, int, Op] | None = None
    for begin, end, op in holdings:
        if longest is not None and begin < longest[1] and begin < end:
            findings.add("lock-overlap", **where, held_ns=[list(longest[:2]), [begin, end]], ops=[longest[2], op])
        if end > begin and (longest is None or end > longest[1]):
            longest = (begin, end, op)


def _held(delivery: Delivery, life: _Life) -> tuple[int, int, Op]:
    """From when until when, in ns, the lock was held for certain; as long as nothing if that is not known."""
    begin = delivery.op.time
    ends = [op.invoke_time for op, lock in life.settled if lock == delivery.lock and op.invoked > delivery.op.ended]
    if delivery.lock_ms is not None:
        ends.append(delivery.op.invoke_time + delivery.lock_ms * 1_000_000)
    return begin, min(ends, default=begin), delivery.op

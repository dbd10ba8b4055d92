"""What queue clients saw, with the times at which they saw it, and whether it can be so.

A consumer certainly holds a message from when the answer with its lock arrived until it begins to settle it, or until
`lock_ms` after it had asked, whichever is first: the lock cannot have begun before the request was sent, and the
cluster's time never runs faster than ours. Two such intervals of one message must not overlap.

Where a client went without hearing an answer, either may be so, but not both, and receipts and fates must agree on it.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class Hold:
    """One delivery, as its consumer saw it; times in seconds of one monotonic clock."""

    id: str
    delivery: int
    token: str
    consumer: str
    asked: float
    answered: float
    ends: float
    """`asked` and the lock's length, and so for an extension: until then it is certainly held, unless it is settled."""
    settling: float | None = None
    """When its consumer first tried to settle it."""

    @property
    def until(self) -> float:
        return self.ends if self.settling is None else min(self.ends, self.settling)


@dataclass(frozen=True)
class Told:
    """Of a message's end, by a receipt or when asked for its fate."""

    id: str
    state: str
    consumer: str
    moved_to: str = ""


@dataclass
class History:
    dead_letter_queue: str
    sent: list[str] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    acknowledged: list[Hold] = field(default_factory=list)
    """Whose acknowledgement was answered as done."""
    unheard: list[Hold] = field(default_factory=list)
    """Acknowledged by a consumer that was gone before the answer came."""
    rejected: list[Hold] = field(default_factory=list)
    """Whose rejection was answered as done."""
    done: Counter[str] = field(default_factory=Counter)
    """What consumers did, and what came of it."""
    dead: list[str] = field(default_factory=list)
    """Ids, in the queue they died in, of what came out of the dead-letter queue."""
    receipts: list[Told] = field(default_factory=list)
    """What came out of the reply queue: one for each message that was sent with it."""
    posted: list[Told] = field(default_factory=list)
    """What the webhook has taken: at least one for each message that was sent with it."""
    fates: list[Told] = field(default_factory=list)
    """What was answered when it was asked for."""


def problems_of(history: History) -> list[str]:
    """What cannot be so, in words; empty where all is well."""
    consumers = _consumers(history)
    told = {told.id for told in (*history.receipts, *history.posted)}
    return [
        *_sending(history),
        *_locks(history),
        *_ends(history, consumers),
        *_again(history),
        *_told("receipt", history.receipts, history, consumers),
        *_told("posted receipt", history.posted, history, consumers),
        *_told("fate", history.fates, history, consumers),
        *(f"two receipts for {id_}" for id_ in _twice([one.id for one in (*history.receipts, *set(history.posted))])),
        *(f"no receipt for {id_}" for id_ in sorted(set(history.sent) - told)),
    ]


def _twice(ids: list[str]) -> list[str]:
    return sorted(id_ for id_, count in Counter(ids).items() if count > 1)


def _consumers(history: History) -> dict[str, str]:
    """Who consumed which message: what acknowledgements were answered, and for those nobody heard of, what receipts
    say, where it is by one who tried."""
    tried = {(hold.id, hold.consumer) for hold in history.unheard}
    by_receipt = {
        told.id: told.consumer
        for told in (*history.receipts, *history.posted)
        if told.state == "consumed" and (told.id, told.consumer) in tried
    }
    return by_receipt | {hold.id: hold.consumer for hold in history.acknowledged}


def _sending(history: History) -> list[str]:
    return [f"id {id_} was given to two messages" for id_ in _twice(history.sent)]


def _locks(history: History) -> list[str]:
    found: list[str] = []
    by_message: dict[str, list[Hold]] = defaultdict(list)
    for hold in history.holds:
        by_message[hold.id].append(hold)
    for id_, holds in by_message.items():
        numbers = Counter(hold.delivery for hold in holds)
        found += [f"delivery {n} of {id_} was given {times} times" for n, times in numbers.items() if times > 1]
        holds.sort(key=lambda hold: hold.answered)
        latest = holds[0]
        for hold in holds[1:]:
            if latest.until > hold.answered and hold.until > hold.answered:
                found.append(
                    f"{id_} was held by {latest.consumer} until {latest.until:.3f} and by {hold.consumer} from "
                    f"{hold.answered:.3f}"
                )
            latest = max(latest, hold, key=lambda one: one.until)
    found += [f"token {token} was given twice" for token in _twice([hold.token for hold in history.holds])]
    return found


def _ends(history: History, consumers: dict[str, str]) -> list[str]:
    consumed, dead, sent = set(consumers), history.dead, set(history.sent)
    buried = set(dead)
    found = [f"{id_} was acknowledged twice" for id_ in _twice([hold.id for hold in history.acknowledged])]
    found += [f"{id_} is twice among the dead" for id_ in _twice(dead)]
    found += [f"{id_} was acknowledged and is dead" for id_ in sorted(consumed & buried)]
    found += [f"{id_} is lost" for id_ in sorted(sent - consumed - buried)]
    found += [f"{id_} was never sent" for id_ in sorted((consumed | buried) - sent)]
    found += [f"{hold.id} was rejected and is not dead" for hold in history.rejected if hold.id not in buried]
    return found


def _again(history: History) -> list[str]:
    """An acknowledged or rejected message is never delivered again."""
    last = {hold.id: hold.delivery for hold in (*history.acknowledged, *history.rejected)}
    return [
        f"{hold.id} was delivered again after it was settled"
        for hold in history.holds
        if hold.delivery > last.get(hold.id, hold.delivery)
    ]


def _told(what: str, said: list[Told], history: History, consumers: dict[str, str]) -> list[str]:
    dead, sent = set(history.dead), set(history.sent)
    found: list[str] = []
    for told in said:
        if told.id not in sent:
            found.append(f"a {what} for {told.id}, which was never sent")
        elif told.id in dead and (told.state, told.moved_to) != ("dead", history.dead_letter_queue):
            found.append(f"{told.id} is dead, its {what} says {told.state} {told.moved_to}")
        elif told.id in consumers and (told.state, told.consumer) != ("consumed", consumers[told.id]):
            by = consumers[told.id]
            found.append(f"{told.id} was acknowledged by {by}, its {what} says {told.state} by {told.consumer}")
    return found

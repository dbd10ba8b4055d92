"""Queues: histories of a perfect queue are valid, and each kind of damage done to one is found."""

import random
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jepsen.checkers import judge
from jepsen.checkers.verdict import NotJudgeable, Rules, Verdict
from jepsen.edn import Keyword
from jepsen.history import line
from tests.jepsen.judging import history_of

Line = dict[str, object]
LOCK_MS = 10
CLIENTS = 4


class Queue:
    """One perfect queue, its clients, and the clock: every event takes 1 ms. Locks run out."""

    def __init__(self, drawn: random.Random) -> None:
        self.drawn, self.lines, self.sent, self.locks = drawn, list[Line](), 0, 0
        self.waiting: list[int] = []
        self.locked: dict[int, tuple[str, float]] = {}
        self.dead: list[int] = []
        self.held: dict[int, list[tuple[int, str]]] = {client: [] for client in range(CLIENTS)}
        self.open: dict[int, tuple[str, Line]] = {}

    def write(self, kind: str, client: int, f: str, value: Line) -> None:
        named = {Keyword(name): held for name, held in value.items()}
        time = len(self.lines) * 1_000_000
        self.lines.append(
            {"index": len(self.lines), "time": time, "type": kind, "process": client, "f": f, "value": named}
        )

    def now(self) -> float:
        return len(self.lines)

    def run(self, steps: int) -> list[Line]:
        for _ in range(steps):
            client = self.drawn.randrange(CLIENTS)
            if client in self.open:
                self.end(client, *self.open.pop(client))
            else:
                self.begin(client)
        for client in list(self.open):
            self.end(client, *self.open.pop(client))
        self.drain()
        return self.lines

    def begin(self, client: int) -> None:
        choice = self.drawn.choice(["send", "receive", "settle"])
        value: Line = {"queue": 0}
        if choice == "send":
            self.sent += 1
            value["message"] = self.sent
        elif choice == "settle" and self.held[client]:
            choice = self.drawn.choice(["ack", "ack", "release", "reject"])
            value["message"], value["lock"] = self.held[client].pop(0)
        else:
            choice = "receive"
        self.open[client] = choice, value
        self.write("invoke", client, choice, value)

    def expire(self) -> None:
        for message, (_, until) in list(self.locked.items()):
            if self.now() > until:
                del self.locked[message]
                self.waiting.append(message)

    def end(self, client: int, f: str, value: Line) -> None:
        """The effect, at the moment of the answer; the answer itself may be lost, and the effect with it."""
        self.expire()
        fate = self.drawn.choice(["ok"] * 8 + ["lost", "never"])
        done = value
        if fate != "never":
            if f == "send":
                self.waiting.append(int(str(value["message"])))
            elif f == "receive":
                done = {**value, "messages": self.receive(client, keep=fate == "ok")}
            elif not self.settle(f, int(str(value["message"])), str(value["lock"])):
                self.write("fail", client, f, value)
                return
        self.write("ok" if fate == "ok" else "info", client, f, done if fate == "ok" else value)

    def receive(self, client: int, *, keep: bool) -> list[object]:
        given: list[object] = []
        for _ in range(self.drawn.randint(0, 2)):
            if self.waiting:
                message = self.waiting.pop(0)
                self.locks += 1
                lock = f"lock {self.locks}"
                self.locked[message] = lock, self.now() + LOCK_MS
                if keep:
                    self.held[client].append((message, lock))
                given.append({Keyword("message"): message, Keyword("lock"): lock, Keyword("lock-ms"): LOCK_MS})
        return given

    def settle(self, f: str, message: int, lock: str) -> bool:
        if message not in self.locked or self.locked[message][0] != lock:
            return False
        del self.locked[message]
        if f == "release":
            self.waiting.append(message)
        elif f == "reject":
            self.dead.append(message)
        return True

    def drain(self) -> None:
        self.waiting += self.locked
        self.write("invoke", 99, "drain", {"queue": 0})
        self.write("ok", 99, "drain", {"queue": 0, "messages": self.waiting, "dead-letter": self.dead})


def verdict_on(lines: list[Line]) -> Verdict:
    return judge(history_of("\n".join(map(line, lines))), "queue", Rules())


seeds, steps = st.integers(0, 2**32), st.integers(20, 150)


@settings(max_examples=60, deadline=None)
@given(seeds, steps)
def test_a_perfect_queue_is_valid(seed: int, count: int) -> None:
    queue = Queue(random.Random(seed))
    lines = queue.run(count)
    assume(queue.sent)
    verdict = verdict_on(lines)
    assert verdict.anomalies == {}
    assert verdict.valid


def value_of(entry: Line) -> dict[object, object]:
    value = entry["value"]
    assert isinstance(value, dict)
    return value


def drained(lines: list[Line]) -> dict[object, object]:
    return value_of(lines[-1])


def lose_a_message(queue: Queue, lines: list[Line]) -> set[str]:
    accepted = {value_of(one)[Keyword("message")] for one in lines if (one["f"], one["type"]) == ("send", "ok")}
    lost = [message for message in queue.waiting if message in accepted]
    acked = {value_of(one)[Keyword("message")] for one in lines if one["f"] == "ack" and one["type"] != "fail"}
    lost = [message for message in lost if message not in acked]
    assume(lost)
    drained(lines)[Keyword("messages")] = [message for message in queue.waiting if message != lost[0]]
    return {"lost-message"}


def deliver_what_was_acked(queue: Queue, lines: list[Line]) -> set[str]:
    acked = [value_of(one)[Keyword("message")] for one in lines if (one["f"], one["type"]) == ("ack", "ok")]
    assume(acked)
    drained(lines)[Keyword("messages")] = [*queue.waiting, acked[0]]
    return {"acked-twice"}


def make_one_up(queue: Queue, lines: list[Line]) -> set[str]:
    drained(lines)[Keyword("dead-letter")] = [*queue.dead, 1_000_000]
    return {"invented"}


def deliver_what_failed(queue: Queue, lines: list[Line]) -> set[str]:
    shown = {*queue.waiting, *queue.dead}
    for one in lines:
        if one["f"] == "send" and one["type"] == "ok" and value_of(one)[Keyword("message")] in shown:
            one["type"] = "fail"
            return {"G1a"}
    assume(False)
    return set()


def lock_for_longer(queue: Queue, lines: list[Line]) -> set[str]:
    """Every lock is said to hold for an hour: those that ran out then overlap the next one of the same message."""
    lent: dict[object, int] = {}
    settled: dict[object, int] = {}
    overlaps = False
    for place, one in enumerate(lines):
        if one["f"] in ("ack", "release", "reject") and one["type"] == "invoke":
            settled[value_of(one)[Keyword("lock")]] = place
        if (one["f"], one["type"]) == ("receive", "ok"):
            messages = value_of(one)[Keyword("messages")]
            assert isinstance(messages, list)
            for message in messages:
                message[Keyword("lock-ms")] = 3_600_000
                before = lent.get(message[Keyword("message")])
                overlaps |= before is not None and before not in settled
                lent[message[Keyword("message")]] = message[Keyword("lock")]
    assume(overlaps)
    return {"lock-overlap"}


DAMAGES = [lose_a_message, deliver_what_was_acked, make_one_up, deliver_what_failed, lock_for_longer]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_damage_is_found(damage: Callable[[Queue, list[Line]], set[str]], seed: int) -> None:
    queue = Queue(random.Random(seed))
    lines = queue.run(150)
    assert damage(queue, lines) <= set(verdict_on(lines).bad)


def test_without_a_drain_the_verdict_is_unknown() -> None:
    lines = Queue(random.Random(1)).run(60)[:-2]
    verdict = verdict_on(lines)
    assert (verdict.valid, verdict.bad, verdict.exit_status) == (False, [], 2)
    assert "queue 0 was not drained" in verdict.unknown[0]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{:type :ok :process 0 :f :poll :value [[:poll]]}", "nothing to judge"),
        ("{:type :ok :process 0 :f :send :value [[:send 0 1]]}", "is not a map with :queue"),
        ("{:type :ok :process 0 :f :receive :value {:queue 0 :messages 7}}", ":messages is 7, not a vector"),
        ("{:type :ok :process 0 :f :receive :value {:queue 0 :messages [7]}}", "7 is not a map with :message"),
    ],
)
def test_what_is_no_queue_is_not_judged(text: str, what: str) -> None:
    with pytest.raises(NotJudgeable, match=what):
        judge(history_of(text), "queue", Rules())

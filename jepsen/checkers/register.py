"""The `register` workload: small registers, by key, that are linearizable.

    :read    invoke [k nil]          ok [k v]
    :write   invoke [k v]            ok [k v]
    :cas     invoke [k [old new]]    ok [k [old new]]; fail if the register held something else

Every register holds nil before anything is written. One anomaly: nonlinearizable, with the first answer that nothing
explains.
"""

from collections.abc import Iterable, Iterator

from jepsen.checkers.linear import CAS, CONFIGURATIONS_MAX, READ, WRITE, Call, GaveUp, by_key, search
from jepsen.checkers.verdict import Findings, NotJudgeable, Rules
from jepsen.edn import write
from jepsen.history import NEVER, History, Op


def check(history: History, rules: Rules) -> Findings:
    """Raises NotJudgeable."""
    del rules  # linearizable is linearizable
    calls = list(_calls(history))
    if not calls:
        raise NotJudgeable("no :read, :write or :cas that ended ok: there is nothing to judge")
    findings = Findings()
    judge(history, calls, None, findings)
    return findings


def judge(history: History, calls: Iterable[tuple[object, Call]], initial: object, findings: Findings) -> None:
    """Adds `nonlinearizable` for every key whose calls no order explains. A call's `number` is its operation's."""
    for key, of_key in by_key(calls).items():
        result = search(of_key, initial, CONFIGURATIONS_MAX)
        if isinstance(result, GaveUp):
            findings.unknown.append(
                f"key {write(key)}: more than {CONFIGURATIONS_MAX:,} configurations by :index {result.call.ended}"
            )
        elif result is not None:
            findings.add(
                "nonlinearizable",
                key=key,
                op=history.ops[result.call.number],
                could_hold=result.values,
                open=[history.ops[call.number] for call in result.open],
            )


def _calls(history: History) -> Iterator[tuple[object, Call]]:
    for op in history.ops:
        if op.f not in (READ, WRITE, CAS) or op.type == "fail" or (op.f == READ and op.type != "ok"):
            continue
        key, value = _pair(op, op.value)
        before, after = value, value
        if op.f == CAS:
            before, after = _pair(op, value)
        yield key, Call(op.number, op.f, op.invoked, returned_at(op), before, after)


def returned_at(op: Op) -> int | None:
    """When the operation had taken effect at the latest; None for one that may do so at any time."""
    return op.ended if op.type == "ok" and op.ended != NEVER else None


def _pair(op: Op, value: object) -> tuple[object, object]:
    if isinstance(value, tuple) and len(value) == 2:
        return value
    expected = "[key [old new]]" if op.f == CAS else "[key value]"
    raise NotJudgeable(f":f :{op.f} at :index {op.invoked}: :value {write(op.value)[:60]} is not {expected}")

"""The `churn` workload: topics are created and deleted, and every name is a linearizable register of whether it exists.

    :create   invoke "orders"    ok; fail if it existed
    :delete   invoke "orders"    ok; fail if it did not
    :list     invoke nil         ok ["orders" ...]: all that exist of the names the history creates
    :exists   invoke ["orders" nil]    ok ["orders" true]

No topic exists at first. An acknowledged create is listed until a delete is invoked, and an acknowledged delete never
comes back: anything else is nonlinearizable. A :list is judged name by name; it need not be one instant's picture of
all of them.
"""

from collections.abc import Iterator

from jepsen.checkers.linear import CAS, READ, Call
from jepsen.checkers.register import judge, returned_at
from jepsen.checkers.verdict import Findings, NotJudgeable, Rules
from jepsen.edn import write
from jepsen.history import History, Op


def check(history: History, rules: Rules) -> Findings:
    """Raises NotJudgeable."""
    del rules  # linearizable is linearizable
    if not any(op.f in ("create", "delete") and op.type == "ok" for op in history.ops):
        raise NotJudgeable("no :create or :delete that ended ok: there is nothing to judge")
    findings = Findings()
    judge(history, _calls(history), False, findings)
    return findings


def _calls(history: History) -> Iterator[tuple[object, Call]]:
    lists: list[Op] = []
    first_created: dict[object, int] = {}
    for op in history.ops:
        if op.f in ("create", "delete") and op.type != "fail":
            if op.f == "create":
                first_created.setdefault(op.value, op.invoked)
            exists = op.f == "create"
            yield op.value, Call(op.number, CAS, op.invoked, returned_at(op), not exists, exists)
        elif op.f == "exists" and op.type == "ok":
            name, answer = _answer(op)
            yield name, Call(op.number, READ, op.invoked, op.ended, answer)
        elif op.f == "list" and op.type == "ok":
            lists.append(op)
    for op in lists:
        if not isinstance(op.value, (tuple, frozenset)):
            raise NotJudgeable(f":list at :index {op.ended}: {write(op.value)[:60]} is not a vector of names")
        listed = frozenset(op.value)
        for name, created in first_created.items():
            if name in listed or created < op.ended:
                yield name, Call(op.number, READ, op.invoked, op.ended, name in listed)
        for name in listed - first_created.keys():
            yield name, Call(op.number, READ, op.invoked, op.ended, True)


def _answer(op: Op) -> tuple[object, object]:
    if isinstance(op.value, tuple) and len(op.value) == 2:
        return op.value
    raise NotJudgeable(f":exists at :index {op.ended}: {write(op.value)[:60]} is not [name true]")

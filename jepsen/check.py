"""`python -m jepsen check`: judges a history in a file, for people or for programs.

Exit status 0: valid; 1: anomalies; 2: could not tell, because the file is no history, it holds nothing to judge, or a
search ran out of bounds. With --json, standard output is exactly {"valid", "anomalies", "bad", "allowed"}; why nothing
could be told is said on standard error.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jepsen.checkers import WORKLOADS, judge
from jepsen.checkers.verdict import Example, NotJudgeable, Rules, Verdict
from jepsen.history import History, HistoryError, load

DEFAULT_WORKLOAD = "log"
EXAMPLES_SHOWN = 3

COULD_NOT_TELL = 2


class Settings(msgspec.Struct, frozen=True):
    """What a run's test.json says that matters for judging; all else in it is ignored."""

    workload: str = DEFAULT_WORKLOAD
    sub_via: str = "assign"


class BadSettings(Exception):
    """test.json beside the history, or an option, names what there is not."""


def check(path: Path, workload: str | None, sub_via: str | None, *, jepsen_rules: bool, as_json: bool) -> int:
    """Judges the history in `path` and writes the verdict; gives back the exit status.

    `workload` and `sub_via` are those of test.json beside it where they are None, and log and assign where it says
    nothing.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        workload, rules = settle(path, workload, sub_via, jepsen_rules=jepsen_rules)
        history = load(path)
        verdict = judge(history, workload, rules)
    except (BadSettings, HistoryError, NotJudgeable) as problem:
        where = "" if isinstance(problem, HistoryError) else f"{path}: "
        errors.print(f"[bold]could not tell[/]: {escape(where + str(problem))}")
        if as_json:
            write_json(Verdict(valid=False, anomalies={}, bad=[], allowed=[], counts={}, unknown=[str(problem)]))
        return COULD_NOT_TELL
    if as_json:
        write_json(verdict)
        for reason in verdict.unknown:
            errors.print(f"[bold]could not tell[/]: {escape(reason)}")
    else:
        show(history, workload, verdict, Console())
    return verdict.exit_status


def settle(path: Path, workload: str | None, sub_via: str | None, *, jepsen_rules: bool) -> tuple[str, Rules]:
    """The workload and the rules to judge `path` by. Raises BadSettings."""
    beside = path.with_name("test.json")
    told = Settings()
    if (workload is None or sub_via is None) and beside.is_file():
        try:
            told = msgspec.json.decode(beside.read_bytes(), type=Settings)
        except (OSError, msgspec.MsgspecError) as problem:
            raise BadSettings(f"{beside}: {problem}; say --workload and --sub-via") from problem
    workload, sub_via = workload or told.workload, sub_via or told.sub_via
    if workload not in WORKLOADS:
        raise BadSettings(f"there is no workload {workload!r}; there are {', '.join(WORKLOADS)}")
    if sub_via not in ("assign", "subscribe"):
        raise BadSettings(f"--sub-via is {sub_via!r}; it is assign or subscribe")
    return workload, Rules(sub_via=sub_via, jepsen=jepsen_rules)


def write_json(verdict: Verdict) -> None:
    """The verdict on standard output, in the form that is promised to programs."""
    fields = {name: getattr(verdict, name) for name in ("valid", "anomalies", "bad", "allowed")}
    sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")


def show(history: History, workload: str, verdict: Verdict, console: Console) -> None:
    """The verdict for people: what was judged, what was found, the first few examples of each."""
    console.print(_summary(history))
    for name in (*verdict.bad, *verdict.allowed):
        colour, judged = ("red", "bad") if name in verdict.bad else ("yellow", "allowed")
        console.print(f"\n[bold {colour}]{escape(name)}[/]: {verdict.counts[name]:,}, {judged}", highlight=False)
        for example in verdict.anomalies[name][:EXAMPLES_SHOWN]:
            console.print(_lines(example), highlight=False, soft_wrap=True)
    for reason in verdict.unknown:
        console.print(f"\n[bold yellow]could not tell[/]: {escape(reason)}", highlight=False)
    word = {0: "[bold green]valid[/]", 1: "[bold red]not valid[/]", 2: "[bold yellow]could not tell[/]"}
    console.print(f"\n{word[verdict.exit_status]} as a run of {workload}: {escape(history.source)}", highlight=False)


def _summary(history: History) -> Table:
    table = Table(
        title=f"{len(history.ops):,} operations, {len(history.faults):,} lines of faults", title_justify="left"
    )
    for column in ("operation", "ok", "info", "fail"):
        table.add_column(column, justify="left" if column == "operation" else "right")
    counts = Counter((op.f, op.type) for op in history.ops)
    for f in sorted({f for f, _ in counts}):
        table.add_row(f, *(f"{counts[f, kind]:,}" for kind in ("ok", "info", "fail")))
    return table


def _lines(example: Example) -> str:
    """An example, one field a line; operations as one line each."""
    shown: list[str] = []
    for name, value in example.items():
        several = isinstance(value, list) and any(isinstance(one, dict) for one in value)
        members = value if isinstance(value, list) and several else [value]
        shown += [f"    {name:<16} {escape(_text(one))}" for one in members]
    return "  -\n" + "\n".join(shown)


def _text(value: object) -> str:
    if isinstance(value, Mapping) and "process" in value and "f" in value:
        return f":index {value['index']} process {value['process']} :{value['type']} :{value['f']} {value['value']}"
    return msgspec.json.encode(value).decode()

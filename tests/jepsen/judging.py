"""Judging in tests: histories from lines of text, from made events and from files, without the command around it."""

import io
import re
from collections.abc import Iterable
from pathlib import Path

from jepsen.checkers import judge
from jepsen.checkers.verdict import Rules, Verdict
from jepsen.history import History, parse
from jepsen.synthetic import Event, lines

HISTORIES = Path(__file__).parent / "histories"

JEPSEN = Rules(jepsen=True)
_HEADING = re.compile(r"^; (options|bad|allowed|jepsen bad|jepsen allowed):(.*)$", re.MULTILINE)


def history_of(text: str) -> History:
    return parse(io.BytesIO(text.encode()), "test")


def judge_events(events: Iterable[Event], rules: Rules | None = None) -> Verdict:
    return judge(parse(io.BytesIO(b"".join(lines(events)))), "log", rules or Rules())


def expectations(path: Path) -> dict[str, list[str]]:
    """What the comments at the head of a history say: names after `bad`, `allowed`, the same under Jepsen's rules where
    they differ, and `options` of the command."""
    return {name: said.split() for name, said in _HEADING.findall(path.read_text())}

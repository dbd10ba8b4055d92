"""Histories: what clients asked, what they were told, and in which order.

A history is EDN, one map per line, or one vector of such maps:

    {:index 2 :time 3000 :type :invoke :process 0 :f :send :value [[:send 0 7]]}
    {:index 3 :time 4000 :type :ok :process 0 :f :send :value [[:send 0 [12 7]]]}

`:type`, `:process` and `:f` are required. `:index` (ascending) and `:time` (nanoseconds) may be left out of all lines;
the order of lines is the order of events. `load` pairs each invocation with its completion, by process, into one `Op`.
A completion without an invocation is taken as invoked when it completed; an invocation without a completion is `info`,
like one that timed out. Lines of processes that are not numbers (`:nemesis`) are kept apart, as `faults`.

For `send`, `poll` and `txn`, micro-operations are taken apart into `sends` and `reads`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import msgspec

from jepsen.edn import EdnError, Keyword, Map, Reader, Tagged, write
from jepsen.fastlines import Row, extra_of, integers, plain_rows, take_apart
from jepsen.microops import NO_READS, Malformed, Reads, Sends, micro_ops

NEVER = 2**62
"""The index of a completion that never came."""

MICRO_OPS = ("send", "poll", "txn")
CHUNK_BYTES = 1 << 17

_TYPES = ("invoke", "ok", "info", "fail")
_KNOWN = ("index", "time", "type", "process", "f", "value")
_NAMES = {name.encode(): name for name in (*_TYPES, *MICRO_OPS, "assign", "subscribe", "crash")}
_NOTHING: Mapping[str, object] = MappingProxyType({})


class HistoryError(Exception):
    """The file is no history; says where and why."""


class Op(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One operation of one client, from its invocation to its completion.

    `number` counts operations in the order of invocation. `invoked` and `ended` are the `:index` of the two lines
    (`ended` is NEVER if there was none), `invoke_time` and `time` their `:time` in nanoseconds. `value` is the
    completion's, or what was asked for if that says nothing; None where it was taken apart: `sends` are (key, offset or
    None, value), `reads` are (key, offsets, values), a key once. `extra` holds every other key of the two lines
    (`rebalance-log`, `group`, `error`...), by name.
    """

    number: int
    process: int
    type: str
    f: str
    invoked: int
    ended: int
    invoke_time: int
    time: int
    value: object = None
    sends: Sends = ()
    reads: Reads = NO_READS
    extra: Mapping[str, object] = _NOTHING


class Fault(msgspec.Struct, frozen=True):
    """A line that no client wrote: what the nemesis did."""

    index: int
    time: int
    process: str
    type: str
    f: str
    value: object


class History(msgspec.Struct, frozen=True):
    """A whole run. `ops` in the order of invocation, `ops[n].number == n`."""

    source: str
    ops: list[Op]
    faults: list[Fault]


def load(path: Path) -> History:
    """The history in `path`. Raises HistoryError."""
    try:
        with path.open("rb") as file:
            return parse(file, str(path))
    except OSError as problem:
        raise HistoryError(f"cannot read {path}: {problem.strerror or problem}") from problem


def parse(file: BinaryIO, source: str = "history") -> History:
    """The history in `file`. Raises HistoryError."""
    reader = Reader(source, unwrap=True)
    events = _Events()
    try:
        while lines := file.read(CHUNK_BYTES) + file.readline():
            _take(lines if lines.endswith(b"\n") else lines + b"\n", reader, events)
        reader.finish()
    except EdnError as problem:
        raise HistoryError(str(problem)) from problem
    except Malformed as problem:
        raise HistoryError(f"{source}:{reader.line}: {problem}") from problem
    return History(source=source, ops=events.finish(), faults=events.faults)


def _take(lines: bytes, reader: Reader, events: "_Events") -> None:
    """Whole lines: all at once where they are plain, else one by one, and with the general reader where nothing else
    will do."""
    rows = plain_rows(lines) if reader.between_forms else None
    if rows is not None:
        reader.begun = True
        for place, row in enumerate(rows):
            reader.line += 1
            if not events.take_row(row):
                _take_generally(lines.split(b"\n")[place] + b"\n", reader, events)
    elif lines.count(b"\n") > 1:
        for line in lines.split(b"\n")[:-1]:
            _take(line + b"\n", reader, events)
    else:
        reader.line += 1
        _take_generally(lines, reader, events)


def _take_generally(line: bytes, reader: Reader, events: "_Events") -> None:
    try:
        text = line.decode()
    except UnicodeDecodeError as problem:
        raise Malformed(f"not UTF-8 text: {problem.reason}") from problem
    for form in reader.feed(text):
        events.take(form)


def line(entry: Mapping[str, object]) -> str:
    """One line of a history, without its end: names as keys, in the order that is read fastest.

    `type` and `f` are plain names; micro-operations start with Keyword("send") or Keyword("poll").
    """
    ordered = {name: entry[name] for name in _KNOWN if name in entry} | dict(entry)
    for name in ("type", "f"):
        ordered[name] = Keyword(str(ordered[name]))
    return write({Keyword(name): value for name, value in ordered.items()})


Asked = tuple[int, str, int, int, object, Sends, Mapping[str, object]]
"""An invocation whose completion has not come yet: number, f, index, time, value, sends, extra."""


class _Events:
    """Pairs lines into operations."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._ops: list[Op] = []
        self._open: dict[int, Asked] = {}
        self._last = -1

    def take_row(self, row: Row) -> bool:
        """Takes a plain line; False if the general reader must."""
        index, time, kind, process, name, key, plain, offset, sent, several, others, extra = row
        f = _NAMES.get(name)
        if f is None or ((key or several) and f not in MICRO_OPS):
            return False
        value: object = None
        sends: Sends = ()
        reads: Reads = NO_READS
        if plain:
            sends = ((int(key), None, int(plain)),)
        elif sent:
            if kind == b"invoke":
                return False
            sends = ((int(key), None if offset == b"nil" else int(offset), int(sent)),)
        elif several:
            if several != b"[:poll]":
                taken = take_apart(several, invoked=kind == b"invoke")
                if taken is None:
                    return False
                sends, reads = taken
        elif others:
            value = integers(others)
            if f in MICRO_OPS:
                if value:
                    return False
                value = None
        self._event(
            int(index),
            int(time),
            _NAMES[kind],
            int(process),
            f,
            value,
            sends,
            reads,
            extra_of(extra) if extra else _NOTHING,
        )
        return True

    def take(self, form: object) -> None:
        """Takes what the general reader read."""
        if isinstance(form, Tagged):  # Jepsen's own records: #jepsen.history.Op{...}
            form = form.value
        if not isinstance(form, Map):
            raise Malformed(f"a history holds maps, not {write(form)[:60]}")
        fields = {_name(key): value for key, value in form.items()}
        kind, f = _name(fields.get("type")), _name(fields.get("f"))
        if kind not in _TYPES:
            raise Malformed(f":type is {write(fields.get('type'))}; it is one of :invoke, :ok, :info, :fail")
        if not f:
            raise Malformed("an operation without :f")
        index, time = _whole(fields, "index", self._last + 1), _whole(fields, "time", 0)
        value, process = fields.get("value"), fields.get("process")
        if process is None:
            raise Malformed("an operation without :process")
        if not isinstance(process, int):
            self._in_order(index)
            self.faults.append(Fault(index=index, time=time, process=_name(process), type=kind, f=f, value=value))
            return
        extra = {name: held for name, held in fields.items() if name not in _KNOWN} or _NOTHING
        sends: Sends = ()
        reads: Reads = NO_READS
        if f in MICRO_OPS and isinstance(value, tuple):
            sends, reads = micro_ops(value, invoked=kind == "invoke")
            value = None
        self._event(index, time, kind, process, f, value, sends, reads, extra)

    def finish(self) -> list[Op]:
        """Every operation; those that never completed are info."""
        for process, (number, f, index, time, value, sends, extra) in self._open.items():
            self._ops[number] = Op(number, process, "info", f, index, NEVER, time, time, value, sends, NO_READS, extra)
        self._open.clear()
        return self._ops

    def _in_order(self, index: int) -> None:
        if index <= self._last:
            raise Malformed(f":index {index} comes after {self._last}; a history's lines are in the order of :index")
        self._last = index

    def _event(
        self,
        index: int,
        time: int,
        kind: str,
        process: int,
        f: str,
        value: object,
        sends: Sends,
        reads: Reads,
        extra: Mapping[str, object],
    ) -> None:
        if index <= self._last:
            self._in_order(index)
        self._last = index
        if kind == "invoke":
            if process in self._open:
                since = self._open[process][2]
                raise Malformed(f"process {process} invokes {f} while its operation of :index {since} is open")
            self._open[process] = (len(self._ops), f, index, time, value, sends, extra)
            self._ops.append(_TO_COME)
            return
        asked = self._open.pop(process, None)
        if asked is None:
            asked = (len(self._ops), f, index, time, None, (), _NOTHING)
            self._ops.append(_TO_COME)
        number, asked_f, invoked, invoke_time, asked_value, asked_sends, asked_extra = asked
        if asked_f != f:
            raise Malformed(f"process {process} completes {f}, but it invoked {asked_f} at :index {invoked}")
        if asked_extra is not _NOTHING:
            extra = {**asked_extra, **extra}
        self._ops[number] = Op(
            number,
            process,
            kind,
            f,
            invoked,
            index,
            invoke_time,
            time,
            asked_value if value is None else value,
            sends or asked_sends,  # nil or cut short: what was asked for is all that is known
            reads,
            extra,
        )


_TO_COME = Op(-1, -1, "info", "", -1, NEVER, 0, 0)
"""Holds the place of an operation until it has completed."""


def _name(value: object) -> str:
    return value.name if isinstance(value, Keyword) else value if isinstance(value, str) else ""


def _whole(fields: Mapping[str, object], name: str, default: int) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f":{name} is {write(value)}; it is a whole number")
    return value

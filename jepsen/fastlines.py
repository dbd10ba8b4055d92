"""Lines of a history in their plainest form, many at once by one regular expression: ten times as fast as the general
reader.

Plain is the form that the harness and Jepsen write: `:index`, `:time`, `:type`, `:process`, `:f`, `:value` in this
order, with or without commas; integers for keys and values; then, perhaps, other keys with integers, keywords, strings
without escapes, `nil`, `true` or `false`. What is not plain is left to the general reader: this module never judges a
line, it only declines it.
"""

import re

import msgspec

from jepsen.edn import Keyword
from jepsen.microops import NO_READS, Reads, Send, Sends

_N = rb"-?\d{1,18}+"
_PAIRS = rb"(?:\[" + _N + rb" " + _N + rb"\](?: |(?=\])))*+"
_SEND = rb"\[:send " + _N + rb" (?:" + _N + rb"|\[(?:nil|" + _N + rb") " + _N + rb"\])\]"
_POLL = rb"\[:poll(?: \{(?:" + _N + rb" \[" + _PAIRS + rb"\][ ,]*+)*+\})?+\]"
_SCALAR = rb"(?:" + _N + rb"|:[a-z][a-z0-9-]*+|nil|true|false|\"[^\"\\\n]*+\")"

_LINE = re.compile(
    rb"^[ \t]*+\{:index (\d{1,18}+),? :time (" + _N + rb"),? :type :(invoke|ok|info|fail),? "
    rb":process (\d{1,9}+),? :f :([a-z-]++),? :value (?:"
    rb"\[\[:send (" + _N + rb") (?:(" + _N + rb")|\[(nil|" + _N + rb") (" + _N + rb")\])\]\]"
    rb"|\[((?:(?:" + _SEND + rb"|" + _POLL + rb")[ ,]*+)++)\]"
    rb"|(\[(?:" + _N + rb"[ ,]*+)*+\])"
    rb"|nil)((?:,? :[a-z?-]++ " + _SCALAR + rb")*+)\}[ \t,]*+\r?\n",
    re.MULTILINE,
)
_EXTRA = re.compile(rb":([a-z?-]+) (" + _SCALAR + rb")")
_SENDS = re.compile(_SEND)
_KEY = re.compile(rb"(" + _N + rb") \[(" + _PAIRS + rb")\]")
_SPACES = bytes.maketrans(b"[],", b"   ")
_COMMAS = bytes.maketrans(b" ", b",")
_integers = msgspec.json.Decoder(list[int]).decode

Row = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""index, time, type, process, f; key, value or offset and value of an only send; micro-operations; integers; the other
keys."""


def plain_rows(lines: bytes) -> list[Row] | None:
    """The fields of whole lines, each with its end; None if one of them is not plain."""
    rows: list[Row] = _LINE.findall(lines)
    return rows if len(rows) == lines.count(b"\n") else None


def take_apart(text: bytes, *, invoked: bool) -> tuple[Sends, Reads] | None:
    """Micro-operations; None for an invoked [:send key [a b]], whose value is a vector, and for what is not quite
    plain."""
    try:
        if b":send" not in text:
            return (), _reads(text)
        sends = _sends(b" ".join(_SENDS.findall(text)), invoked=invoked)
        return None if sends is None else (sends, _reads(text) if b":poll" in text else NO_READS)
    except msgspec.MsgspecError:
        return None


def _sends(text: bytes, *, invoked: bool) -> Sends | None:
    sends: list[Send] = []
    for part in text.translate(_SPACES).split(b":send")[1:]:
        numbers = part.split()
        if len(numbers) == 2:
            sends.append((int(numbers[0]), None, int(numbers[1])))
        elif invoked:
            return None
        else:
            key, offset, value = numbers
            sends.append((int(key), None if offset == b"nil" else int(offset), int(value)))
    return tuple(sends)


def _reads(text: bytes) -> Reads:
    """Of polls; a send in between looks like none: what follows its key is one pair, not a vector of pairs."""
    reads: dict[object, tuple[list[int | None], list[object]]] = {}
    for key, pairs in _KEY.findall(text):
        numbers = _integers(b"[" + pairs.translate(_COMMAS, b"[]") + b"]")
        offsets, values = reads.setdefault(int(key), ([], []))
        offsets += numbers[0::2]
        values += numbers[1::2]
    return tuple([(key, offsets, values) for key, (offsets, values) in reads.items()])


def integers(text: bytes) -> tuple[int, ...]:
    """`[1 2 3]`."""
    return tuple(map(int, text.translate(_SPACES).split()))


def extra_of(text: bytes) -> dict[str, object]:
    """The other keys of a line."""
    return {name.decode(): _scalar(value) for name, value in _EXTRA.findall(text)}


def _scalar(text: bytes) -> object:
    if text[:1] == b":":
        return Keyword(text[1:].decode())
    if text[:1] == b'"':
        return text[1:-1].decode()
    words: dict[bytes, object] = {b"nil": None, b"true": True, b"false": False}
    return words[text] if text in words else int(text)

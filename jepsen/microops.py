"""Micro-operations: what `send`, `poll` and `txn` carry in their `:value`.

[[:send 0 7] [:poll]]                                   as invoked
[[:send 0 [12 7]] [:poll {0 [[12 7] [13 8]] 1 [...]}]]  as completed: offset and value; the offset nil if unknown
"""

from jepsen.edn import Keyword, Symbol, write

Send = tuple[object, int | None, object]
Sends = tuple[Send, ...]
"""(key, offset or None, value), in the order sent."""

Reads = tuple[tuple[object, list[int | None], list[object]], ...]
"""(key, offsets, values): per key all that one operation read, in the order read; a key stands once."""

NO_READS: Reads = ()

NIL = Symbol("nil")
"""Stands for the value nil in sends and reads, where None means that there is none."""

_SEND, _POLL = Keyword("send"), Keyword("poll")


class Malformed(Exception):
    """A line is EDN, but not an operation."""


def micro_ops(value: tuple[object, ...], *, invoked: bool) -> tuple[Sends, Reads]:
    """Takes a `:value` apart. Raises Malformed."""
    sends: list[Send] = []
    reads: dict[object, tuple[list[int | None], list[object]]] = {}
    for one in value:
        match one:
            case (kind, key, sent) if kind is _SEND:
                offset, sent = _sent(sent, invoked=invoked)
                sends.append((key, offset, NIL if sent is None else sent))
            case (kind,) if kind is _POLL:
                pass
            case (kind, None) if kind is _POLL:
                pass
            case (kind, dict() as polled) if kind is _POLL:
                for key, pairs in polled.items():
                    offsets, values = reads.setdefault(key, ([], []))
                    _read(pairs, offsets, values)
            case _:
                raise Malformed(
                    f"{write(one)[:80]} is neither [:send key value] nor [:poll {{key [[offset value] ...]}}]"
                )
    return tuple(sends), tuple((key, offsets, values) for key, (offsets, values) in reads.items())


def _sent(sent: object, *, invoked: bool) -> tuple[int | None, object]:
    if invoked or not isinstance(sent, tuple):
        return None, sent
    if len(sent) == 2 and _is_offset(sent[0]):
        return sent
    raise Malformed(f"{write(sent)[:80]} is not [offset value]; the offset is a whole number, or nil if unknown")


def _read(pairs: object, offsets: list[int | None], values: list[object]) -> None:
    if not isinstance(pairs, tuple):
        raise Malformed(f"{write(pairs)[:80]} is not a vector of [offset value]")
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and _is_offset(pair[0])):
            raise Malformed(f"{write(pair)[:80]} is not [offset value]; the offset is a whole number")
        offsets.append(pair[0])
        values.append(NIL if pair[1] is None else pair[1])


def _is_offset(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))

"""EDN, the notation of histories: reading and writing.

    nil true 1 1.5 "text" :keyword symbol \\c #inst "..."     None True 1 1.5 "text" Keyword Symbol Char Tagged
    [1 2] (1 2)     a tuple          {:a 1}     a Map, which is a dict with a hash          #{1 2}     a frozenset

Everything read is hashable, so that anything may be a key or a value in a history. Comments, commas and `#_ form` are
skipped; tags are kept and not interpreted. Integers are as large as written; `1M` is a Decimal, `1/3` a Fraction.

The reader takes its text in pieces (`Reader.feed`), keeps no more than the form it is in, and never recurses: nesting
deeper than DEPTH_MAX is refused. Every refusal names file, line and column.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Self

DEPTH_MAX = 64
STRING_CHARACTERS_MAX = 256 * 1024
"""The longest string that goes over several pieces: one whose end is missing must not swallow the file."""


class EdnError(Exception):
    """The text is not EDN. Says where: `history.edn:12:7: ...`."""

    def __init__(self, source: str, line: int, column: int, problem: str) -> None:
        super().__init__(f"{source}:{line}:{column}: {problem}")
        self.source, self.line, self.column, self.problem = source, line, column, problem


class _Name:
    """A name that is equal to itself alone; made once, so that comparing and hashing cost nothing."""

    __slots__ = ("name",)
    name: str

    def __lt__(self, other: "_Name") -> bool:
        return self.name < other.name


class Keyword(_Name):
    """`:name`; `Keyword("name")` is always the same object."""

    __slots__ = ()
    _made: dict[str, "Keyword"] = {}  # noqa: RUF012 - one table for all of them is the point

    def __new__(cls, name: str) -> Self:
        found = cls._made.get(name)
        if found is None:
            found = super().__new__(cls)
            found.name = name
            cls._made[name] = found
        return found  # type: ignore[return-value] # the table holds what __new__ of this class made

    def __repr__(self) -> str:
        return f":{self.name}"


class Symbol(_Name):
    """`name`; `Symbol("name")` is always the same object."""

    __slots__ = ()
    _made: dict[str, "Symbol"] = {}  # noqa: RUF012 - one table for all of them is the point

    def __new__(cls, name: str) -> Self:
        found = cls._made.get(name)
        if found is None:
            found = super().__new__(cls)
            found.name = name
            cls._made[name] = found
        return found  # type: ignore[return-value] # the table holds what __new__ of this class made

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Char:
    """One character, `\\c` or `\\newline`."""

    character: str


@dataclass(frozen=True)
class Tagged:
    """`#tag form`."""

    tag: str
    value: object


class Map(dict[object, object]):
    """An EDN map: a dict that can be a key or a member of a set."""

    def __hash__(self) -> int:  # type: ignore[override] # nothing changes one after it has been read
        return hash(frozenset(self.items()))


# --- reading --------------------------------------------------------------------------------------------

_END = r"(?=[\s,\[\](){}\";]|$)"
_TOKEN = re.compile(
    r"[\s,]*(?:"
    rf"(?P<integer>[+-]?(?:0|[1-9][0-9]*)N?{_END})"
    r"|(?P<keyword>:[^\s,\[\](){}\";\\^`~@]+)"
    r"|(?P<open>[\[({])"
    r"|(?P<close>[\])}])"
    r"|(?P<string>\"[^\"\\]*(?:\\.[^\"\\]*)*\")"
    rf"|(?P<float>[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?M?{_END})"
    rf"|(?P<ratio>[+-]?[0-9]+/[1-9][0-9]*{_END})"
    r"|(?P<comment>;[^\n]*)"
    r"|(?P<set>\#\{)"
    r"|(?P<discard>\#_)"
    r"|(?P<special>\#\#(?:-?Inf|NaN))"
    r"|(?P<tag>\#:?[A-Za-z][^\s,\[\](){}\";\\^`~@#]*)"
    rf"|(?P<char>\\(?:newline|return|space|tab|formfeed|backspace|u[0-9a-fA-F]{{4}}|o[0-7]{{1,3}}|\S){_END})"
    r"|(?P<symbol>[A-Za-z.*+!?$%&=<>/_|-][^\s,\[\](){}\";\\^`~@]*)"
    r"|(?P<end>$)"
    r"|(?P<unreadable>.))",
    re.DOTALL,
)
_CLOSES = {"[": "]", "(": ")", "{": "}", "#{": "}"}
_CHARS = {"newline": "\n", "return": "\r", "space": " ", "tab": "\t", "formfeed": "\f", "backspace": "\b"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", '"': '"'}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_WORDS: dict[str, object] = {"nil": None, "true": True, "false": False}
_SPECIAL = {"##Inf": float("inf"), "##-Inf": float("-inf"), "##NaN": float("nan")}
_PREFIXES = ("#_", "#tag")


class _Frame:
    """A form that has begun: its opening, what is in it so far, and where it began.

    `members` is None for what collects none: `#_`, a tag, and the wrapper of all forms.
    """

    __slots__ = ("column", "line", "members", "opening", "tag")

    def __init__(self, opening: str, line: int, column: int, *, tag: str = "", collects: bool = True) -> None:
        self.opening, self.line, self.column, self.tag = opening, line, column, tag
        self.members: list[object] | None = [] if collects else None


class _Wrong(Exception):
    """Something in the token at hand is wrong; the reader adds where."""


class Reader:
    """Takes text line by line, gives back the forms that end in each. Who feeds it counts `line`.

    With `unwrap`, a vector or list that opens the text is only a wrapper: its members are given back one by one.
    """

    def __init__(self, source: str = "edn", *, unwrap: bool = False) -> None:
        self.source = source
        self._unwrap = unwrap
        self._base = 0  # 1 while inside the wrapper
        self._stack: list[_Frame] = []
        self.line = 0
        self._rest = ""
        self._done = False
        self.begun = False

    @property
    def between_forms(self) -> bool:
        """Nothing has begun that has not ended: what comes next is a form of its own."""
        return len(self._stack) == self._base and not self._rest and not self._done

    def feed(self, line: str) -> list[object]:
        """The forms that end in `line`, which ends with its line's end; what is unfinished waits for more. Raises
        EdnError."""
        forms: list[object] = []
        self._read(self._rest + line if self._rest else line, forms)
        return forms

    def finish(self) -> None:
        """Says that the text ends here; raises EdnError if a form has not."""
        if self._rest:
            raise EdnError(self.source, self.line, 1, "the file ends within a string")
        if self._stack:
            frame = self._stack[-1]
            what = f"{frame.tag or frame.opening} at line {frame.line}, column {frame.column}"
            raise EdnError(self.source, self.line, 1, f"the file ends, and {what} is not complete")

    def _read(self, text: str, forms: list[object]) -> None:
        self._rest = ""
        scalars = _SCALARS
        members = self._stack[-1].members if self._stack else None
        for found in _TOKEN.finditer(text):
            kind = found.lastgroup or ""
            try:
                if kind in scalars:
                    value = scalars[kind](found[kind])
                    if members is not None:
                        members.append(value)
                        continue
                    self._emit(value, forms)
                elif kind == "close":
                    self._close(found[kind], forms)
                elif kind == "unreadable":
                    self._unreadable(text, found.start(kind))
                    return
                elif kind not in ("end", "comment"):
                    self._open(kind, found[kind], found.start(kind) + 1)
            except _Wrong as wrong:
                raise EdnError(self.source, self.line, found.start(kind) + 1, str(wrong)) from None
            members = self._stack[-1].members if self._stack else None

    def _unreadable(self, text: str, position: int) -> None:
        if text[position] != '"' or len(text) - position > STRING_CHARACTERS_MAX:
            raise _Wrong(f"cannot read {re.split(r'[ ,]', text[position:].rstrip(), maxsplit=1)[0][:40]!r}")
        self._rest = text[position:]  # a string that goes on in the next line

    def _open(self, kind: str, token: str, column: int) -> None:
        if len(self._stack) >= DEPTH_MAX:
            raise _Wrong(f"forms nested deeper than {DEPTH_MAX}")
        if self._done:
            raise _Wrong(f"{token} stands behind the end of the vector that holds the history")
        wraps = self._unwrap and not self.begun and token in ("[", "(")
        self.begun = True
        if kind == "tag":
            frame = _Frame("#tag", self.line, column, tag=token, collects=False)
        else:
            frame = _Frame(token, self.line, column, collects=not wraps and kind != "discard")
        self._base += wraps
        self._stack.append(frame)

    def _close(self, token: str, forms: list[object]) -> None:
        if not self._stack:
            raise _Wrong(f"{token} closes nothing")
        frame = self._stack[-1]
        if frame.opening in _PREFIXES:
            raise _Wrong(f"{frame.tag or frame.opening} has no form behind it")
        if _CLOSES[frame.opening] != token:
            raise _Wrong(f"{token} where {frame.opening} from line {frame.line}, column {frame.column} is open")
        self._stack.pop()
        if self._base and not self._stack:
            self._base, self._done = 0, True
        else:
            self._emit(_collection(frame), forms)

    def _emit(self, value: object, forms: list[object]) -> None:
        stack = self._stack
        while len(stack) > self._base:
            frame = stack[-1]
            if frame.opening == "#_":
                stack.pop()
                return
            if frame.members is not None:
                frame.members.append(value)
                return
            stack.pop()
            value = Tagged(frame.tag[1:], value)
        if self._done:
            raise _Wrong(f"{write(value)[:40]} stands behind the end of the vector that holds the history")
        self.begun = True
        forms.append(value)


def _collection(frame: _Frame) -> object:
    items = frame.members or []
    if frame.opening in "[(":
        return tuple(items)
    if frame.opening == "#{":
        members = frozenset(items)
        if len(members) != len(items):
            raise _Wrong("a set holds the same form twice")
        return members
    if len(items) % 2:
        raise _Wrong(f"a map with {len(items)} forms: the last key has no value")
    made = Map(zip(items[::2], items[1::2], strict=True))
    if 2 * len(made) != len(items):
        raise _Wrong("a map holds the same key twice")
    return made


def _integer(token: str) -> int:
    if len(token) > 4000:
        raise _Wrong("an integer of more than 4000 digits")
    return int(token.removesuffix("N"))


def _number(token: str) -> object:
    if not token.endswith("M"):
        return float(token)
    try:
        return Decimal(token[:-1])
    except InvalidOperation as problem:
        raise _Wrong(f"{token} is not a number") from problem


def _string(token: str) -> str:
    body = token[1:-1]
    return _ESCAPE.sub(_unescape, body) if "\\" in body else body


def _unescape(found: re.Match[str]) -> str:
    code = found.group(1)
    if len(code) == 5:
        return chr(int(code[1:], 16))
    if code not in _ESCAPES:
        raise _Wrong(f"a string holds \\{code}, which means nothing")
    return _ESCAPES[code]


def _char(token: str) -> Char:
    name = token[1:]
    if name in _CHARS:
        return Char(_CHARS[name])
    if len(name) == 1:
        return Char(name)
    return Char(chr(int(name[1:], 16 if name[0] == "u" else 8)))


_SCALARS: dict[str, Callable[[str], object]] = {
    "integer": _integer,
    "float": _number,
    "ratio": Fraction,
    "keyword": lambda token: Keyword(token[1:]),
    "string": _string,
    "special": _SPECIAL.__getitem__,
    "char": _char,
    "symbol": lambda token: _WORDS[token] if token in _WORDS else Symbol(token),
}


def read_all(text: str, source: str = "edn") -> list[object]:
    """Every form of `text`. Raises EdnError."""
    reader = Reader(source)
    forms: list[object] = []
    for line in text.split("\n"):
        reader.line += 1
        forms += reader.feed(line + "\n")
    reader.finish()
    return forms


def read(text: str, source: str = "edn") -> object:
    """The one form of `text`. Raises EdnError."""
    forms = read_all(text, source)
    if len(forms) != 1:
        raise EdnError(source, 1, 1, f"{len(forms)} forms where one is expected")
    return forms[0]


# --- writing --------------------------------------------------------------------------------------------

_TO_ESCAPE = str.maketrans({value: f"\\{code}" for code, value in _ESCAPES.items()})
_CHAR_NAMES = {value: name for name, value in _CHARS.items()}


def write(value: object) -> str:
    """`value` as EDN on one line: dicts, lists, tuples, sets, strings, numbers, None, and this module's types.

    Raises TypeError for what EDN has no form for.
    """
    return "".join(_pieces(value))


def _pieces(value: object) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        yield {None: "nil", True: "true", False: "false"}[value]
    elif isinstance(value, dict):
        yield from _between("{", (piece for pair in value.items() for piece in pair), "}", pairs=True)
    elif isinstance(value, (list, tuple)):
        yield from _between("[", value, "]")
    elif isinstance(value, (set, frozenset)):
        yield from _between("#{", sorted(value, key=write), "}")
    elif isinstance(value, Tagged):
        yield f"#{value.tag} "
        yield from _pieces(value.value)
    else:
        yield _scalar(value)


def _between(opening: str, members: Iterable[object], closing: str, *, pairs: bool = False) -> Iterator[str]:
    yield opening
    for position, member in enumerate(members):
        if position:
            yield ", " if pairs and position % 2 == 0 else " "
        yield from _pieces(member)
    yield closing


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return f'"{value.translate(_TO_ESCAPE)}"'
    if isinstance(value, _Name):
        return repr(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return {"inf": "##Inf", "-inf": "##-Inf", "nan": "##NaN"}.get(repr(value), repr(value))
    if isinstance(value, Decimal):
        return f"{value}M"
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, Char):
        return "\\" + _CHAR_NAMES.get(value.character, value.character)
    raise TypeError(f"EDN has no form for a {type(value).__name__}")

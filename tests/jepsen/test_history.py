"""The model: lines paired into operations, the plain lines' quick way and the general one, and refusals."""

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen import history as history_module
from jepsen.edn import Keyword
from jepsen.fastlines import plain_rows
from jepsen.history import NEVER, History, HistoryError, Op, line, load, parse
from jepsen.microops import NIL
from jepsen.synthetic import Shape, events, lines
from tests.jepsen.judging import HISTORIES, history_of


def told(history: History) -> list[tuple[object, ...]]:
    """Everything a history says, in a form that can be compared."""
    return [tuple(getattr(op, name) for name in Op.__struct_fields__ if name != "extra") for op in history.ops] + [
        tuple(sorted(op.extra.items())) for op in history.ops
    ]


def generally(data: bytes, monkeypatch: pytest.MonkeyPatch) -> History:
    with monkeypatch.context() as patched:
        patched.setattr(history_module, "plain_rows", lambda lines: None)
        return parse(io.BytesIO(data))


def test_invocations_meet_their_completions() -> None:
    history = history_of("""
{:index 0 :time 10 :type :invoke :process 0 :f :txn :value [[:send 0 7] [:poll]] :node "n1"}
{:index 2 :time 20 :type :invoke :process 1 :f :send :value [[:send 0 8]]}
{:index 3 :time 25 :type :info :process :nemesis :f :kill :value ["n1"]}
{:index 4 :time 30 :type :ok :process 0 :f :txn :value [[:send 0 [12 7]] [:poll {0 [[3 1]] 1 []}] [:poll {0 [[4 2]]}]]}
{:index 5 :time 40 :type :info :process 1 :f :send :value nil :error :timeout}
{:index 6 :time 50 :type :invoke :process 5 :f :send :value [[:send 1 9]]}
""")
    first, second, third = history.ops
    assert (first.type, first.invoked, first.ended, first.invoke_time, first.time) == ("ok", 0, 4, 10, 30)
    assert first.sends == ((0, 12, 7),)
    assert first.reads == ((0, [3, 4], [1, 2]), (1, [], []))
    assert first.extra == {"node": "n1"}
    assert (second.type, second.sends) == ("info", ((0, None, 8),)), "what was asked is what may have happened"
    assert second.extra == {"error": Keyword("timeout")}
    assert (third.type, third.ended, third.sends) == ("info", NEVER, ((1, None, 9),))
    assert [op.number for op in history.ops] == [0, 1, 2]
    assert [(fault.index, fault.process, fault.f, fault.value) for fault in history.faults] == [
        (3, "nemesis", "kill", ("n1",))
    ]


def test_lines_may_lack_what_can_be_told_without() -> None:
    history = history_of("""{:type :ok :process 3 :f :poll :value [[:poll {:x [[0 :a]]}]]}
; and then
{:type :invoke, :f :write, :process 4,
 :value [x 1]}
""")
    polled, written = history.ops
    assert (polled.invoked, polled.ended) == (0, 0)
    assert polled.reads == ((Keyword("x"), [0], [Keyword("a")]),)
    assert (written.invoked, written.f, written.type) == (1, "write", "info")


@pytest.mark.parametrize("form", ["[{}]", "({})", "\n; a vector\n[\n{}\n]", "[{}\n] ; done\n"])
def test_a_history_may_be_one_vector(form: str) -> None:
    body = "\n".join(lines_of_one_operation())
    assert told(history_of(form.format(body))) == told(history_of(body))


def lines_of_one_operation() -> Iterator[str]:
    send = [Keyword("send"), 0, 7]
    yield line({"f": "send", "index": 0, "time": 5, "type": "invoke", "process": 0, "value": [send]})
    done = [Keyword("send"), 0, [12, 7]]
    yield line({"index": 1, "time": 6, "type": "ok", "process": 0, "f": "send", "value": [done], "error": None})


def test_what_is_written_is_plain() -> None:
    first, second = lines_of_one_operation()
    assert first == "{:index 0, :time 5, :type :invoke, :process 0, :f :send, :value [[:send 0 7]]}"
    assert plain_rows(f"{first}\n{second}\n".encode())
    (op,) = history_of(f"{first}\n{second}").ops
    assert (op.sends, op.extra) == (((0, 12, 7),), {"error": None})


def test_nil_as_a_value_is_a_value() -> None:
    (op,) = history_of("{:type :ok :process 0 :f :txn :value [[:send 0 [1 nil]] [:poll {0 [[1 nil]]}]]}").ops
    assert op.sends == ((0, 1, NIL),)
    assert op.reads == ((0, [1], [NIL]),)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_the_quick_way_reads_what_the_general_one_reads(seed: int, subscribe: bool) -> None:
    shape = Shape(operations=60, subscribe=subscribe, info=0.2, fail=0.2)
    data = b"".join(lines(events(shape, random.Random(seed))))
    with pytest.MonkeyPatch.context() as patched:
        assert told(parse(io.BytesIO(data))) == told(generally(data, patched))


@pytest.mark.parametrize(
    "value",
    [
        "[[:send 0 [1 2]]]",
        "[[:send 0 7] [:send 0 [nil 8]] [:poll]]",
        "[[:poll nil]]",
        "[[:poll {}]  [:poll {0 [[1 2],[3 4]],1 []}]]",
        "[[:poll {0 [[1  2]]}]]",
        "[[:poll {0 [[1 2][3 4]]1[]}]]",
        "[[:poll {0 [[1 2], [3 4] ]}][:poll]]",
        "[[:send 0 1][:send 0 2]]",
        "[[:poll {0 [[001 2]]}]]",
        "[[:poll {0 [[1 2] 3]}]]",
        "[[:poll {0 [[-1 -2]]}] [:send -3 -4]]",
        "[[:poll {0 [[1 12345678901234567890]]}]]",
        "[0 1 2]",
        "[]",
        "nil",
        "7",
        "[[:send 0 [1 2 3]]]",
        '[["send" 0 1]]',
    ],
)
@pytest.mark.parametrize("kind", ["invoke", "ok", "info"])
@pytest.mark.parametrize("f", ["send", "txn", "assign", "crash", "receive"])
def test_both_ways_agree_on_odd_values(value: str, kind: str, f: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{{:index 0 :time 1 :type :{kind} :process 0 :f :{f} :value {value} :error :late}}\n"

    def outcome(data: bytes, *, quick: bool) -> object:
        try:
            return told(parse(io.BytesIO(data)) if quick else generally(data, monkeypatch))
        except HistoryError as refused:
            return str(refused)

    assert outcome(text.encode(), quick=True) == outcome(text.encode(), quick=False)


@pytest.mark.parametrize("path", sorted(HISTORIES.glob("*.edn")), ids=lambda path: path.stem)
def test_both_ways_agree_on_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(load(path)) == told(generally(path.read_bytes(), monkeypatch))


NEWLINE = b"\n"
INVOKED = "{:index 0 :time 1 :type :invoke :process 0 :f :send :value [[:send 0 7]]}\n"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (INVOKED + INVOKED.replace(":index 0", ":index 1"), ":2:", "process 0 invokes send while its operation of :in"),
        (INVOKED + "{:index 0 :type :info :process :nemesis :f :kill}", ":2:", ":index 0 comes after 0"),
        (
            INVOKED + "{:index 1 :type :ok :process 0 :f :poll :value [[:poll]]}",
            ":2:",
            "completes poll, but it invoked",
        ),
        ("\n\n[{:type :ok", ":3:", "{ at line 3, column 2 is not complete"),
        (INVOKED + "[1]\n", ":2:", "holds maps, not [1]"),
        ("{:type :done :process 0 :f :send}", ":1:", ":type is :done"),
        ("{:type :ok :process 0}", ":1:", "without :f"),
        ("{:type :ok :f :send}", ":1:", "without :process"),
        ("{:type :ok :process 0 :f :send :index 1.5}", ":1:", ":index is 1.5"),
        ("{:type :ok :process 0 :f :send :value [[:sent 0 1]]}", ":1:", "[:sent 0 1] is neither [:send key value] nor"),
        ("{:type :ok :process 0 :f :poll :value [[:poll {0 [1]}]]}", ":1:", "1 is not [offset value]"),
        ("{:type :ok :process 0 :f :poll :value [[:poll {0 [[a 1]]}]]}", ":1:", "[a 1] is not [offset value]"),
        ("{:type :ok :process 0 :f :send :value [[:send 0 [a 1]]]}", ":1:", "[a 1] is not [offset value]"),
    ],
)
def test_refusals_say_where_and_why(text: str, where: str, what: str) -> None:
    with pytest.raises(HistoryError) as refused:
        history_of(text)
    assert str(refused.value).startswith(f"test{where}")
    assert what in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"missing\.edn"):
        load(tmp_path / "missing.edn")
    (tmp_path / "latin.edn").write_bytes(INVOKED.encode() + b'{:type :ok :process 0 :f :x :value "\xff"}\n')
    with pytest.raises(HistoryError, match=r"latin\.edn:2: not UTF-8"):
        load(tmp_path / "latin.edn")


def refusal_of(data: bytes) -> str:
    """What a history is refused with; empty if it is not."""
    try:
        parse(io.BytesIO(data))
    except HistoryError as refused:
        return str(refused)
    return ""


@given(st.binary(max_size=60) | st.text(alphabet='{}[]:typeokfsndpl 0"\n', max_size=60).map(str.encode))
def test_any_bytes_are_a_history_or_refused(data: bytes) -> None:
    assert refusal_of(data)[:8] in ("", "history:")


@settings(deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_a_history_that_was_cut_short_is_refused_within_a_line(seed: int, data: st.DataObject) -> None:
    whole = b"".join(lines(events(Shape(operations=20), random.Random(seed))))
    end = data.draw(st.integers(0, len(whole)))
    refused = refusal_of(whole[:end])
    if end == 0 or NEWLINE in whole[end - 1 : end + 1]:
        assert not refused
    else:
        assert refused.startswith(f"history:{whole.count(NEWLINE, 0, end) + 1}:")
